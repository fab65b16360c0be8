"""What is wrong with a command line that Typer refuses, and what to type instead."""

from collections.abc import Iterable
from typing import Any

# What `-c` and others mean in other programs; shown where the value is missing.
_MEANINGS = {"-c": "`-c N` is the context size; `llmcli chat -C` continues the last session"}
_TEXT_COMMANDS = ("chat", "generate", "compare")  # a prompt without quotes arrives as several arguments


def explain_usage_error(error: Any) -> tuple[str, str]:
    """The message and the hint for an error of Typer's parser."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "llmcli"
    see = f"see `{path} --help`"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return f"no such option '{error.option_name}'", _option_hint(error.option_name, ctx, see)
    if kind == "BadOptionUsage":
        meaning = _MEANINGS.get(error.option_name, "")
        return _plain(error.message), f"{meaning}; {see}" if meaning else see
    if kind == "BadParameter" and error.param is not None:
        return _invalid_value(error.param, error.message), see
    text = _plain(error.format_message())
    if text.startswith("got unexpected extra argument"):
        extra = text.partition(" (")[2].removesuffix(")")
        quote = "put a text of several words in quotes; " if ctx and ctx.info_name in _TEXT_COMMANDS else ""
        return f"unexpected extra argument '{extra}'", quote + see
    if text.startswith("no such command"):
        return _unknown_command(error, ctx, see)
    return text, see


def _option_hint(name: str, ctx: Any, see: str) -> str:
    if ctx is None:
        return see
    if ctx.parent is None:  # `llmcli -m x chat`
        near = nearest_option(name, _options(ctx), cutoff=0.85)
        return (
            f"did you mean '{near}'? {see}" if near else f"put options after the command, as in `llmcli chat {name} …`"
        )
    near = nearest_option(name, _options(ctx))
    return f"did you mean '{near}'? {see}" if near else see


def nearest_option(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known option that is nearest to a mistyped one; dashes and underscores are equal."""
    import difflib

    plain = {option.lstrip("-").replace("_", "-"): option for option in known if option.startswith("--")}
    word = name.partition("=")[0].lstrip("-").replace("_", "-").lower()
    if word in plain:
        return plain[word]
    beginning = [option for option in plain if option.startswith(word)] if len(word) > 1 else []
    near = difflib.get_close_matches(word, beginning or list(plain), n=1, cutoff=0.0 if beginning else cutoff)
    return plain[near[0]] if near else ""


def _invalid_value(parameter: Any, message: str) -> str:
    """The message for a value that does not fit a number range, a list of choices or a type."""
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.human_readable_name
    value, low, high = message.partition(" is not ")[0].strip("'"), *_range(parameter)
    choices = getattr(parameter.type, "choices", ())
    if choices:
        rule = "one of " + ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    elif "integer" in message or "range" in message:
        rule = f"an integer {_range_text(low, high)}".rstrip()
    else:
        return f"{name}: {_plain(message)}"
    return f"{name} must be {rule}, got '{value}'"


def _range(parameter: Any) -> tuple[Any, Any]:
    return getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)


def _range_text(low: Any, high: Any) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"of at least {low}" if low is not None else ""


def _unknown_command(error: Any, ctx: Any, see: str) -> tuple[str, str]:
    """Of a group, as in `llmcli models ls`."""
    from llmcli.text import did_you_mean

    name = error.message.partition("'")[2].rpartition("'")[0]
    habits = {"ls": "list", "remove": "rm", "delete": "rm", "download": "pull", "info": "show", "mv": "rename"}
    known = list(ctx.command.commands)
    meant = habits.get(name, "")
    near = f"did you mean '{meant}'?" if meant in known else did_you_mean(name, known)
    return f"no such command '{ctx.command_path.partition(' ')[2]} {name}'", f"{near} {see}".strip()


def _options(ctx: Any) -> Iterable[str]:
    for parameter in ctx.command.get_params(ctx):
        if parameter.param_type_name == "option" and not parameter.hidden:
            yield from (*parameter.opts, *parameter.secondary_opts)


def _plain(text: str) -> str:
    """One line, lower case at the beginning and no full stop at the end."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
