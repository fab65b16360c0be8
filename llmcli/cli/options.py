"""Options made from the declared settings: no option of a setting is written by hand."""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcli.errors import LlmcliError, UsageError
from llmcli.params.generation import InterfaceParams
from llmcli.params.param import Field, fields_of
from llmcli.params.settings import Layer, fields
from llmcli.text import sanitize
from llmcli.ui.terminal.console import console

_METAVARS = {int: "N", float: "X", str: "TEXT"}
_LONGEST_METAVAR = 24  # of a list of choices; a longer one is in the help
# The switches of every command: type, option and default.
_SWITCHES: dict[str, tuple[Any, Any]] = {
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")], False),
    "verbose": (
        Annotated[
            int,
            typer.Option(
                "--verbose",
                "-v",
                count=True,
                show_default=False,
                help="Show settings with their sources, model facts and timings; twice (-vv): also llama.cpp's log.",
            ),
        ],
        0,
    ),
    "debug": (Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")], False),
}


CHAT_ONLY = frozenset(fields_of(InterfaceParams))
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


def with_settings(only: Iterable[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command so that it gets `flags`, a Layer of the settings on the command line.

    Each setting (those in `only`, or all) becomes an option, and `--quiet`, `--verbose` and `--debug` are added.
    """
    keys = None if only is None else set(only)
    chosen = {key: field for key, field in fields().items() if keys is None or key in keys}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(**given: Any) -> Any:
            _set_console(given.pop("quiet"), given.pop("verbose"), given.pop("debug"))
            flags = {key: _parse(field, given.pop(key)) for key, field in chosen.items() if given.get(key) is not None}
            others = {name: value for name, value in given.items() if name not in chosen}
            return function(flags=Layer("flag", flags), **others)

        declared = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "flags"]
        generated = [_parameter(name, hint, default) for name, (hint, default) in _SWITCHES.items()]
        generated += [_parameter(key, _option(field), None) for key, field in chosen.items()]
        parameters = [*(p.replace(kind=p.KEYWORD_ONLY) for p in declared), *generated]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _set_console(quiet: bool, verbosity: int, debug: bool) -> None:
    console.quiet = quiet
    console.verbose, console.engine_log = verbosity > 0, verbosity > 1
    console.debug |= debug


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _option(field: Field) -> Any:
    """The Typer option of a setting; its default is None, so that "not given" is not the default."""
    details: dict[str, Any] = {
        "help": help_text(field),
        "rich_help_panel": field.group,
        "metavar": field.param.metavar or _metavar(field),
        "show_default": False,
    }
    if field.kind is bool:
        del details["metavar"]
        name = field.flags[0]
        return Annotated[bool | None, typer.Option(f"{name}/--no-{name[2:]}", *field.flags[1:], **details)]
    kind = list[str] if (field.repeated and field.param.flag != "") or _repeats(field) else str
    if has_completion(field):
        details["autocompletion"] = _completer(field)
    return Annotated[kind | None, typer.Option(*field.flags, **details)]


def _repeats(field: Field) -> bool:
    """Whether the flag is given once per item; the sampler list is one text instead."""
    return field.repeated and field.key != "samplers"


def _metavar(field: Field) -> str:
    return _short_choices(field) or _METAVARS.get(field.kind, "TEXT")


def _short_choices(field: Field) -> str:
    choices = "|".join(map(str, field.param.choices))
    return choices if len(choices) <= _LONGEST_METAVAR else ""


def help_text(field: Field) -> str:
    """The help of a setting: its sentence, then in brackets its unit, valid values and default."""
    param = field.param
    facts = [param.unit] if param.unit and param.unit not in param.help else []
    # Short choices are in the metavar; the largest seed helps nobody.
    if field.valid_values and not _short_choices(field) and (param.max or 0) < 2**31:
        facts.append(field.valid_values)
    default = field.format(field.default)
    if default not in ("", "none", "false"):
        facts.append(f"default {default}")
    return f"{param.help} [{', '.join(facts)}]" if facts else param.help


def _parse(field: Field, given: Any) -> Any:
    if isinstance(given, bool):
        return given
    try:
        return field.parse_texts(given) if isinstance(given, list) else field.parse_text(given)
    except UsageError as error:
        if field.key == "n_ctx" and not error.hint:  # in `llm`, -c continues the last conversation
            error.hint = "-c is the context size; `llmcli chat -C` continues the last session"
        raise


def has_completion(field: Field) -> bool:
    """Whether the values of a setting complete in the shell (files do so by the shell itself)."""
    return bool(field.param.choices or field.param.suggest) or field.key in ("samplers", "preset", "character")


def _completer(field: Field) -> Callable[[str], Any]:
    def complete(incomplete: str) -> list[str]:
        return [text for text in map(str, (*field.param.choices, *field.param.suggest)) if text.startswith(incomplete)]

    special: dict[str, Callable[[str], Any]] = {
        "model": complete_model,
        "samplers": _complete_list,
        "preset": _complete_preset,
        "character": complete_character,
    }
    return special.get(field.key, complete)


def _complete_list(incomplete: str) -> list[str]:
    """Sampler names, also after a comma."""
    from llmcli.params.sampler_chain import SAMPLER_NAMES

    head, comma, tail = incomplete.rpartition(",")
    used = set(head.split(","))
    return [head + comma + name for name in SAMPLER_NAMES if name.startswith(tail) and name not in used]


def _complete_preset(incomplete: str) -> list[tuple[str, str]]:
    from llmcli.config.presets import preset_purpose, presets

    try:
        return _safe_words(
            (name, preset_purpose(name, one)) for name, one in presets().items() if name.startswith(incomplete)
        )
    except (LlmcliError, OSError):
        return []


def complete_model(incomplete: str) -> list[str]:
    """The models on this machine, the aliases, and the .gguf files and folders that match."""
    return [*complete_reference(incomplete), *_complete_path(incomplete)]


def complete_reference(incomplete: str) -> list[str]:
    """The models on this machine and the aliases."""
    from llmcli.config.presets import resolve_settings
    from llmcli.models.installed import inventory
    from llmcli.models.locations import model_locations

    try:
        place = model_locations(resolve_settings(Layer("flag", {})))
        names = ["starter", *place.aliases, *(item.name for item in inventory(place) if item.source.name != "url")]
    except (LlmcliError, OSError):
        names = ["starter"]
    found = (name for name in dict.fromkeys(names) if name.startswith(incomplete))
    return [word for word, _ in _safe_words((name, "") for name in found)]


def complete_session(incomplete: str) -> list[tuple[str, str]]:
    """The sessions and their titles, the latest first."""
    from llmcli.chat.sessions.store import session_summaries

    return _safe_words((one.name, one.title) for one in session_summaries(incomplete))


def complete_character(incomplete: str) -> list[tuple[str, str]]:
    """The characters with their purposes, and the files and folders that match."""
    from llmcli.config.characters import SUFFIXES, character_purposes

    names = _safe_words(pair for pair in character_purposes().items() if pair[0].startswith(incomplete))
    return names + [(path, "") for path in _complete_path(incomplete, SUFFIXES)]


def complete_downloadable(incomplete: str) -> list[str]:
    """What can be downloaded: the names of the catalog, and the models on this machine."""
    from llmcli.models.catalog import CATALOG

    return [entry.name for entry in CATALOG if entry.name.startswith(incomplete)] + complete_reference(incomplete)


def _complete_path(incomplete: str, suffixes: Sequence[str] = (".gguf",)) -> list[str]:
    names: list[str] = []
    folder, _, start = incomplete.rpartition("/")
    try:
        entries = sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser().iterdir())
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~nobody
        return names
    prefix = incomplete[: len(incomplete) - len(start)]
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        if entry.is_dir():
            names.append(f"{prefix}{entry.name}/")
        elif entry.suffix in suffixes:
            names.append(prefix + entry.name)
    return [word for word, _ in _safe_words((name, "") for name in names)]


def _safe_words(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Words with their help that a shell can take: names, titles and purposes may come from strangers.

    zsh evaluates what Typer prints, where a backslash undoes its escapes: a word with one is omitted.
    """
    return [(sanitize(word), sanitize(text).replace("\\", "/")) for word, text in pairs if "\\" not in word]


def output_path(name: str, force: bool) -> Path:
    """The path of a file to write.

    Raises:
        UsageError: if it exists and must not be replaced.
    """
    path = Path(os.path.expanduser(name))
    if os.path.exists(path) and not force:
        raise UsageError(f"{path} already exists", "choose another name, or replace it with --force")
    return path


def argument_or_flag(argument: Any, flag: Any, name: str) -> Any:
    """The value of an argument that is also an option.

    Raises:
        UsageError: when both are given.
    """
    if argument is not None and flag is not None:
        raise UsageError(f"the {name} is given twice, as an argument and as an option", "remove one of them")
    return flag if argument is None else argument
