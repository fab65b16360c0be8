"""The sampler chain as data: the temperature, the order of the samplers, and the steps with their arguments."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.param import quote, setting, settings_group
from llmcli.params.policies.policy import Entropy, Fixed, PolicyCall, bind, names_in, parse_policy
from llmcli.params.policies.rules import BUILTIN, Policy
from llmcli.params.policies.user_functions import PolicySource, file_source, parse_function_reference
from llmcli.params.samplers import SAMPLERS, Args, Sampler, SamplerParams
from llmcli.text import did_you_mean

EXAMPLES = [rule.example for name, rule in BUILTIN.items() if name != "clamp"]


@settings_group("Temperature")
class TemperatureParams:
    temp_policy_file: str | None = setting(
        None,
        "Python function that computes the temperature of each token. --temp can use it by name.",
        metavar="FILE.py:NAME",
        text=parse_function_reference,
        path=True,
    )
    temperature: Policy = setting(
        Fixed(0.8),
        "Sampling temperature: a number (0 = always the likeliest token), a range LOW..HIGH (by the entropy of each "
        "token), or a rule such as sentence:1.1,0.7. Higher is more random; 0.7 to 1 is usual.",
        names="--temperature --temp",
        metavar="X|POLICY",
        suggest=(*("0", "0.7", "0.8", "1", "0.3..1.3", "0.3..1.3^0.7"), *EXAMPLES),
        text=parse_policy,
    )
    dynatemp_range: float = setting(
        0.0, "Dynamic temperature: half width of the range around the temperature (0 = off).", min=0
    )
    dynatemp_exponent: float = setting(
        1.0,
        "Dynamic temperature: exponent of the normalized entropy.",
        above=0,
        names="--dynatemp-exponent --dynatemp-exp",
        needs_any=("dynatemp_range",),
    )
    smoothing_factor: float = setting(
        0.0, "Quadratic smoothing (KoboldCpp): factor, applied after the temperature (0 = off).", min=0
    )
    smoothing_curve: float = setting(
        1.0, "Quadratic smoothing: curve; above 1 favors the most likely tokens more.", min=1
    )
    # Of `temp_policy_file`. Copies of the settings share it, so an answer uses the function that a check loaded.
    policy_source: PolicySource | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        file, source = self.temp_policy_file, self.policy_source
        if file != (source and f"{source.origin}:{source.name}"):
            object.__setattr__(self, "policy_source", file_source(file) if file else None)


@dataclass(frozen=True)
class TemperaturePlan:
    """What the temperature step of a chain does."""

    policy: Policy  # called for each token, unless it is native
    native: tuple[float, float, float] | None = None  # of llama.cpp's `temp_ext`: center, half width and exponent
    only_reads: bool = False  # it changes nothing: the chain has no temperature


NEUTRAL = TemperaturePlan(Fixed(1.0), (1.0, 0.0, 1.0))
ONLY_READS = TemperaturePlan(Fixed(1.0), only_reads=True)


def effective_policy(p: TemperatureParams) -> Policy:
    """The policy that the settings use: that of `temp_policy_file`, unless `temperature` contains it by name."""
    name = (p.temp_policy_file or "").rpartition(":")[2]
    policy = PolicyCall(name) if name and name not in names_in(p.temperature) else p.temperature
    return bind(policy, p.policy_source)


def plan_temperature(p: TemperatureParams, has_mirostat: bool = False) -> TemperaturePlan:
    """The temperature step of these settings; mirostat takes a fixed temperature, or the middle of a range.

    Raises UsageError for mirostat with a policy that llama.cpp does not have.
    """
    policy = effective_policy(p)
    if isinstance(policy, Entropy):
        base, delta, exponent = (policy.low + policy.high) / 2, (policy.high - policy.low) / 2, policy.exponent
    elif isinstance(policy, Fixed):
        base, delta, exponent = policy.value, p.dynatemp_range, p.dynatemp_exponent
    elif has_mirostat:
        hint = "use a number, or set mirostat to 0"
        raise UsageError(f"mirostat needs a number as temperature, got '{policy}'", hint)
    else:
        return TemperaturePlan(policy)
    if delta <= 0 or has_mirostat:
        return TemperaturePlan(Fixed(base), (base, 0.0, 1.0))
    low, high = (float(f"{bound:.9g}") for bound in (base - delta, base + delta))  # 0.8 - 0.5 is 0.30000000000000004
    return TemperaturePlan(Entropy(max(low, 0.0), high, exponent), (base, delta, exponent))


@Sampler(
    fields=("temperature", "temp_policy_file", "dynatemp_range", "dynatemp_exponent"),
    aliases=("temp",),
    constructor="temp_ext",
    heading="temp",
)
def temperature(p: TemperatureParams) -> Args | None:
    """llama.cpp `temp_ext`: logits / T, by entropy if the half width is above 0; or a policy."""
    plan = plan_temperature(p)
    return None if plan.native and plan.native[:2] == (1, 0) else (plan,)


def _smooth(logits: Any, factor: float, curve: float) -> Any:
    best, k, c = logits.max(), (3 - curve) / 2, (curve - 1) / 2
    d = logits - best
    return d * d * factor * (c * d - k) + best


@Sampler(
    fields=("smoothing_factor", "smoothing_curve"), switches=("smoothing_factor",), transform=_smooth, heading="smooth"
)
def smoothing(p: TemperatureParams) -> Args | None:
    """KoboldCpp quadratic sampling (`sample_temperature` with a smoothing factor).

    l' = -k s d^2 + c s d^3 + h with d = l - h for the highest logit h, s = factor, k = (3 - curve) / 2,
    c = (curve - 1) / 2.
    """
    return (p.smoothing_factor, p.smoothing_curve) if p.smoothing_factor > 0 else None


DEFAULT_ORDER = tuple(one.name for one in SAMPLERS.values() if one.place == "default")
SAMPLER_NAMES = (*DEFAULT_ORDER, *(one.name for one in SAMPLERS.values() if one.place == "request"))
_ALIASES = {alias: one.name for one in SAMPLERS.values() for alias in one.aliases}


def parse_samplers(value: object) -> tuple[str, ...]:
    """A list of names, or names separated by `,` or `;`; `default` is llama.cpp's order, `none` an empty chain."""
    if isinstance(value, str):
        if value.strip() in ("default", "none"):
            return DEFAULT_ORDER if value.strip() == "default" else ()
        value = [name for name in value.replace(";", ",").split(",") if name.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of sampler names")
    names: list[str] = []
    for text in value:
        key = str(text).strip().lower().replace("-", "_")
        name = _ALIASES.get(key, key)
        if name not in SAMPLER_NAMES:
            hint = did_you_mean(name, SAMPLER_NAMES) or f"use one of {', '.join(SAMPLER_NAMES)}"
            raise UsageError(f"unknown sampler {quote(text)}", hint)
        names.append(name)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise ValueError(f"a list without duplicates (duplicate: {duplicate})")
    return tuple(names)


@settings_group("Sampler chain")
class ChainParams:
    samplers: tuple[str, ...] = setting(
        DEFAULT_ORDER,
        "Samplers to apply, in order, separated by commas. Omitted samplers are off.",
        metavar="NAME,NAME",
        suggest=("default", "top_k,top_p,temperature", "min_p,temperature", "temperature"),
        data=parse_samplers,
        show=lambda names: ",".join(names) or "none",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingParams(TemperatureParams, SamplerParams, ChainParams):
    """Settings of the sampler chain."""


@dataclass(frozen=True)
class SamplerStep:
    """One sampler of the chain, with its arguments."""

    name: str
    args: Args = ()


def build_chain(p: SamplingParams, needs_temperature: bool = False) -> tuple[SamplerStep, ...]:
    """The steps of the chain for sampling settings `p`, whose seed is set. Samplers that are off are absent.

    With `needs_temperature` there is always a temperature step, with which the engine traces and shifts the
    temperature: a neutral one where the temperature is 1, and one that only reads where `samplers` does not contain it.

    Follows `common_sampler_init` of llama.cpp: mirostat has only a temperature before it, and adaptive_p replaces the
    draw at the end wherever it is named. Logit biases come first; the engine adds them, as they need the vocabulary.
    """
    if p.mirostat:
        plan = plan_temperature(p, has_mirostat=True)
        before = [SamplerStep("temperature", (plan,))] if plan != NEUTRAL or needs_temperature else []
        draw = "mirostat" if p.mirostat == 1 else "mirostat_v2"
    else:
        before = [*_steps_before_draw(p, needs_temperature)]
        draw = "adaptive_p" if "adaptive_p" in p.samplers else "dist"
    return (*before, SamplerStep(draw, SAMPLERS[draw].arguments(p) or ()))


def _steps_before_draw(p: SamplingParams, needs_temperature: bool) -> Iterator[SamplerStep]:
    is_truncated = False
    for one in (SAMPLERS[name] for name in p.samplers):
        args = None if one.draws else one.arguments(p)
        if args is None and one.name == "temperature" and needs_temperature:
            args = (NEUTRAL,)
        if args is None:
            continue
        if one.name == "infill" and not is_truncated:  # it is quadratic: a whole vocabulary takes minutes
            raise UsageError("the sampler infill needs a truncating sampler before it", "use for example top_k,infill")
        is_truncated |= one.is_truncating
        yield SamplerStep(one.name, args)
    if needs_temperature and "temperature" not in p.samplers:
        yield SamplerStep("temperature", (ONLY_READS,))


def check_chain(p: SamplingParams) -> None:
    """Check settings before a model is loaded. Raises UsageError for an invalid chain, temperature or policy file."""
    effective_policy(p).load(keep=True)
    build_chain(replace(p, seed=0))


def is_random(p: SamplingParams) -> bool:
    """Whether another seed can give another answer."""
    policy = effective_policy(p)
    return p.top_k != 1 and not (isinstance(policy, Fixed) and policy.value <= 0)
