"""What a setting is, declared once: range, names and help; text, value and JSON."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from functools import cache
from inspect import get_annotations
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar, dataclass_transform, get_args, get_type_hints

from llmcli.errors import UsageError
from llmcli.params.policies.rules import Policy

# What a setting can hold. A tuple is a list of texts, or of tokens with their biases.
SettingValue = bool | int | float | str | tuple[str, ...] | tuple[tuple[int | str, float], ...] | Policy | None
_RULES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# The largest int32 and float, the C types behind the settings. ctypes truncates a larger number without an error.
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4028234663852886e38
_LONGEST_QUOTE = 60
_OFF = re.compile(r"\((0|-1|1) = off\)")  # in the help of a setting
_TITLES: dict[type, str] = {}  # of groups of settings
T = TypeVar("T")
Scalar = TypeVar("Scalar", bool, int, float, str)
P = ParamSpec("P")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


@dataclass(frozen=True)
class Field:
    """A setting, declared once. Its flags, configuration keys, slash command, help and errors are generated from it.

    All parsers of values raise a ValueError whose text completes the sentence "KEY must be ...".
    """

    help: str  # a noun phrase; the program adds range, choices and default
    _: KW_ONLY
    min: float | None = None  # inclusive, like `max`
    max: float | None = None
    above: float | None = None  # exclusive
    extra_values: tuple[float, ...] = ()  # valid values outside the range
    choices: tuple[str | int, ...] = ()
    suggest: tuple[str, ...] = ()
    # Its flags, and keys of llama-server, KoboldCpp and Ollama. The first long flag replaces that of the key's name.
    names: str = ""
    metavar: str = ""
    unit: str = ""
    default_text: str = ""  # stands for None
    needs_any: tuple[str, ...] = ()  # no effect unless one of these settings differs from its default
    text: Callable[[str], SettingValue] | None = None  # parses typed text, and a text or number in JSON or TOML
    data: Callable[[object], SettingValue] | None = None  # parses all of them
    show: Callable[..., str] | None = None
    check: Callable[..., SettingValue] | None = None
    path: bool = False  # it can be the name of a file, which need not be UTF-8
    # Of the attribute and the class that declare it:
    key: str = ""
    kind: type = str
    default: SettingValue = None
    group: str = ""  # its heading in help and manual

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag and its aliases, the canonical one first."""
        flags = [name for name in self.names.split() if name.startswith("-")]
        long = [flag for flag in flags if flag.startswith("--")] or ["--" + self.key.replace("_", "-")]
        return tuple(dict.fromkeys([long[0], *flags]))

    @property
    def keys(self) -> tuple[str, ...]:
        """The key and its aliases, to which each long flag belongs."""
        long = [flag[2:].replace("-", "_") for flag in self.flags if flag.startswith("--")]
        others = [name for name in self.names.split() if not name.startswith("-")]
        return tuple(dict.fromkeys([self.key, *long, *others]))

    @property
    def repeated(self) -> bool:
        """Whether it is a list, and its flag can be repeated."""
        return isinstance(self.default, tuple)

    @property
    def env(self) -> str:
        """The environment variable."""
        return "LLMCLI_" + self.key.upper()

    @property
    def valid_values(self) -> str:
        """The choices or the range in words, for errors, help, completion and the documentation; else empty."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.min is self.max is self.above is None:
            return ""
        return range_text(self.min, self.max, self.above, self.extra_values)

    def parse_text(self, text: str) -> SettingValue:
        """The value of a flag, an environment variable or a slash command. Raises UsageError if it is not valid."""
        if self.default is None and text == self.default_text:
            return None
        return self._checked(self.text or self.data or self._builtin_text, text)

    def parse_texts(self, texts: list[str]) -> SettingValue:
        """The value of a repeatable flag; a single `none` clears the list."""
        if texts == ["none"]:
            return ()
        parse: Callable[..., SettingValue] = self.data or (lambda text: (self._item(text),))
        items: list[Any] = []
        for text in texts:
            parsed = self._checked(parse, text)
            items += parsed if isinstance(parsed, tuple) else ()
        return tuple(items)

    def parse_data(self, value: object) -> SettingValue:
        """The value in a JSON or TOML document. Raises UsageError if it is not valid."""
        if value is None and self.default is None:
            return None
        return self._checked(self.data or self._builtin_data, value)

    def _broken_rule(self, value: object) -> str:
        """The rule of the range or the choices that `value` breaks, or an empty text; NaN is in no range."""
        if self.choices:
            return "" if value in self.choices else self.valid_values
        if not is_number(value) or value in self.extra_values:
            return ""
        largest = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
        if self.max is None and abs(value) > largest:
            return "finite" if abs(value) == math.inf else f"at most {format_value(largest)} in absolute value"
        is_above = (self.min is None or value >= self.min) and (self.above is None or value > self.above)
        is_valid = abs(value) < math.inf and is_above and (self.max is None or value <= self.max)
        return "" if is_valid else self.valid_values or "finite"

    def format(self, value: object) -> str:
        """The text that `parse_text` reads back as `value`."""
        if value is None:
            return self.default_text
        return self.show(value) if self.show else format_value(value)

    def _item(self, text: str) -> str:
        """One item of a list as typed; in file names a backslash is not an escape."""
        return text if self.path else unescape(as_utf8(text))

    def _choice(self, value: object) -> str:
        """A choice; true, yes or 1 is `on` among the choices, as in llama.cpp, and false is `off`."""
        if value not in self.choices and isinstance(value, (bool, str)):
            truth = _BOOLEANS.get(str(value).strip().lower())
            word = {True: "on", False: "off", None: ""}[truth]
            value = word if word in self.choices else value
        if not isinstance(value, str):
            raise ValueError(self.valid_values)
        return value

    def _builtin_text(self, text: str) -> SettingValue:
        if self.choices and self.kind is str:
            return self._choice(as_utf8(text))
        if not self.repeated:
            names_file = self.path or (self.metavar.endswith("@FILE") and text.startswith("@"))
            return from_data(self.kind, text if names_file else as_utf8(text))
        if text == "none":
            return ()
        if text.startswith("["):
            with suppress(ValueError):
                return strings_from_data(json.loads(text))
        return (self._item(text),)

    def _builtin_data(self, value: object) -> SettingValue:
        if self.choices and self.kind is str:
            return self._choice(value)
        if not self.text:
            return strings_from_data(value) if self.repeated else from_data(self.kind, value)
        if isinstance(value, str) or is_number(value):
            return self.text(value if isinstance(value, str) else repr(value))
        try:
            return self.text("")
        except InvalidValueError as error:
            raise ValueError(error.rule) from None

    def _checked(self, parse: Callable[..., SettingValue], value: object) -> SettingValue:
        try:
            parsed = parse(value)
            if rule := self._broken_rule(parsed):
                off = _OFF.search(self.help) if parsed in (0, -1) else None  # other programs use the other one
                raise self.error(parsed, InvalidValueError(rule, hint=f"use {off[1]} to turn it off" if off else ""))
            return self.check(parsed) if self.check else parsed
        except ValueError as error:
            if str(error) == _RULES[float] and self.unit:
                error = ValueError(f"a number of {self.unit}")
            raise self.error(value, error) from None

    def error(self, value: object, error: ValueError, source: str = "") -> UsageError:
        """The error for a value that is not valid; it starts with `source`."""
        known = error if isinstance(error, InvalidValueError) else InvalidValueError(str(error))
        at = known.at or 0
        if isinstance(value, str) and at >= _LONGEST_QUOTE - 10 and value.strip():  # quote the part around the fault
            start = at - 30
            while len(repr(value[start:at])) > 42:  # escapes are longer than the characters they represent
                start += 1
            value = "..." + value[start:]
        fault = known.fault and f": {known.fault}"
        text = f"{self.key} must be {known.rule}, got {quote(value)}{fault}"
        return UsageError(f"{source}: {text}" if source else text, known.hint)


def _with_default(declare: Callable[P, Field]) -> Callable[Concatenate[T, P], T]:
    def field(default: T, /, *args: P.args, **details: P.kwargs) -> T:
        made: T = dataclasses.field(default=default, metadata={"setting": declare(*args, **details)})
        return made

    return field


# Declares a setting as a field of a dataclass: `top_k: int = setting(40, "help", min=0)`. It takes what `Field` takes.
setting = _with_default(Field)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings_group(title: str) -> Callable[[type[T]], type[T]]:
    """Decorator of a dataclass with settings; `title` is its heading in help and manual."""

    def declare(cls: type[T]) -> type[T]:
        group = dataclass(frozen=True, kw_only=True, repr=False, eq=False)(cls)
        _TITLES[group] = title
        return group

    return declare


@cache
def fields_of(cls: type) -> Mapping[str, Field]:
    """The settings that the dataclass `cls` declares, by key, in the order of its base classes."""
    hints = get_type_hints(cls)
    declared = {one.name: one.metadata["setting"] for one in dataclasses.fields(cls) if one.metadata}
    fields = {}
    for base in cls.__mro__:
        for name in filter(declared.__contains__, get_annotations(base)):
            kind, *_ = get_args(hints[name]) or [hints[name]]  # of `int | None`, int; of `tuple[str, ...]`, str
            place = {"key": name, "kind": kind, "default": getattr(cls, name), "group": _TITLES[base]}
            fields[name] = dataclasses.replace(declared[name], **place)
    return MappingProxyType(fields)


@dataclass(eq=False)
class InvalidValueError(ValueError):
    """A value that cannot be parsed."""

    rule: str  # completes the sentence "must be ..."
    fault: str = ""  # what is wrong with this value
    hint: str = ""  # what to write instead
    at: int | None = None  # the offset of the fault


def from_data(kind: type[Scalar], value: object) -> Scalar:
    """A typed text or a JSON or TOML `value` as an int, float, bool or str."""
    if kind is bool and isinstance(value, str):
        value = _BOOLEANS.get(value.strip().lower())
    if kind in (bool, str) and isinstance(value, kind):
        return value
    is_valid = isinstance(value, str) or (is_number(value) and (kind is float or value == value // 1))
    if kind not in (int, float) or not is_valid:
        raise ValueError(_RULES[kind])
    number: Any = value
    try:
        return kind(number)
    except ValueError:
        raise ValueError(_RULES[kind]) from None
    except OverflowError:
        raise ValueError(f"at most {format_value(LARGEST_FLOAT)}") from None


def is_int(value: object) -> TypeGuard[int]:
    """Whether a JSON or TOML value is an integer; in Python, true and false are integers too."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON or TOML value is a number."""
    return isinstance(value, float) or is_int(value)


