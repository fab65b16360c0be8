"""Settings."""

from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.chat.compose import grammar_text
from llmcli.chat.dialogue import settable
from llmcli.chat.excerpt import excerpt
from llmcli.chat.presets import NEVER, presets, remove_preset, save_preset
from llmcli.chat.presets import describe as describe_preset
from llmcli.errors import LlmcliError, UsageError
from llmcli.params.generation import GenerationParams
from llmcli.params.inert import inert
from llmcli.params.layers import Resolved
from llmcli.params.param import describe
from llmcli.params.samplers import plan
from llmcli.params.settings import SamplingParams, fields, find
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import command
from llmcli.ui.commands.seeing import spark
from llmcli.ui.console import console
from llmcli.ui.step_values import step_values

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat


@command("[KEY [VALUE]]", complete=complete.settings)
def set_(chat: "Chat", argument: str) -> None:
    """Set anything; alone, show every setting. The shorter /top_p 0.9 does the same as /set top_p 0.9."""
    name, _, text = argument.partition(" ")
    if not name:
        _table(chat, settable())
        return
    key = find(name).key
    if not text.strip():
        _tell(chat, key)
        return
    if key in ("model", "preset"):  # which have more to do
        {"model": model, "preset": preset}[key](chat, text.strip())
        return
    key, value = chat.dialogue.parse(name, text.strip())
    chat.dialogue.set(key, value)
    _tell(chat, key)


def _now(chat: "Chat", key: str) -> str:
    return fields()[key].format(getattr(chat.dialogue.settings, key))


def _tell(chat: "Chat", key: str) -> None:
    """Say what a setting is now, and whether that does anything."""
    resolved = chat.dialogue.resolved()
    reason = inert(resolved.settings, resolved.origins).get(key)
    origin = resolved.origins[key]
    where = {"session": "", "default": " (the default)"}.get(origin, f" (from {origin})")
    console.note(f"{key} = {_now(chat, key) or 'none'}{where}" + (f", without effect: {reason}" if reason else ""))
    if key in ("grammar", "grammar_file", "json_schema"):
        grammar_text(chat.dialogue.settings)  # says now what is wrong with it


@command("[POLICY]", complete=complete.values_of("temperature"))
def temp(chat: "Chat", argument: str) -> None:
    """Set the temperature: a number, a range, a policy.

    As in 0.8, 0.3..1.3 (by the entropy of each token) or sentence:1.1,0.7; alone, it is shown with the last answer's.
    """
    set_(chat, f"temperature {argument}")
    if not argument:
        for line in spark(chat).splitlines():
            chat.say(line)


@command("[N]", complete=complete.words("random"))
def seed(chat: "Chat", argument: str) -> None:
    """Set the seed, or draw a new one each time (`random`)."""
    set_(chat, f"seed {argument}")


@command("[KEY]", complete=lambda chat, start: [(key, "") for key in chat.session.overrides if key.startswith(start)])
def reset(chat: "Chat", argument: str) -> None:
    """Forget what was set here: one setting, or all."""
    gone = chat.dialogue.reset(find(argument).key if argument else None)
    console.note(f"back to what it was: {', '.join(gone)}" if gone else "nothing was set in this session")


@command("[all]", complete=complete.words("all"))
def params(chat: "Chat", argument: str) -> None:
    """Show settings: value, layer, and what does nothing. Those of sampling and generation, or `all`."""
    usual = {*describe(SamplingParams), *describe(GenerationParams)}
    _table(chat, [key for key in settable() if argument or key in usual])


def _table(chat: "Chat", keys: list[str]) -> None:
    """Value, layer, and below it the reason for a setting that does nothing."""
    resolved = chat.dialogue.resolved()
    idle = inert(resolved.settings, resolved.origins)
    rows = [(key, excerpt(_now(chat, key) or "none"), resolved.origins[key]) for key in keys]
    below = [f"inert: {idle[key]}" if key in idle else "" for key in keys]
    chat.rows(("KEY", "VALUE", "FROM"), rows, below=below)


@command("[NAME,…]", complete=complete.values_of("samplers"))
def samplers(chat: "Chat", argument: str) -> None:
    """Show or set the chain that draws each token. As in /samplers top_k,temperature; `default` is llama.cpp's."""
    if argument:
        set_(chat, f"samplers {argument}")
        return
    resolved = chat.dialogue.resolved()
    rows = [(str(n), name, values) for n, (name, values) in enumerate(_chain(resolved), 1)]
    chat.rows(("", "STEP", "VALUES"), rows, right=("",))
    for key, reason in inert(resolved.settings, resolved.origins).items():
        console.note(f"{key} (from {resolved.origins[key]}) does nothing: {reason}")


