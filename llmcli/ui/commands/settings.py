"""Commands that show and change settings."""

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.chat.controller import RELOAD_KEYS, chat_setting_keys
from llmcli.config.characters import character_purposes, load_character
from llmcli.config.presets import NOT_IN_PRESETS, describe_preset, preset_purpose, presets, remove_preset, save_preset
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import config_dir, read_text
from llmcli.inference.constraints import CONSTRAINT_KEYS, read_constraint
from llmcli.inference.request import system_text
from llmcli.params.generation import GenerationParams
from llmcli.params.param import fields_of
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.policies.user_functions import load_function
from llmcli.params.sampler_chain import SamplingParams, build_chain
from llmcli.params.settings import fields, find, format_setting, ineffective_settings
from llmcli.text import ellipsize
from llmcli.ui.charts.heatmap import sparkline
from llmcli.ui.charts.trace_table import step_values
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import command, commands, complete_pair, matching
from llmcli.ui.markdown.theme import ground_of
from llmcli.ui.terminal.console import console, edit
from llmcli.ui.terminal.output import print_definitions, print_rows, warn_ineffective

if TYPE_CHECKING:
    from llmcli.inference.engine import Engine

_SEPARATOR = re.compile(r"=|\s+=\s+|\s+")
_HIGHEST = 2.0  # a temperature above it is most likely a mistake


@command("stop [TEXT]", "/stop", "/stop The end", "/stop none")
def stop(chat: ChatApp, argument: str) -> None:
    """Set a stop string, at which answers end.

    `none` removes all of them. Ctrl-C stops the answer that the model is writing.
    """
    if argument:
        set_(chat, f"stop {argument}")
        return
    texts = chat.controller.settings.stop
    chat.say("Ctrl-C stops an answer" + (f"; answers also stop at {', '.join(map(repr, texts))}" if texts else ""))


@command("system [TEXT|@FILE|edit|none]", "/system Answer in one sentence.", "/system @reviewer.txt", "/system none")
def system(chat: ChatApp, argument: str) -> None:
    """Show or set the system prompt. From TEXT, from a file (@FILE) or in your editor (edit). `none` removes it."""
    current = system_text(chat.controller.settings) or ""
    if not argument:
        chat.say(current or "no system prompt")
        return
    if argument == "edit":
        argument = edit(current).strip()
    elif argument.startswith("@"):
        argument = read_text(argument[1:].strip(), chat.controller.settings.encoding).rstrip("\n")
    elif re.fullmatch('"[^"]+"', argument):
        argument = argument[1:-1]
    removed = argument in ("none", "")
    chat.controller.set("system", None if removed else argument)
    console.note("system prompt removed" if removed else "system prompt changed")


@command("set [KEY [VALUE]]", "/set", "/set top_p 0.9", "/set repeat_penalty 1.1", complete=complete_pair)
def set_(chat: ChatApp, argument: str) -> None:
    """Show or change any setting. Alone it lists all of them. /top_p 0.9 is short for /set top_p 0.9."""
    name, text = split_pair(argument)
    if not name:
        _print_settings(chat, chat_setting_keys())
        return
    key = find(name).key
    if not text.strip():
        _print_setting(chat, key)
        return
    if key in ("model", "preset"):  # which have more to do
        commands()[key].run(chat, text.strip())
        return
    key, value = chat.controller.parse(key, text.strip())
    if key == "theme":
        ground_of(value)  # raises an error for an unknown one
    if key == "temp_policy_file" and value:
        file, _, function = value.rpartition(":")
        load_function(file, function)  # raises an error for a file or a function that does not exist
    if key in CONSTRAINT_KEYS and value is not None:
        read_constraint(replace(chat.controller.settings, **{key: value}), console.note)  # raises if it is not valid
    chat.controller.set(key, value)
    _print_setting(chat, key)
    highest = value.value if isinstance(value, Fixed) else value.high if isinstance(value, Entropy) else 0.0
    if key == "temperature" and highest > _HIGHEST:
        console.warn(f"at temperature {highest:g} answers are mostly nonsense", "try 0.8 (usual) or 1.2 (bold)")
    if key in RELOAD_KEYS and chat.controller.needs_reload:
        console.note("the model is loaded again with the next answer")


