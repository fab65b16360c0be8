"""Policies as data: comparable values whose `str` is the text that `parse_policy` reads back."""

from dataclasses import dataclass

from llmcli.params.values import show


@dataclass(frozen=True)
class Fixed:
    """The same temperature for each token; 0 is greedy."""

    value: float

    def __str__(self) -> str:
        return show(self.value)


@dataclass(frozen=True)
class Entropy:
    """Between `low` and `high`, by the entropy of the candidates: low + (high - low) * (H / Hmax) ^ exponent.

    Source: llama.cpp `llama_sampler_temp_ext`, KoboldCpp `sample_entropy`. H is in nats over the live candidates.
    """

    low: float
    high: float
    exponent: float = 1.0

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else "^" + show(self.exponent)
        return f"{show(self.low)}..{show(self.high)}{power}"


@dataclass(frozen=True)
class Named:
    """A named policy with its arguments: numbers or other policies, and options."""

    name: str
    args: "tuple[float | Policy, ...]" = ()
    options: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        from llmcli.params.policies.parser import write

        return write(self)


Policy = Fixed | Entropy | Named


def names_in(policy: Policy) -> set[str]:
    """The names of `policy` and of all policies inside it."""
    if not isinstance(policy, Named):
        return set()
    inner = (names_in(arg) for arg in policy.args if not isinstance(arg, float))
    return {policy.name}.union(*inner)
