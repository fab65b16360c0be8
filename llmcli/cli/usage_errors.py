"""Usage errors: an unknown command before Typer is imported, the errors of its parser, and which word was meant."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcli.cli.help_texts import commands_below
from llmcli.errors import UsageError
from llmcli.params.param import range_text
from llmcli.text import did_you_mean, ellipsize, foreign_hint, nearest

# Commands of ollama, llm and others, and what to run instead. {model} is the next word, {text} all the next words.
_FOREIGN_COMMANDS = {
    name: hint
    for names, hint in {
        "run": 'use `llmcli chat -m {model}` to chat, or `llmcli generate -m {model} "…"` for one answer',
        "ls list": "use `llmcli models list`",
        "show info": "use `llmcli models show {model}`",
        "rm remove": "use `llmcli models rm {model}`",
        "search": "use `llmcli models search {model}`",
        "download install": "use `llmcli pull {model}`",
        "aliases": "use `llmcli models alias`",
        "logs history": "use `llmcli sessions list`",
        "ask prompt complete": "use `llmcli generate {text}`",
        "benchmark perf speed": "use `llmcli bench`",
        "embeddings embedding": "use `llmcli embed {text}`",
        "similar": "use `llmcli embed search QUERY STORE`",
        "similarity": "use `llmcli embed --similarity TEXT TEXT`",
        "duplicates dedupe": "use `llmcli embed duplicates STORE`",
        "perplexity ppl logprob": "use `llmcli score {text}`, or `llmcli score --file FILE`",
    }.items()
    for name in names.split()
}
# The same in a group, as in `llmcli models ls`.
_SUBCOMMANDS = {"ls": "list", "remove": "rm", "delete": "rm", "download": "pull", "info": "show", "mv": "rename"}
_TASKS = Path(__file__).parent.parent / "pipelines" / "built_in_tasks"
_TEXT_COMMANDS = ("chat", "generate", "compare")  # a prompt without quotes arrives as several arguments
_EXTRA_HINTS = {
    **dict.fromkeys(_TEXT_COMMANDS, "put a text of several words in quotes; "),
    "batch": "join several files, as in `cat a.txt b.txt | llmcli batch -`; ",
    "score": "score several texts with --lines; ",
}


def check_command(arguments: Sequence[str]) -> None:
    """Let only a known command or an option through. Raises UsageError with the command that is meant."""
    name, *rest = arguments
    if name in ("--install-completion", "--show-completion") and rest:
        hint = f"remove it: {name} is for the current shell"
        raise UsageError(f"unexpected extra argument '{ellipsize(rest[0])}'", hint)
    for word in rest if name in _TEXT_COMMANDS else ():
        if word in ("-cnv", "-no-cnv"):  # which the parser would read as -c nv and -n o-cnv
            raise UsageError(f"no such option '{word}'", foreign_hint(word))
    if name not in dict(commands_below("")) and not name.startswith("-"):
        raise UsageError(f"no such command {ellipsize(name, 60)!r}", _suggest_command(name, rest))


def _suggest_command(name: str, rest: Sequence[str]) -> str:
    words = [word for word in rest if not word.startswith("-")]
    if name in _FOREIGN_COMMANDS:
        model, text = (ellipsize(words[0], 60), _quoted(words)) if words else ("MODEL", '"…"')
        return _FOREIGN_COMMANDS[name].replace("{model}", model).replace("{text}", text)
    near = did_you_mean(name, dict(commands_below("")), cutoff=0.8 if words else 0.7) if name.isidentifier() else ""
    text = _quoted([name, *words])
    if name.isascii() and name.replace("-", "").isalpha() and (_TASKS / f"{name}.md").is_file():
        return f"use `llmcli generate --task {name} --file FILE` for the task, or `llmcli generate {text}` to ask"
    return near or f"use `llmcli generate {text}` to ask, or `llmcli chat {text}` to talk"


def _quoted(words: Sequence[str]) -> str:
    """The words in quotes for a shell; a long text is cut."""
    text = ellipsize(" ".join(words), 60)
    return f'"{text}"' if set(text).isdisjoint('"$`\\!') else shlex.quote(text)


def explain_usage_error(error: Any) -> tuple[str, str]:
    """The message and the hint for an error of Typer's parser, whose classes Typer does not export."""
    ctx: Any = getattr(error, "ctx", None)
    see = f"see `{ctx.command_path if ctx else 'llmcli'} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"no such option '{error.option_name}'", _option_hint(error.option_name, ctx, see)
    if kind == "BadOptionUsage":
        text = _plain(error.message)
        if error.option_name == "-c":  # which has another meaning in other programs
            return text, f"`-c N` is the context size; `llmcli chat -C` continues the last session; {see}"
        return text, see
    if kind == "BadParameter" and error.param is not None:
        return _invalid_value(error.param, error.message), see
    text = _plain(error.format_message())
    if ctx and "=" in (ctx.params.get("key") or ""):
        return text, f"put a space between name and value, no `=`; {see}"
    if text.startswith("got unexpected extra argument"):
        extra = text.partition(" (")[2].removesuffix(")")
        return f"unexpected extra argument '{extra}'", _extra_hint(ctx) + see
    if ctx and text.startswith("no such command"):  # of a group
        name, known = error.message.partition("'")[2].rpartition("'")[0], ctx.command.commands
        meant = _SUBCOMMANDS.get(name, "")
        near = f"did you mean '{meant}'?" if meant in known else did_you_mean(name, known)
        return f"no such command '{ctx.command_path.partition(' ')[2]} {name}'", f"{near} {see}".strip()
    return text, see


