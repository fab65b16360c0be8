"""All settings: looked up by name, resolved from layers, and those that have no effect."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias, TypeVar

from llmcli.errors import UsageError
from llmcli.params.decision import DECISION_KEYS, DecisionParams
from llmcli.params.generation import GenerationParams, InterfaceParams, RequestParams
from llmcli.params.model import EndpointParams, HubParams, ModelParams, StateParams
from llmcli.params.param import Field, SettingValue, fields_of
from llmcli.params.policies.policy import Entropy, Fixed, names_in, unknown_name
from llmcli.params.policies.rules import BUILTIN, Policy
from llmcli.params.policies.user_functions import package_source
from llmcli.params.result import ResultParams
from llmcli.params.sampler_chain import SamplingParams, effective_policy
from llmcli.params.samplers import SAMPLERS, random_seed
from llmcli.text import foreign_hint, nearest

Datum: TypeAlias = bool | int | float | str | list[object] | None  # a setting as JSON or TOML data
T = TypeVar("T")
CODE_KEYS = ("temp_policy_file",)  # it names code: a session file from elsewhere must not run code
# Environment variables of the program that are not settings.
_SWITCHES = ("LLMCLI_HOME", "LLMCLI_DEBUG", "LLMCLI_API_KEY")
_CHAT_ONLY = ("system", "chat_template", "template_arg", "think")
# What a decision does without. A setting of one request (a flag) gets a warning, a habit (the configuration) does not.
_OF_SAMPLING = {*fields_of(SamplingParams), *fields_of(GenerationParams), *fields_of(ResultParams)}
_OF_SAMPLING = (_OF_SAMPLING | {"think", "think_budget"}) - {"timeout"}
_OF_REQUESTS = ("flag", "line")  # layers


@dataclass(frozen=True, kw_only=True)
class Settings(
    RequestParams,
    GenerationParams,
    DecisionParams,
    ResultParams,
    SamplingParams,
    ModelParams,
    StateParams,
    EndpointParams,
    HubParams,
    InterfaceParams,
):
    """All settings of the program."""

    # The layer of each setting that one sets. An engine with defaults of its own leaves all others to itself.
    given: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def is_decision(self) -> bool:
        """Whether the answer is one of several that are scored, instead of a text that is generated."""
        return any(getattr(self, key) for key in DECISION_KEYS)

    @property
    def asked(self) -> str:
        """The model that is asked, or the endpoint that selects one."""
        return self.endpoint if self.endpoint and "model" not in self.given else self.model


class UnknownSettingError(UsageError):
    """No setting has this `name`."""

    name = ""


def fields() -> Mapping[str, Field]:
    """All declared settings by key."""
    return fields_of(Settings)


@cache
def _by_name() -> Mapping[str, Field]:
    return {name: field for field in fields().values() for name in field.keys}


def find(name: str) -> Field:
    """The setting called `name`: its key or an alias, with dashes or underscores. Raises UnknownSettingError."""
    key = name.strip().lstrip("-").replace("-", "_").lower()
    field = _by_name().get(key)
    if field is None:
        near = nearest(key, _by_name(), 1)
        hint = foreign_hint(key) or (f"did you mean '{_by_name()[near[0]].key}'?" if near else "")
        error = UnknownSettingError(f"unknown setting {name.strip()[:80]!r}", hint)
        error.name = name.strip()
        raise error
    return field


def parse_data(table: Mapping[str, object], source: str) -> dict[str, SettingValue]:
    """The typed values of a JSON object or a TOML table. Raises UsageError, which starts with `source` (a file)."""
    values = {}
    for name, value in table.items():
        try:
            field = find(name)
            values[field.key] = field.parse_data(value)
        except UsageError as error:
            raise UsageError(f"{source}: {error}", error.hint) from None
    return values


def to_data(settings: Settings) -> dict[str, Datum]:
    """The settings as JSON data that `parse_data` reads back; values without a JSON type become text."""
    return {key: to_datum(field, getattr(settings, key)) for key, field in fields().items()}


def to_datum(field: Field, value: SettingValue) -> Datum:
    """One value as JSON or TOML data that the field's `parse_data` reads back."""
    if isinstance(value, Fixed):
        return value.value
    if isinstance(value, tuple):  # of texts, or of biases; JSON has no infinity
        return [one if isinstance(one, str) else [one[0], one[1] != -math.inf and one[1]] for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else field.format(value)


def format_setting(settings: Settings, key: str) -> str:
    """The value of a setting as a user types it; `none` without one."""
    return fields()[key].format(getattr(settings, key)) or "none"


@dataclass(frozen=True)
class Layer:
    """Typed values by key, and the name of their source for users: `config`, `flag`, ..."""

    name: str
    values: Mapping[str, SettingValue]
    source: str = ""  # of its temperature, for errors: a file or a variable
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of layers that were merged into it, by key

    @property
    def origins(self) -> Mapping[str, str]:
        """The name of the layer of each value."""
        return {key: self.names.get(key, self.name) for key in self.values}

    def over(self, below: "Layer") -> "Layer":
        """This layer and one below it as one, in which each value keeps its origin."""
        merged = {**below.values, **self.values}
        return Layer(below.name, merged, below.source, {**below.origins, **self.origins}) if self.values else below

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of a key; None if the layer does not have it, or it is None."""
        value = self.values.get(key)
        return value if isinstance(value, kind) else None


@dataclass(frozen=True)
class ResolvedSettings:
    """The resolved settings, and for each key the name of the layer with its value."""

    settings: Settings
    origins: Mapping[str, str]

    def over(self, below: Layer) -> "ResolvedSettings":
        """These settings above one more layer, whose values count where no other layer has one."""
        values: dict[str, Any] = {key: one for key, one in below.values.items() if self.origins[key] == "default"}
        origins = {**self.origins, **{key: below.origins[key] for key in values}}
        return ResolvedSettings(replace(self.settings, **values), origins)

    def with_seed(self) -> "ResolvedSettings":
        """These settings, with a random seed if they have none."""
        if self.settings.seed is not None:
            return self
        return replace(self, settings=replace(self.settings, seed=random_seed()))


def resolve(layers: Iterable[Layer]) -> ResolvedSettings:
    """Merge the layers, lowest first, over the built-in defaults.

    A temperature replaces the policy file of a lower layer, unless it contains its function by name; a model of a lower
    layer is not asked for at an endpoint. Raises UsageError for a temperature with the name of a policy that does not
    exist; one from a session is kept, as its policy file is not in the session: it is an error when an answer needs it.
    """
    layers = [*layers]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(fields(), "default")
    for layer in layers:
        values |= layer.values
        origins |= layer.origins
    file = values.get("temp_policy_file")
    set_by = {key: index for index, layer in enumerate(layers) for key in layer.values}
    if set_by.get("temperature", -1) > set_by.get("temp_policy_file", len(layers)):
        function = (values["temp_policy_file"] or "").rpartition(":")[2]
        if function not in names_in(values["temperature"]):
            del values["temp_policy_file"]
            origins["temp_policy_file"] = origins["temperature"]
    for layer in layers:
        policy = layer.get("temperature", Policy)
        if policy and layer.name != "session":
            check_policy(policy, file, layer.source)
    given = {key: origins[key] for key in values}
    if set_by.get("endpoint", -1) > set_by.get("model", len(layers)):
        del given["model"]  # which is one of this machine
    return ResolvedSettings(Settings(**values, given=given), origins)


def check_policy(policy: Policy, file: str | None, source: str = "") -> None:
    """Check the names in a temperature. Raises UsageError, which starts with `source`, for one without a function."""
    own = (file or "").rpartition(":")[2]
    for name in names_in(policy):
        if name not in (*BUILTIN, own) and not package_source(name):
            position = re.split(rf"\b{name}\b", str(policy), maxsplit=1)[0]
            error = unknown_name(name, len(position), [own])
            raise fields()["temperature"].error(str(policy), error, source)


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """The settings in `LLMCLI_*` variables that are not empty. Raises UsageError for an unknown or invalid one."""
    known = {field.env: field for field in fields().values()}
    for name in sorted(environ):
        if name.startswith("LLMCLI_") and environ[name] and name not in (*known, *_SWITCHES):
            word = name.removeprefix("LLMCLI_")
            near = nearest(word, _by_name(), 1)
            hint = f"did you mean '{_by_name()[near[0]].env}'?" if near else "see `llmcli config list --all`"
            hint = foreign_hint(word) or hint
            if word in ("QUIET", "VERBOSE"):
                hint = f"{word.lower()} is a flag only: --{word.lower()}"
            raise UsageError(f"unknown environment variable {name}", hint)
    values = {}
    for name, field in known.items():
        if not environ.get(name):
            continue
        try:
            values[field.key] = field.parse_text(environ[name])
        except UsageError as error:
            raise UsageError(f"{name}: {error}", error.hint) from None
    return Layer("env", values, fields()["temperature"].env)


def ineffective_settings(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    """For each setting that was set to a value other than its default and has no effect: the reason."""
    chosen = [field for field in fields().values() if origins[field.key] != "default"]
    if settings.is_decision:
        chosen = [one for one in chosen if one.key not in _OF_SAMPLING or origins[one.key] in _OF_REQUESTS]
    changed = [field for field in chosen if getattr(settings, field.key) != field.default]
    policy = effective_policy(settings)
    return {field.key: reason for field in changed if (reason := _reason(field, settings, policy))}


def ineffective_keys(settings: Settings) -> set[str]:
    """The settings that cannot change an answer at their present values, even if they were not set."""
    # The reason for a temperature tells how it is read, not that it is ignored, unless nothing is sampled.
    policy, kept = effective_policy(settings), () if settings.is_decision else ("temperature",)
    return {key for key, field in fields().items() if key not in kept and _reason(field, settings, policy)}


def _reason(field: Field, p: Settings, policy: Policy) -> str:
    """Why a setting has no effect under the effective policy, or an empty text."""
    if p.is_decision and field.key in _OF_SAMPLING:
        return "a decision is scored, not sampled"
    # The sampler with this setting that `samplers` can contain.
    sampler = next((one for one in SAMPLERS.values() if field.key in one.fields and one.place != "program"), None)
    if field.key == "temperature" and policy != p.temperature:
        return f"temp_policy_file replaces it (use the policy {policy} in temperature to combine them)"
    if field.key.startswith("dynatemp") and not isinstance(policy, Fixed):
        return f"the temperature '{policy}' has its own range"
    if p.mirostat and (field.key in ("samplers", "min_keep") or (sampler and sampler.name != "temperature")):
        return f"mirostat {p.mirostat} replaces the chain"
    if p.mirostat and field.key.startswith("dynatemp"):
        return f"mirostat {p.mirostat} needs a fixed temperature"
    if p.mirostat and field.key == "temperature" and isinstance(p.temperature, Entropy):
        return f"mirostat {p.mirostat} uses the middle of the range"
    if sampler and sampler.name not in p.samplers:
        return f"{sampler.name} is not in samplers"
    needed = needed_settings(field)
    if needed and all(getattr(p, key) == fields()[key].default for key in needed):
        return f"needs {' or '.join(needed)}"
    if sampler and sampler.place == "default":
        seeded = replace(p, seed=0) if p.seed is None else p
        changed: dict[str, Any] = {field.key: field.default}
        is_default = getattr(p, field.key) == field.default  # a copy of all settings costs as much as all the rest here
        if sampler.arguments(seeded) is None and (is_default or sampler.arguments(replace(seeded, **changed)) is None):
            return f"other settings turn {sampler.name} off"
    if field.key == "min_keep":
        seeded, samplers = replace(p, seed=0), [SAMPLERS[name] for name in p.samplers]
        other = replace(seeded, min_keep=p.min_keep + 1)
        if all(one.arguments(seeded) == one.arguments(other) for one in samplers):
            return "no active sampler uses it"
    if p.raw and field.key in _CHAT_ONLY:
        return "raw completion has no chat template"
    return ""


def needed_settings(field: Field) -> tuple[str, ...]:
    """The settings one of which must differ from its default; otherwise this one has no effect."""
    switches = next((one.switches for one in SAMPLERS.values() if field.key in one.fields), ())
    return field.needs_any or (() if field.key in switches else switches)