def strings_from_data(value: object) -> tuple[str, ...]:
    """A JSON or TOML list of strings (or one string) as a tuple."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of strings")
    return tuple(items)


def as_utf8(text: str) -> str:
    """`text` decoded as UTF-8. Where the locale is not UTF-8, Python stores the shell's bytes as surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def unescape(text: str) -> str:
    r"""Replace the escapes `\n`, `\t`, `\r`, `\\`, `\"` and `\'` by their characters; keep other backslashes."""
    return re.sub(r"\\(.?)", lambda found: _ESCAPES.get(found[1], found[0]), text, flags=re.DOTALL)


_DURATION = re.compile(r"(\d{1,7}(?:\.\d+)?)([smh]?)")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90, 90s, 10m or 2h; endless for `forever`, and 0 for `off`."""
    words = {"forever": math.inf, "off": 0.0}
    if text.strip() in words:
        return words[text.strip()]
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise InvalidValueError("a duration such as 90s, 10m, 2h or forever")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def show_duration(seconds: float) -> str:
    """The text that `parse_duration` reads back."""
    if seconds in (0.0, math.inf):
        return "forever" if seconds else "off"
    unit, size = next(((unit, size) for unit, size in (("h", 3600), ("m", 60)) if seconds % size == 0), ("s", 1))
    return f"{format_value(seconds / size)}{unit}"


def range_text(low: float | None, high: float | None, above: float | None, extra: tuple[float, ...] = ()) -> str:
    """The range in words, for errors, help, completion and the documentation."""
    words = "finite" if low is None else f"at least {format_value(low)}"
    if low is not None and high is not None:
        words = f"between {format_value(low)} and {format_value(high)}"
    elif above is not None:
        words = f"above {format_value(above)}"
    return words + "".join(f", or {format_value(item)}" for item in extra)


def format_value(value: object) -> str:
    """A value as a user types it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False) if value else "none"
    return str(value)


def quote(value: object, longest: int = _LONGEST_QUOTE) -> str:
    """A value for an error message, at most `longest` characters: numbers bare, all else in quotes."""
    if isinstance(value, (int, float)):
        text = format_value(value)
        return text if len(text) <= longest else text[: longest - 3] + "..."
    text = repr(str(value))
    return text if len(text) <= longest else text[: longest - 4] + "..." + text[-1]
