"""The parameters of a command, and the parser of its usual command lines and of its help, without Typer (35 ms).

A command declares each parameter as `Annotated[type, Option("--name", "-n", help="...")]`. Typer makes its own options
of these declarations, and reads the lines that this parser leaves: those with an error, and those with a rare form.
"""

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

HELP_FLAGS = ("-h", "--help", "--help-all")
_INTEGER = re.compile(r"-?\d{1,9}", re.ASCII)


# Options whose value can be left out, which Typer does not know: what is a value, and the one that is meant else.
_LEFT_OUT = {"--ray": (re.compile(r"auto|local|[^\s/]+:\d+"), "local")}


def with_left_out_values(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The words of a command that has these flags, in which an option without its value has the one that is meant."""
    found = [*words]
    for at, word in enumerate(words):
        if word == "--":
            break
        if word in _LEFT_OUT and word in flags:
            pattern, meant = _LEFT_OUT[word]
            if not pattern.fullmatch("".join(words[at + 1 : at + 2])):
                found[at] = f"{word}={meant}"
    return found


class Declaration:
    """What a parameter has beside its name, its type and its default; the details are those of Typer."""

    def __init__(self, *names: str, **details: Any) -> None:
        self.names, self.details = names, details


class Option(Declaration):
    """An option: its flags; `metavar help min max count show_default hidden autocompletion rich_help_panel`."""


class Argument(Declaration):
    """A positional argument: `metavar help autocompletion`."""


class Range(NamedTuple):
    """The type of an option with limits."""

    min: float | None
    max: float | None


class Parameter:
    """One parameter of a command, with the attributes of Typer's that the help needs."""

    def __init__(self, declared: inspect.Parameter) -> None:
        annotated, declaration = get_args(declared.annotation)
        kinds = [kind for kind in get_args(annotated) if kind is not type(None)]
        self.kind: Any = annotated if get_origin(annotated) in (list, Literal) else (kinds or [annotated])[0]
        details = declaration.details
        self.name, self.help, self.metavar = declared.name, details.get("help"), details.get("metavar")
        self.required = declared.default is inspect.Parameter.empty
        self.default = None if self.required else declared.default
        self.count, self.hidden = details.get("count", False), details.get("hidden", False)
        self.show_default, self.rich_help_panel = details.get("show_default", True), details.get("rich_help_panel")
        self.is_flag, self.is_list = self.kind is bool, get_origin(self.kind) is list
        self.param_type_name = "option" if isinstance(declaration, Option) else "argument"
        is_limited = {"min", "max"} & details.keys() and not self.count
        self.type = Range(details.get("min"), details.get("max")) if is_limited else None
        flag = "--" + declared.name.replace("_", "-")
        pairs = [
            name.partition("/") for name in declaration.names or (f"{flag}/--no-{flag[2:]}" * self.is_flag or flag,)
        ]
        self.opts = [on for on, _, _ in pairs]
        self.secondary_opts = [off for _, _, off in pairs if off]
        self.usage = ""
        if self.param_type_name == "argument":
            name = self.metavar or declared.name.upper()
            self.usage = name if self.required or name[0] == "[" else f"[{name}]"
            self.usage += "..." if self.is_list and not self.metavar else ""
            self.metavar = self.metavar or self.usage

    def make_metavar(self, _ctx: Any) -> str:
        if get_origin(self.kind) is Literal:
            return self.metavar or "|".join(get_args(self.kind))
        return self.metavar or {int: "INTEGER", float: "FLOAT"}.get(self.kind, "TEXT")


def direct_line(words: Sequence[str]) -> "CommandLine | None":
    """The command that these words name, with its own words; None for a group, which can have a default."""
    from llmcli.cli.help_texts import COMMANDS, PROGRAM

    for length in (2, 1):
        path = " ".join(words[:length])
        if path in COMMANDS and path and COMMANDS[path].place:
            module, _, function = COMMANDS[path].place.partition(":")
            return CommandLine(f"{PROGRAM} {path}", getattr(import_module(module), function), words[length:])
    return None


class CommandLine:
    """A command line that Typer need not see; it stands for Typer's context and command in the help."""

    def __init__(self, path: str, function: Callable[..., Any], words: Sequence[str]) -> None:
        self.command_path, self.command, self._function = path, self, function
        declared = inspect.signature(function, eval_str=True).parameters.values()
        self.parameters = [Parameter(one) for one in declared]
        self._words = with_left_out_values(words, {name for one in self.parameters for name in one.opts})

    def get_params(self, _ctx: Any) -> list[Parameter]:
        return [*self.parameters, *(Parameter(one) for one in _HELP)]

    def collect_usage_pieces(self, _ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(one.usage for one in self.parameters if one.usage)]

    def parse(self) -> dict[str, Any] | str | None:
        """The values of all parameters, or the flag of help that is among them; None for a line that is for Typer."""
        by_flag = {flag: one for one in self.parameters for flag in (*one.opts, *one.secondary_opts) if flag[0] == "-"}
        given: dict[str, Any] = {}
        places, wanted = list[str](), ""
        left = iter(self._words)
        for word in left:
            if word == "--":
                places += left
            elif word in HELP_FLAGS:
                wanted = wanted or word
            elif word[:1] != "-" or word == "-":
                places.append(word)
            else:
                flag, equals, value = (word, "", "") if word in by_flag else word.partition("=")
                one = by_flag.get(flag)
                if not one or (equals and (one.is_flag or one.count or not flag[2:])):
                    return None
                if one.is_flag:
                    given[one.name] = flag in one.opts
                elif one.count:
                    given[one.name] = given.get(one.name, 0) + 1
                elif not _add(given, one, value if equals else next(left, None)):
                    return None
        return wanted or self._with_places(given, places)

    def _with_places(self, given: dict[str, Any], places: list[str]) -> dict[str, Any] | None:
        """The values with those of the positional arguments and the defaults."""
        for one in self.parameters:
            if one.param_type_name == "argument" and places:
                n_taken = len(places) if one.is_list else 1
                for text in places[:n_taken]:
                    if not _add(given, one, text):
                        return None
                del places[:n_taken]
        if places or any(one.required and one.name not in given for one in self.parameters):
            return None
        return {one.name: one.default for one in self.parameters} | given

    def run(self, values: dict[str, Any]) -> Any:
        return self._function(**values)


def _add(given: dict[str, Any], one: Parameter, text: str | None) -> bool:
    """Add the value of a text; False if it is for Typer: it is missing or not valid, or its type is a rare one."""
    if text is None:
        return False
    if one.is_list:
        given.setdefault(one.name, []).append(text)
        return get_args(one.kind) == (str,)
    given[one.name] = text
    if one.kind is int:
        if not _INTEGER.fullmatch(text):
            return False
        given[one.name] = number = int(text)
        low, high = one.type or (None, None)
        return (low is None or number >= low) and (high is None or number <= high)
    return one.kind is str or (get_origin(one.kind) is Literal and text in get_args(one.kind))


_HELP = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, Option(*flags, help=text)],
    )
    for name, flags, text in (
        ("all", ("--help-all",), "Show all options and exit."),
        ("help", ("-h", "--help"), "Show this help and exit."),
    )
]
