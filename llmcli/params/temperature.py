"""Settings of the temperature step: a number or a policy, and KoboldCpp's smoothing; and the plan of the step."""

from dataclasses import dataclass

from llmcli.errors import UsageError
from llmcli.params.param import setting, settings_group
from llmcli.params.policies.parser import parse_policy
from llmcli.params.policies.policy import Entropy, Fixed, Policy, PolicyCall, bind, names_in, parse_function_reference
from llmcli.params.policies.rules import BUILTIN

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
        flags=("--temp",),
        keys=("temp",),
        metavar="X|POLICY",
        suggest=(*("0", "0.7", "0.8", "1", "0.3..1.3", "0.3..1.3^0.7"), *EXAMPLES),
        text=parse_policy,
        show=str,
    )
    dynatemp_range: float = setting(
        0.0, "Dynamic temperature: half width of the range around the temperature (0 = off).", min=0
    )
    dynatemp_exponent: float = setting(
        1.0,
        "Dynamic temperature: exponent of the normalized entropy.",
        above=0,
        flags=("--dynatemp-exp",),
        needs_any=("dynatemp_range",),
    )
    smoothing_factor: float = setting(
        0.0, "Quadratic smoothing (KoboldCpp): factor, applied after the temperature (0 = off).", min=0
    )
    smoothing_curve: float = setting(
        1.0, "Quadratic smoothing: curve; above 1 favors the most likely tokens more.", min=1
    )


@dataclass(frozen=True)
class TemperaturePlan:
    """What the temperature step of a chain does.

    With `native`, llama.cpp's `temp_ext` applies the policy, and these are its arguments: center, half width and
    exponent. Without, the policy is called for each token. A plan that `only_reads` changes nothing: the chain has no
    temperature.
    """

    policy: Policy
    native: tuple[float, float, float] | None = None
    only_reads: bool = False


NEUTRAL = TemperaturePlan(Fixed(1.0), (1.0, 0.0, 1.0))
ONLY_READS = TemperaturePlan(Fixed(1.0), only_reads=True)


def effective_policy(p: TemperatureParams) -> Policy:
    """The policy that the settings use: that of `temp_policy_file`, unless `temperature` contains it by name."""
    name = (p.temp_policy_file or "").rpartition(":")[2]
    policy = PolicyCall(name) if name and name not in names_in(p.temperature) else p.temperature
    return bind(policy, p.temp_policy_file)


def plan_temperature(p: TemperatureParams, has_mirostat: bool = False) -> TemperaturePlan:
    """The temperature step of these settings; mirostat takes a fixed temperature, or the middle of a range.

    Raises:
        UsageError: for mirostat with a policy that llama.cpp does not have.
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
