"""Declaration of a setting: a typed dataclass field with a `Param` in its annotation."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from llmcli.errors import UsageError
from llmcli.params import values


@dataclass(frozen=True, kw_only=True)
class Param:
    """The metadata of a setting. Flags, config keys, slash commands, help and errors are generated from it.

    `help` is a noun phrase; range, choices and default are added to it by the program. `min` and `max` are inclusive,
    `above` is exclusive, `also` lists values outside the range that are valid. `flag` replaces the flag made from
    the key; `flags` are its aliases (llama.cpp's spellings), `keys` are aliases of the key (those of llama-server,
    KoboldCpp and Ollama). `sampler` names the step of the chain that uses the setting; the setting has no effect
    unless one of the settings in `switch` differs from its default. `text` and `data` replace the parsers for typed
    text and for a JSON or TOML value; they and `check` raise a ValueError whose text completes "must be ...".
    """

    help: str
    min: float | None = None
    max: float | None = None
    above: float | None = None
    also: tuple[Any, ...] = ()
    choices: tuple[Any, ...] = ()
    suggest: tuple[str, ...] = ()
    flag: str = ""
    flags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    metavar: str = ""
    unit: str = ""
    default_text: str = ""
    sampler: str = ""
    switch: tuple[str, ...] = ()
    text: Callable[[str], Any] | None = None
    data: Callable[[Any], Any] | None = None
    show: Callable[[Any], str] | None = None
    check: Callable[[Any], Any] | None = None
    path: bool = False


@dataclass(frozen=True)
class Field:
    """A declared setting: its key, its type, its default and its `Param`."""

    key: str
    kind: type
    optional: bool
    repeated: bool
    default: Any
    param: Param
    group: str

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag and its aliases, the canonical one first."""
        return (self.param.flag or "--" + self.key.replace("_", "-"), *self.param.flags)

    @property
    def env(self) -> str:
        return "LLMCLI_" + self.key.upper()

    @property
    def valid_values(self) -> str:
        """The choices or the range in words, for errors, help, completion and the documentation; else empty."""
        param = self.param
        if param.choices:
            return ", ".join(map(str, param.choices))
        if param.min is param.max is param.above is None:
            return ""
        return values.range_text(param.min, param.max, param.above, param.also)

    def parse_text(self, text: str) -> Any:
        """The value of a typed text: a flag, an environment variable or a slash command.

        Raises:
            UsageError: that names the setting, the rule and the value.
        """
        if self.optional and text == self.format(None):
            return None
        return self._guard(self.param.text or self._builtin_text, text)

    def parse_texts(self, texts: list[str]) -> Any:
        """The value of a repeatable flag; a single `none` clears the list."""
        if texts == ["none"]:
            return ()
        parse = self.param.text or (lambda text: (self._item(text),))
        return tuple(item for text in texts for item in self._guard(parse, text))

    def parse_data(self, value: Any) -> Any:
        """The value of a JSON or TOML document.

        Raises:
            UsageError: that names the setting, the rule and the value.
        """
        if value is None and self.optional:
            return None
        return self._guard(self.param.data or self._builtin_data, value)

    def check(self, value: Any) -> Any:
        """`value`, if it is in the declared range and among the choices; NaN is in no range."""
        param = self.param
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value not in param.also
        if is_number and (rule := values.too_large(value, param.max)):
            raise self._error(rule, value)
        if is_number and not values.in_range(value, param.min, param.max, param.above):
            raise self._error(self.valid_values or "finite", value)
        if param.choices and value not in param.choices:
            raise self._error(f"one of {self.valid_values}", value)
        return param.check(value) if param.check else value

    def format(self, value: Any) -> str:
        """The text that `parse_text` reads back as `value`."""
        if value is None:
            return self.param.default_text
        if self.param.show:
            return self.param.show(value)
        return values.show(value)

    def _item(self, text: str) -> str:
        """One item of a list as typed; in file names a backslash is not an escape."""
        return text if self.param.path else values.unescape(values.as_utf8(text))

    def _builtin_text(self, text: str) -> Any:
        if self.repeated:
            return values.texts(text, self._item)
        return values.from_text(self.kind, text if self.param.path else values.as_utf8(text))

    def _builtin_data(self, value: Any) -> Any:
        return values.string_list(value) if self.repeated else values.from_data(self.kind, value)

    def _guard(self, parse: Callable[[Any], Any], value: Any) -> Any:
        try:
            return self.check(parse(value))
        except values.InvalidValueError as error:
            shown = values.excerpt(value, error.at) if isinstance(value, str) else value
            raise self._error(error.rule, shown, error.fault, error.hint) from None
        except ValueError as error:
            raise self._error(str(error), value) from None

    def _error(self, rule: str, value: Any, fault: str = "", hint: str = "") -> UsageError:
        fault = fault and f": {fault}"
        return UsageError(f"{self.key} must be {rule}, got {values.quote(value)}{fault}", hint)


@cache
def describe(cls: type) -> Mapping[str, Field]:
    """The settings that the dataclass `cls` declares, by key, in the order of its base classes."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    order = [name for base in _families(cls) for name in vars(base).get("__annotations__", {})]
    return types.MappingProxyType({name: _field(cls, name, hints[name], fields[name].default) for name in order})


def _families(cls: type) -> Iterator[type]:
    for base in cls.__bases__:
        if base is not object:
            yield from _families(base)
    yield cls


def _field(cls: type, name: str, hint: Any, default: Any) -> Field:
    kind, param = get_args(hint)[:2]
    members = get_args(kind) if get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    plain = [member for member in members if member is not type(None)]
    repeated = get_origin(plain[0]) is tuple
    group = next(base.__name__ for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    return Field(name, str if repeated else plain[0], len(plain) < len(members), repeated, default, param, group)