def _chain(resolved: Resolved) -> list[tuple[str, str]]:
    settings = resolved.settings
    drawn = settings if settings.seed is not None else replace(settings, seed=0)
    steps: list[tuple[str, str]] = []
    if settings.grammar or settings.grammar_file or settings.json_schema:
        steps.append(("grammar", "refuses what does not fit"))
    if settings.logit_bias or settings.ignore_eos:
        steps.append(("logit_bias", fields()["logit_bias"].format(settings.logit_bias)))
    for step in plan(drawn):
        steps.append((step.name, step_values(settings, step.name)))
    return [(name, values.strip()) for name, values in steps]


@command("[REF]", complete=complete.models)
def model(chat: "Chat", argument: str) -> None:
    """Show the model, or switch and keep the conversation."""
    dialogue = chat.dialogue
    if not argument:
        local = dialogue.local
        chat.say(f"{local.name}, context {local.n_ctx} tokens" if local else f"{dialogue.settings.model}, loading")
        return
    key, value = dialogue.parse("model", argument)
    before = chat.session.overrides.get("model")
    chat.bring(replace(dialogue.settings, model=value))
    dialogue.set(key, value)
    try:
        local = chat.ready()
    except LlmcliError:
        if before is None:
            dialogue.reset("model")
        else:
            dialogue.set("model", before)
        raise
    if local:
        console.note(f"this is {local.name} now, context {local.n_ctx} tokens")


@command("[NAME]", complete=lambda _chat, start: _presets(start))
def preset(chat: "Chat", argument: str) -> None:
    """Take a preset's settings, or keep yours as one.

    `save NAME` keeps them in the configuration file, `rm NAME` takes one out, `list` shows all.
    """
    word, _, name = argument.partition(" ")
    if word == "save":
        if not name.strip():
            raise UsageError("/preset save needs a name", "as in /preset save dialogue")
        chosen = presets().get(chat.session.overrides.get("preset") or "", {})
        own = {key: value for key, value in chat.session.overrides.items() if key not in ("model", *NEVER)}
        values = {**chosen, **own}
        if not values:
            raise UsageError("nothing was set in this session", "set something first, as in /temp 1.2")
        path = save_preset(name.strip(), values)
        console.note(f"kept as preset {name.strip()} in {path}: {describe_preset(values)}")
    elif word == "rm" and name.strip():
        remove_preset(name.strip())
        if chat.session.overrides.get("preset") == name.strip():
            chat.dialogue.reset("preset")
        console.note(f"{name.strip()} is no preset of yours any more")
    elif word in ("", "list"):
        now = chat.dialogue.settings.preset
        rows = [(one + ("*" if one == now else ""), describe_preset(values)) for one, values in presets().items()]
        chat.rows(("PRESET", "SETTINGS"), rows)
    else:
        chat.dialogue.set("preset", None if word == "none" else argument)
        console.note("no preset" if word == "none" else f"{word}: {describe_preset(presets()[word])}")


def _presets(start: str) -> list[tuple[str, str]]:
    known = [(name, describe_preset(values)) for name, values in presets().items()]
    return [
        (name, note)
        for name, note in [*known, ("save ", ""), ("rm ", ""), ("list", ""), ("none", "")]
        if name.startswith(start)
    ]


@command("[on|off|hide]", complete=complete.words("on", "off", "hide"))
def think(chat: "Chat", argument: str) -> None:
    """Reasoning: folded (on), hidden (hide), none (off). Alone, the last one is unfolded."""
    if argument not in ("", "on", "off", "hide", "show"):
        raise UsageError(f"/think takes on, off or hide, got {argument!r}")
    if argument:
        set_(chat, f"think {'show' if argument == 'on' else argument}")
        return
    reasoning = next((message.reasoning for message in reversed(chat.path()) if message.reasoning), "")
    chat.say(reasoning or f"no answer here has reasoning; think = {_now(chat, 'think')}", "2")


@command("on|off|SCHEMA", complete=complete.words("on", "off"))
def json(chat: "Chat", argument: str) -> None:
    """Answer in JSON, to a schema if given; off ends it. The schema stands here or in a file."""
    if not argument:
        _tell(chat, "json_schema")
        return
    value = {"on": '{"type": "object"}', "off": None}.get(argument, argument)
    if value:
        notes: list[str] = []
        grammar_text(replace(chat.dialogue.settings, json_schema=value, grammar=None, grammar_file=None), notes)
        for note in notes:
            console.warn(note)
    chat.dialogue.set("json_schema", value)
    console.note("answers are free again" if value is None else "answers are JSON from now on")
