"""Settings of the temperature step: a number or a policy, and KoboldCpp's smoothing."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from llmcli.errors import UsageError
from llmcli.params.param import Param, is_number
from llmcli.params.policies.parser import SHAPE, parse_policy
from llmcli.params.policies.policy import Entropy, Fixed, Policy, PolicyCall, names_in, parse_function_reference

Args = tuple[Any, ...]


def policy_from_data(value: Any) -> Policy:
    """The policy of a JSON or TOML value: a number or a text."""
    if isinstance(value, Policy):
        return value
    if not is_number(value) and not isinstance(value, str):
        raise ValueError(SHAPE)
    return parse_policy(value if isinstance(value, str) else repr(value))


@dataclass(frozen=True, kw_only=True)
class TemperatureParams:
    """Settings of the temperature step and of smoothing."""

    TITLE: ClassVar[str] = "Temperature"

    temp_policy_file: Annotated[
        str | None,
        Param(
            "Python function that computes the temperature of each token. --temp can use it by name.",
            metavar="FILE.py:NAME",
            text=parse_function_reference,
            data=lambda value: parse_function_reference(value if isinstance(value, str) else ""),
            path=True,
            sampler="temperature",
        ),
    ] = None
    temperature: Annotated[
        Policy,
        Param(
            "Sampling temperature: a number (0 = greedy), an entropy range LOW..HIGH[^EXPONENT], or a policy by "
            "position, sentence, line, paragraph or reasoning. Higher is more random; 0.7 to 1 is usual.",
            flags=("--temp",),
            keys=("temp",),
            metavar="X|POLICY",
            suggest=(
                "0",
                "0.7",
                "0.8",
                "1",
                "0.3..1.3",
                "0.3..1.3^0.7",
                "edt:0.8,theta=0.1",
                "linear:1.2->0.5@200",
                "cosine:1.2->0.5@200",
                "exp:1.2->0.5@200",
                "sentence:1.1,0.7,0.4",
                "line:1.1,0.7",
                "paragraph:1.1,0.7",
                "think=1.0,answer=0.6",
            ),
            text=parse_policy,
            data=policy_from_data,
            show=str,
            sampler="temperature",
        ),
    ] = Fixed(0.8)
    dynatemp_range: Annotated[
        float,
        Param(
            "Dynamic temperature: half width of the range around the temperature (0 = off).",
            min=0,
            sampler="temperature",
        ),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float,
        Param(
            "Dynamic temperature: exponent of the normalized entropy.",
            above=0,
            flags=("--dynatemp-exp",),
            sampler="temperature",
            needs_any=("dynatemp_range",),
        ),
    ] = 1.0
    smoothing_factor: Annotated[
        float,
        Param(
            "Quadratic smoothing (KoboldCpp): factor, applied after the temperature (0 = off).",
            min=0,
            sampler="smoothing",
        ),
    ] = 0.0
    smoothing_curve: Annotated[
        float,
        Param(
            "Quadratic smoothing: curve; above 1 favors the most likely tokens more.",
            min=1,
            sampler="smoothing",
            needs_any=("smoothing_factor",),
        ),
    ] = 1.0


def effective_policy(p: TemperatureParams) -> Policy:
    """The policy that the settings use: that of `temp_policy_file`, unless `temperature` contains it by name."""
    if not p.temp_policy_file:
        return p.temperature
    # Parsed again to register it again: another file can have registered the same name since.
    name = parse_function_reference(p.temp_policy_file).rpartition(":")[2]
    return p.temperature if name in names_in(p.temperature) else PolicyCall(name)


def base_delta_exponent(p: TemperatureParams) -> tuple[float, float, float]:
    """A fixed or entropy policy as arguments of llama.cpp's `temp_ext`: center, half width and exponent.

    Raises:
        UsageError: for any other policy, which llama.cpp does not have.
    """
    policy = effective_policy(p)
    if isinstance(policy, Entropy):
        return (policy.low + policy.high) / 2, (policy.high - policy.low) / 2, policy.exponent
    if isinstance(policy, Fixed):
        return policy.value, p.dynatemp_range, p.dynatemp_exponent
    raise UsageError(f"mirostat needs a number as temperature, got '{policy}'", "use a number, or set mirostat to 0")


def temperature(p: TemperatureParams) -> Args | None:
    """llama.cpp `temp_ext`: logits / T, by entropy if the half width is above 0. A named policy is one argument."""
    policy = effective_policy(p)
    if isinstance(policy, PolicyCall):
        return (policy,)
    base, delta, exponent = base_delta_exponent(p)
    return None if base == 1 and delta <= 0 else (base, delta, exponent)


def smoothing(p: TemperatureParams) -> Args | None:
    """KoboldCpp quadratic sampling (`sample_temperature` with a smoothing factor)."""
    return (p.smoothing_factor, p.smoothing_curve) if p.smoothing_factor > 0 else None
