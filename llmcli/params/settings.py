"""All settings as one frozen dataclass, and parsers for tables of raw values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.chain import ChainParams
from llmcli.params.generation import GenerationParams
from llmcli.params.hub import HubParams
from llmcli.params.interface import InterfaceParams
from llmcli.params.model import ModelParams
from llmcli.params.param import Field, describe
from llmcli.params.penalties import PenaltyParams
from llmcli.params.policies.policy import Fixed
from llmcli.params.request import RequestParams
from llmcli.params.samplers import TruncationParams
from llmcli.params.selection import SelectionParams
from llmcli.params.temperature import TemperatureParams
from llmcli.text import setting_hint


@dataclass(frozen=True, kw_only=True)
class SamplingParams(TemperatureParams, TruncationParams, PenaltyParams, SelectionParams, ChainParams):
    """Settings of the sampler chain."""


@dataclass(frozen=True, kw_only=True)
class Settings(RequestParams, GenerationParams, SamplingParams, ModelParams, HubParams, InterfaceParams):
    """All settings of the program."""


def fields() -> Mapping[str, Field]:
    """All declared settings by key."""
    return describe(Settings)


@cache
def _by_name() -> Mapping[str, Field]:
    aliases = {name: field for field in fields().values() for name in field.param.keys}
    return aliases | dict(fields())


def find(name: str) -> Field:
    """The setting called `name`: its key or an alias, with dashes or underscores.

    Raises:
        UsageError: with the most similar name.
    """
    key = _key(name)
    field = _by_name().get(key)
    if field is None:
        raise UsageError(f"unknown setting {name.strip()[:80]!r}", setting_hint(key, _by_name()))
    return field


def _key(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_").lower()


def parse_data(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The typed values of a JSON object or a TOML table, by key.

    Raises:
        UsageError: that starts with `source` (such as a file name).
    """
    values = {}
    for name in sorted(table, key=_position):
        try:
            field = find(name)
            values[field.key] = field.parse_data(table[name])
        except UsageError as error:
            raise UsageError(f"{source}: {error}", error.hint) from None
    return values


def _position(name: str) -> int:
    """The position among all settings: temp_policy_file is parsed first, as it registers a name for temperature."""
    field = _by_name().get(_key(name))
    return list(fields()).index(field.key) if field else -1


def to_data(settings: Settings) -> dict[str, Any]:
    """The settings as JSON data that `parse_data` reads back; values without a JSON type become text."""
    return {key: to_datum(field, getattr(settings, key)) for key, field in fields().items()}


def to_datum(field: Field, value: Any) -> Any:
    """One value as JSON or TOML data that the field's `parse_data` reads back."""
    if isinstance(value, Fixed):
        return value.value
    if field.key == "logit_bias":
        return [[token, bias if bias != float("-inf") else False] for token, bias in value]
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else field.format(value)