def split_pair(text: str) -> tuple[str, str]:
    """The key and the value of `key value`, `key=value` or `key = value`."""
    key, *value = _SEPARATOR.split(text, maxsplit=1)
    return key, "".join(value)


def _print_setting(chat: ChatApp, key: str) -> None:
    resolved = chat.controller.resolved()
    settings, origin = resolved.settings, resolved.origins[key]
    source = {"session": "", "default": " (default)"}.get(origin, f" (from {origin})")
    reason = ineffective_settings(settings, resolved.origins).get(key)
    console.note(f"{key} = {format_setting(settings, key)}{source}" + (f" (no effect: {reason})" if reason else ""))


@command("temp [POLICY]", "/temp 1.2", "/temp 0.3..1.3", "/temp sentence:1.1,0.7", aliases=("temperature",))
def temp(chat: ChatApp, argument: str) -> None:
    """Set the temperature: how freely tokens are sampled.

    0 strict, 0.8 usual, 1.2 bold; above 1.5 mostly nonsense. A policy changes it from token to token: 0.3..1.3
    follows the entropy, sentence:1.1,0.7 the number of the sentence. Alone it shows the temperatures of the last
    answer.
    """
    if re.fullmatch(r"[+-]\d*\.?\d+", argument):
        policy = chat.controller.settings.temperature
        if not isinstance(policy, Fixed):
            raise UsageError(f"a step needs a fixed temperature, and this is {policy}", "set a number first: /temp 0.8")
        argument = f"{max(policy.value + float(argument), 0.0):.4g}"
    set_(chat, f"temperature {argument}")
    values = [one.temperature for one in chat.turn.answer.traces if one.id is not None] if chat.turn else []
    known = [value for value in values if value is not None]
    if argument or not known:
        return
    low, high = min(known), max(known)
    same = f"{low:.2f} throughout"
    span = same if high - low < 0.005 else f"{low:.2f}..{high:.2f}, mean {sum(known) / len(known):.2f}"
    room = min(shutil.get_terminal_size().columns - 1, 60) if chat.live else 60
    chat.say(sparkline(values, min(room, len(values))))
    chat.say(f"last answer: {span}")


@command("seed [N|random]", "/seed", "/seed 42", "/seed random")
def seed(chat: ChatApp, argument: str) -> None:
    """Set the seed, or use a random one each time. The same seed, settings and messages give the same answer."""
    set_(chat, f"seed {argument}")


def _changed(chat: ChatApp, start: str) -> list[tuple[str, str]]:
    return matching(((key, "") for key in chat.session.overrides), start)


@command("reset [KEY]", "/reset temperature", "/reset top_p", "/reset", complete=_changed)
def reset(chat: ChatApp, argument: str) -> None:
    """Undo the changes of one setting, or of all.

    A setting returns to the value that it had before this session changed it.
    """
    removed = chat.controller.reset(find(argument).key if argument else None)
    console.note(f"reset: {', '.join(removed)}" if removed else "no setting was changed in this session")


@command("params [all|WORD]", "/params", "/params all", "/params penalty", "/temp 1.2, then /params")
def params(chat: ChatApp, argument: str) -> None:
    """Show the sampling settings and their origin.

    Each row has the value, the layer that it comes from, and the reason if it has no effect. `all` adds the other
    settings, a word shows those with it in their names.
    """
    usual, word = {*fields_of(SamplingParams), *fields_of(GenerationParams)}, argument.replace("-", "_")
    every = chat_setting_keys()
    keys = [key for key in every if word == "all" or (word in key if word else key in usual)]
    if not keys:
        raise UsageError(f"no setting has '{argument}' in its name", "see /params all")
    _print_settings(chat, keys)


