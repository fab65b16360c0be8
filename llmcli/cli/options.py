"""Options made from the declared settings (no option of a setting is written by hand), and what commands share."""

import inspect
import os
import re
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from llmcli.cli.command_line import Option
from llmcli.cli.completion import completer
from llmcli.errors import ExitStatus, UsageError
from llmcli.params.decision import DecisionParams
from llmcli.params.generation import InterfaceParams
from llmcli.params.param import Field, fields_of
from llmcli.params.result import ResultParams
from llmcli.params.settings import Layer, Settings, fields
from llmcli.ui.terminal.console import console

_METAVARS = {int: "N", float: "X"}
CHAT_ONLY = frozenset(fields_of(InterfaceParams))
DECISION = frozenset(fields_of(DecisionParams))
RESULT = frozenset(fields_of(ResultParams))
Json = Annotated[bool, Option("--json", help="Print JSON.")]
Force = Annotated[bool, Option("--force", help="Replace an existing file.")]
Parallel = Annotated[
    str, Option("--parallel", metavar="N|auto", help="Number of answers at a time; auto = the fastest.")
]
_MAX_PARALLEL = 256  # llama.cpp, LLAMA_MAX_SEQ


def _set_console(
    quiet: Annotated[bool, Option("--quiet", "-q", help="Show errors only.")] = False,
    verbose: Annotated[
        int,
        Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Show settings with their sources, model facts and timings; twice (-vv): also llama.cpp's log.",
        ),
    ] = 0,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Apply the switches that every command has."""
    console.quiet = quiet
    console.verbose, console.engine_log = verbose > 0, verbose > 1
    console.debug |= debug


def with_settings(
    only: Container[str], lists: Container[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command so that it gets `flags`, a Layer of the settings on the command line.

    Each setting in `only` becomes an option, and `--quiet`, `--verbose` and `--debug` are added. The option of a
    setting in `lists` can be repeated: its value is one text, with commas.
    """
    chosen = {key: field for key, field in fields().items() if key in only}
    switches = inspect.signature(_set_console, eval_str=True).parameters

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def command(**given: Any) -> Any:
            _set_console(**{name: given.pop(name) for name in switches})
            values = {key: given.pop(key) for key in chosen}
            values |= {key: ",".join(values[key]) for key in chosen if key in lists and values[key]}
            flags = {key: parse_flag(chosen[key], value) for key, value in values.items() if value is not None}
            return function(flags=Layer("flag", flags), **given)

        declared = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "flags"]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*declared, *switches.values())]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters += [
            inspect.Parameter(key, kind, annotation=_option(one, key in lists), default=None)
            for key, one in chosen.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def parse_flag(field: Field, given: Any) -> Any:
    """The value of an option. Raises UsageError with a hint if it is not valid."""
    if isinstance(given, bool):
        return given
    try:
        return field.parse_texts(given) if isinstance(given, list) else field.parse_text(given)
    except UsageError as error:
        if "," in given and not field.repeated:
            error.hint = _vary_hint(field, given) or error.hint
        if field.key == "n_ctx" and not error.hint:  # in `llm`, -c continues the last conversation
            error.hint = "-c is the context size; `llmcli chat -C` continues the last session"
        if field.key == "n_threads" and "." in given and not error.hint:
            error.hint = "-t is the number of threads; for the temperature, use --temp"
        raise


def _vary_hint(field: Field, given: str) -> str:
    """The hint for a flag such as `--temp 0.2,1.4`; empty where it is not a list of values to compare."""
    from llmcli.inference.benchmark import cases_of  # loads the engine: only after a mistake
    from llmcli.inference.comparison import variants_of

    name = min((flag for flag in field.flags if flag.startswith("--")), key=len)[2:]
    vary = f"--vary {name}={given}"
    with suppress(UsageError):
        variants_of([f"{name}={given}"], 0)
        return f"to compare several values, use `llmcli compare {vary}`"
    with suppress(UsageError):
        cases_of(Settings(), [f"{name}={given}"])
        return f"to measure several values, use `llmcli bench {vary}`"
    return ""


def _option(field: Field, is_list: bool = False) -> Any:
    """The Typer option of a setting; its default is None, so that "not given" is not the default."""
    details: dict[str, Any] = {"help": help_text(field), "rich_help_panel": field.group, "show_default": False}
    if field.kind is bool:
        name = field.flags[0]
        return Annotated[bool | None, Option(f"{name}/--no-{name[2:]}", *field.flags[1:], **details)]
    details["metavar"] = field.metavar or _short_choices(field) or _METAVARS.get(field.kind, "TEXT")
    is_list |= field.repeated and field.key != "samplers"  # samplers are one text, with commas
    kind = list[str] if is_list else str
    return Annotated[kind | None, Option(*field.flags, autocompletion=completer(field), **details)]


def _short_choices(field: Field) -> str:
    choices = "|".join(map(str, field.choices))
    return choices if len(choices) <= 24 else ""  # a longer list is in the help


def help_text(field: Field) -> str:
    """The help of a setting: its sentence, then in brackets its unit, valid values and default."""
    facts = [field.unit] if field.unit and field.unit not in field.help else []
    # Short choices are in the metavar; the largest seed helps nobody.
    if field.valid_values and not _short_choices(field) and (field.max or 0) < 2**31:
        facts.append(field.valid_values)
    default = field.format(field.default)
    if default not in ("", "none", "false"):
        facts.append(f"default {default}")
    return f"{field.help} [{', '.join(facts)}]" if facts else field.help


def with_output_file(function: Callable[..., int]) -> Callable[..., int]:
    """Decorate a command so that `--output` and its companions take what it prints to stdout, if it returns 0."""

    def command(
        output: Annotated[
            str | None,
            Option("--output", "-o", metavar="FILE", help="File for the output, written when the answer is complete."),
        ] = None,
        append: Annotated[bool, Option("--append", help="With --output: add to the end of the file.")] = False,
        tee: Annotated[bool, Option("--tee", help="With --output: print to stdout too.")] = False,
        force: Force = False,
        **given: Any,
    ) -> int:
        chosen = [name for name, is_on in (("append", append), ("tee", tee), ("force", force)) if is_on]
        if output is None and chosen:
            raise UsageError(f"--{chosen[0]} has no effect without --output", "name the file: -o FILE")
        if append and force:
            raise UsageError("--append and --force cannot be used together", "remove one of them")
        if output is None or output == "-":
            return function(**given)
        from llmcli.ui.terminal.output_file import OutputFile

        with OutputFile(output, append, force, tee) as file:
            status = function(**given)
            if status == ExitStatus.OK:
                file.complete()
        return status

    own = inspect.signature(command, eval_str=True).parameters
    parameters = [*inspect.signature(function, eval_str=True).parameters.values(), *list(own.values())[:-1]]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    return command


def output_path(name: str, force: bool) -> Path:
    """The path of a file to write. Raises UsageError if it is a folder, or exists and must not be replaced."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        raise UsageError(f"{name} is a folder, not a file", "give the name of a file")
    if os.path.exists(path) and not force:
        raise UsageError(f"{path} already exists", "choose another name, or replace it with --force")
    return path


def prompt_of(flags: Layer, argument: str | None) -> str | None:
    """The prompt of the argument, or of `--prompt`. Raises UsageError when both are given."""
    flag = flags.get("prompt", str)
    if argument is not None and flag is not None:
        raise UsageError("the prompt is given twice, as an argument and as an option", "remove one of them")
    return flag if argument is None else argument


def parse_parallel(text: str) -> int:
    """The number of answers at a time; 0 for auto. Raises UsageError."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= _MAX_PARALLEL:
        raise UsageError(f"--parallel must be auto, or an integer between 1 and {_MAX_PARALLEL}, got {text[:40]!r}")
    return int(text)