def _extra_hint(ctx: Any) -> str:
    """What is probably meant with more arguments than a command takes."""
    text = ctx.params.get("text") if ctx else None
    if text and os.path.isfile(text):
        if ctx.params.get("file"):  # `-f *.txt`
            return "give each file its own --file; "
        if ctx.info_name == "compare":
            return "to compare two texts, use `llmcli generate -T compare -f FILE --var other=@FILE`; "
    return _EXTRA_HINTS.get(ctx.info_name, "") if ctx else ""


def _option_hint(name: str, ctx: Any, see: str) -> str:
    from llmcli.params.settings import fields  # only after a mistake

    if ctx is None:
        return see
    options = (one for one in ctx.command.get_params(ctx) if one.param_type_name == "option" and not one.hidden)
    flags = [flag for option in options for flag in (*option.opts, *option.secondary_opts) if flag.startswith("--")]
    word = name.partition("=")[0]
    if ctx.parent is None:  # `llmcli -m x chat`: an option of a command must not become --version
        near = did_you_mean(word, flags, cutoff=0.85)
        return f"{near} {see}" if near else f"put options after the command, as in `llmcli chat {name} …`"
    # The names of other programs are aliases of settings.
    known = {"--" + name.replace("_", "-"): field.flags[0] for field in fields().values() for name in field.keys}
    known = {alias: flag for alias, flag in known.items() if flag in flags} | dict(zip(flags, flags, strict=True))
    names = nearest(word, known, 1)
    if foreign := foreign_hint(word):
        return f"{foreign}; {see}"
    return f"did you mean '{known[names[0]]}'? {see}" if names else see


def _invalid_value(parameter: Any, message: str) -> str:
    """The message for a value that does not fit a number range, a list of choices or a type."""
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.human_readable_name
    choices = getattr(parameter.type, "choices", ())
    if choices:
        rule = "one of " + ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    elif "integer" in message or "range" in message:
        low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
        rule = "a number" if "float" in str(parameter.type.name) else "an integer"
        if low is not None:
            rule += f" {'of ' if high is None else ''}{range_text(low, high, None)}"
    else:
        return f"{name}: {_plain(message)}"
    value = message.partition(" is not ")[0].strip("'")
    return f"{name} must be {rule}, got '{value}'"


def _plain(text: str) -> str:
    """One line, lower case at the beginning and no full stop at the end."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