def _print_settings(chat: ChatApp, keys: list[str]) -> None:
    resolved = chat.controller.resolved()
    idle = ineffective_settings(resolved.settings, resolved.origins)
    of_server = [key for key in keys if chat.controller.is_of_server(key)]
    values = {key: "-" if key in of_server else ellipsize(format_setting(resolved.settings, key)) for key in keys}
    rows = [(key, values[key], "server" if key in of_server else resolved.origins[key]) for key in keys]
    below = [f"no effect: {idle[key]}" if key in idle else "" for key in keys]
    print_rows(("KEY", "VALUE", "FROM"), rows, below=below)


@command("samplers [NAME,…]", "/samplers", "/samplers top_k,temperature", "/samplers default")
def samplers(chat: ChatApp, argument: str) -> None:
    """Show or set the sampler chain.

    Samplers apply in this order; omitted samplers are off. `default` is llama.cpp's chain.
    """
    if argument:
        set_(chat, f"samplers {argument}")
        return
    if chat.controller.is_of_server("samplers"):
        raise UsageError("the server does not tell its samplers", "show the settings that are known with /params")
    resolved, steps = chat.controller.resolved(), []
    settings = resolved.settings
    if given := [key for key in CONSTRAINT_KEYS if getattr(settings, key) is not None]:
        steps.append(("constraint", f"{given[0]}: removes tokens that do not match"))
    if settings.logit_bias or settings.ignore_eos:
        steps.append(("logit_bias", fields()["logit_bias"].format(settings.logit_bias)))
    seeded = settings if settings.seed is not None else replace(settings, seed=0)
    steps += [(step.name, step_values(settings, step.name).strip()) for step in build_chain(seeded)]
    rows = [(str(number), name, values) for number, (name, values) in enumerate(steps, 1)]
    print_rows(("", "STEP", "VALUES"), rows, right=("",))
    warn_ineffective(resolved)


@command("model [REF]", "/model", "/model starter", "/model ./my-model.gguf")
def model(chat: ChatApp, argument: str) -> None:
    """Show or switch the model. The conversation stays. `llmcli models list` lists the downloaded models."""
    controller = chat.controller
    if not argument:
        if engine := controller.engine:
            chat.say(_describe(engine))
        else:
            loading = controller.loading
            state = "not loaded" if not loading else "cannot be loaded" if loading.error else "loading"
            chat.say(f"model: {controller.settings.asked} ({state})")
        return
    key, value = controller.parse("model", argument)
    before = chat.session.overrides.get("model")
    chat.ensure_model(replace(controller.settings, model=value, given={**controller.settings.given, key: "session"}))
    controller.set(key, value)
    try:
        engine = chat.wait_for_model()
    except LlmcliError:
        if before is None:
            controller.reset("model")
        else:
            controller.set("model", before)
        raise
    if engine:
        console.note(_describe(engine))


def _describe(engine: "Engine") -> str:
    return f"model: {engine.name}" + (f", context: {engine.n_ctx} tokens" if engine.n_ctx else "")


@command("think [on|off|hide]", "/think", "/think hide", "/think off")
def think(chat: ChatApp, argument: str) -> None:
    """Turn the model's reasoning on or off, or hide it.

    `on` asks for it and folds it, `hide` asks for it and hides it, `off` asks the model not to reason. Alone it shows
    the last reasoning.
    """
    if argument not in ("", "on", "off", "hide", "show"):
        raise UsageError(f"/think must be on, off or hide, got '{argument}'")
    if argument:
        set_(chat, f"think {'show' if argument == 'on' else argument}")
        return
    reasoning = next((message.reasoning for message in reversed(chat.path()) if message.reasoning), "")
    chat.say(reasoning or f"no answer has reasoning (think = {chat.controller.settings.think})", "2")


