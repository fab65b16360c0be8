"""Settings of the temperature step: a fixed number or a policy, and KoboldCpp's smoothing."""

from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param
from llmcli.params.values import LARGEST_FLOAT, show

Args = tuple[Any, ...]
_SHAPE = "a number such as 0.8 or a range such as 0.3..1.3 or 0.3..1.3^0.7"


@dataclass(frozen=True)
class Fixed:
    """The same temperature for each token; 0 is greedy."""

    value: float

    def __str__(self) -> str:
        return show(self.value)


@dataclass(frozen=True)
class Entropy:
    """Between `low` and `high` by how unsure the model is: low + (high - low) * (H / Hmax) ^ exponent.

    Source: llama.cpp `llama_sampler_temp_ext`, KoboldCpp `sample_entropy`. H is in nats over the live candidates.
    """

    low: float
    high: float
    exponent: float = 1.0

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else "^" + show(self.exponent)
        return f"{show(self.low)}..{show(self.high)}{power}"


Policy = Fixed | Entropy


def parse_policy(text: str) -> Policy:
    """The policy that `text` spells.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    body, caret, power = text.strip().partition("^")
    low, dots, high = body.partition("..")
    if not dots and not caret:
        return Fixed(_number(low))
    if not dots:
        raise ValueError(_SHAPE)
    policy = Entropy(_number(low), _number(high), _number(power) if caret else 1.0)
    if policy.low > policy.high:
        raise ValueError(f"a range from low to high: {show(policy.high)}..{show(policy.low)}")
    if policy.exponent <= 0:
        raise ValueError("a range with an exponent above 0")
    return policy


def policy_from_data(value: Any) -> Policy:
    """The policy of a JSON or TOML value: a number, or the text form."""
    if isinstance(value, (Fixed, Entropy)):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(_SHAPE)
    return parse_policy(value if isinstance(value, str) else repr(value))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(_SHAPE) from None
    if not 0 <= value <= LARGEST_FLOAT:
        raise ValueError("0 or more and finite")
    return value


@dataclass(frozen=True, kw_only=True)
class TemperatureParams:
    """Temperature"""

    temperature: Annotated[
        Policy,
        Param(
            help="How freely tokens are drawn: a number (0 = greedy) or a range low..high[^exponent] that follows "
            "the model's uncertainty token by token.",
            flags=("--temp",),
            keys=("temp",),
            metavar="X|POLICY",
            suggest=("0", "0.7", "0.8", "1", "0.3..1.3", "0.3..1.3^0.7"),
            text=parse_policy,
            data=policy_from_data,
            show=str,
            sampler="temperature",
        ),
    ] = Fixed(0.8)
    dynatemp_range: Annotated[
        float,
        Param(help="Let the temperature vary by this much around its value (0 = off).", min=0.0, sampler="temperature"),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float,
        Param(
            help="How the model's uncertainty maps to the dynamic temperature.",
            above=0.0,
            flags=("--dynatemp-exp",),
            sampler="temperature",
            switch=("dynatemp_range",),
        ),
    ] = 1.0
    smoothing_factor: Annotated[
        float,
        Param(
            help="KoboldCpp's quadratic smoothing, applied after temperature (0 = off).", min=0.0, sampler="smoothing"
        ),
    ] = 0.0
    smoothing_curve: Annotated[
        float,
        Param(
            help="Shape of the smoothing: above 1 favours the best tokens more.",
            min=1.0,
            sampler="smoothing",
            switch=("smoothing_factor",),
        ),
    ] = 1.0


def base_delta_exponent(p: TemperatureParams) -> tuple[float, float, float]:
    """The policy in llama.cpp's terms: centre, half width and exponent of `temp_ext`."""
    policy = p.temperature
    if isinstance(policy, Entropy):
        return (policy.low + policy.high) / 2, (policy.high - policy.low) / 2, policy.exponent
    return policy.value, p.dynatemp_range, p.dynatemp_exponent


def temperature(p: TemperatureParams) -> Args | None:
    """llama.cpp `temp_ext`: logits / T, with T from the entropy when the half width is above 0."""
    base, delta, exponent = base_delta_exponent(p)
    return None if base == 1 and delta <= 0 else (base, delta, exponent)


def smoothing(p: TemperatureParams) -> Args | None:
    """KoboldCpp quadratic sampling (`sample_temperature` with a smoothing factor)."""
    return (p.smoothing_factor, p.smoothing_curve) if p.smoothing_factor > 0 else None