@command("json [on|off|SCHEMA]", "/json name: str, age: int", '/json {"type": "array"}', "/json off")
def json(chat: ChatApp, argument: str) -> None:
    """Make the model answer in JSON.

    SCHEMA is a JSON schema, a file with one, or short, as in name: str, age: int; answers then match it. `on` allows
    any JSON object, `off` any text again.
    """
    if not argument:
        _print_setting(chat, "json_schema")
        return
    value = {"on": '{"type": "object"}', "off": None}.get(argument, argument)
    if value:
        read_constraint(replace(chat.controller.settings, json_schema=value), console.note)
    chat.controller.set("json_schema", value)
    console.note("JSON output is off" if value is None else "JSON output is on")


def _preset_words(_chat: ChatApp, start: str) -> list[tuple[str, str]]:
    known = [(name, preset_purpose(name, values)) for name, values in presets().items()]
    return matching([*known, ("save ", ""), ("rm ", ""), ("list", ""), ("none", "")], start)


@command(
    "preset [NAME|none|save NAME|rm NAME]", "/preset", "/preset creative", "/preset save mine", complete=_preset_words
)
def preset(chat: ChatApp, argument: str) -> None:
    """List presets, or use one.

    `none` stops using one. `save NAME` saves the settings of this session as a preset in the configuration file,
    `rm NAME` deletes a preset of yours.
    """
    word, _, name = argument.partition(" ")
    name = name.strip()
    if word in ("", "list"):
        current = chat.controller.settings.preset
        marked = [(f"{key}*" if key == current else key, preset_purpose(key, one)) for key, one in presets().items()]
        print_definitions(marked)
    elif word == "save":
        if not name:
            raise UsageError("/preset save needs a name", "try /preset save mine")
        chosen = presets().get(chat.session.overrides.get("preset") or "", {})
        own = {key: value for key, value in chat.session.overrides.items() if key not in ("model", *NOT_IN_PRESETS)}
        values = {**chosen, **own}
        if not values:
            raise UsageError("no setting was changed in this session", "change one first, for example /temp 1.2")
        console.note(f"saved preset {name} in {save_preset(name, values)}: {describe_preset(values)}")
    elif word == "rm" and name:
        remove_preset(name)
        if chat.session.overrides.get("preset") == name:
            chat.controller.reset("preset")
        console.note(f"deleted preset {name}")
    else:
        chat.controller.set("preset", None if word == "none" else argument)
        console.note("no preset" if word == "none" else f"preset {word}: {describe_preset(presets()[word])}")


@command(
    "character [NAME|FILE|none]",
    "/character",
    "/character pirate",
    "/character none",
    aliases=("characters",),
    complete=lambda _chat, start: matching([*character_purposes().items(), ("none", "no character")], start),
)
def character(chat: ChatApp, argument: str) -> None:
    """List characters, or chat with one.

    A character has a system prompt, a greeting and settings. Alone it lists them. `none` removes it. Yours are
    files in the folder `characters` of the configuration, or any FILE.
    """
    if argument in ("", "list"):
        print_rows(("CHARACTER", "PURPOSE"), list(character_purposes().items()))
        current = chat.session.character
        console.note(f"character: {current}; /character none removes it" if current else "no character is in use")
        console.note(f"add your own in {config_dir() / 'characters'}, for example NAME.toml")
        return
    chosen = None if argument in ("none", "off") else load_character(argument)
    if chosen and "model" in chosen.settings:
        chat.ensure_model(replace(chat.controller.settings, model=chosen.settings["model"]))
    greeting = chat.controller.use_character(chosen)
    settings = f" ({describe_preset(chosen.settings)})" if chosen and chosen.settings else ""
    console.note(f"character: {chosen.name}{settings}" if chosen else "no character")
    if greeting:
        chat.render(greeting)
        chat.say("")
