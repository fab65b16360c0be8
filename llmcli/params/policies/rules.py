"""The built-in temperature policies, and the table of all that have a name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Returns the probabilities of the live candidates, the most likely first, and their entropy in nats.
Distribution = Callable[[], tuple[Sequence[float], float]]
Function = Callable[..., Any]  # (TokenStep, numbers and Temperatures...) -> the temperature of the token
GROUP = "llmcli.temperature_policies"  # the entry point group for packages with policies


@dataclass(frozen=True)
class PolicySpec:
    """A named policy: its form in the grammar, an example, and how to load its function.

    A `positive` policy accepts only temperatures above 0. `origin` is empty for built-in policies, else a file or a
    package.
    """

    name: str
    form: str
    example: str
    load: Callable[[], Function]
    positive: bool = False
    origin: str = ""


_BUILTIN: dict[str, PolicySpec] = {}
_USER_POLICIES: dict[str, PolicySpec] = {}


def policy(form: str, example: str, positive: bool = False) -> Callable[[Function], Function]:
    """Decorator that registers a pure function as the built-in policy of the same name."""

    def register(function: Function) -> Function:
        name = function.__name__
        _BUILTIN[name] = PolicySpec(name, form, example, lambda: function, positive)
        return function

    return register


def builtin_policies() -> dict[str, PolicySpec]:
    """The built-in policies by name."""
    return _BUILTIN


def register_policy(name: str, origin: str, load: Callable[[], Function]) -> None:
    """Register `name` as a user's policy; its code is loaded when it is first used.

    Raises:
        ValueError: when a built-in policy has this name; the text completes "must be ...".
    """
    if name in builtin_policies():
        raise ValueError(f"a function that is not named like a built-in policy ({name})")
    _USER_POLICIES[name] = PolicySpec(name, "numbers", name, load, origin=origin)


def get_policy(name: str) -> PolicySpec | None:
    """The policy called `name`, if it exists."""
    return builtin_policies().get(name) or _USER_POLICIES.get(name) or _from_package(name)


def known_names() -> list[str]:
    """The names of policies, without those of installed packages (reading these takes 10 ms)."""
    return [name for name in (*builtin_policies(), *_USER_POLICIES) if name != "clamp"]


def _from_package(name: str) -> PolicySpec | None:
    from importlib.metadata import entry_points  # takes 10 ms, so only for names that are not registered

    found = next((point for point in entry_points(group=GROUP) if point.name == name), None)
    if found is None:
        return None
    return PolicySpec(name, "numbers", name, found.load, origin=found.dist.name if found.dist else found.value)


class TokenStep:
    """The next token. All counts start at 0, and restart at 0 when the reasoning ends and the answer starts.

    `entropy` (nats), `candidates` (their number) and `p` (probabilities, the most likely first) describe the live
    candidates just before the temperature step of the chain; a candidate masked to -inf is not live. They are computed
    on first use, which must be while the token is drawn: llama.cpp reuses the memory of the candidates afterwards.
    """

    __slots__ = ("_cached", "_distribution", "index", "line", "paragraph", "sentence", "thinking")

    def __init__(
        self,
        distribution: Distribution,
        index: int = 0,
        sentence: int = 0,
        line: int = 0,
        paragraph: int = 0,
        thinking: bool = False,
    ) -> None:
        self._distribution = distribution
        self._cached: tuple[Sequence[float], float] | None = None
        self.index = index
        self.sentence = sentence
        self.line = line
        self.paragraph = paragraph
        self.thinking = thinking

    def _distribution_once(self) -> tuple[Sequence[float], float]:
        if self._cached is None:
            self._cached = self._distribution()
        return self._cached

    def end(self) -> None:
        """Mark the token as drawn: what was not computed until now raises an error."""
        self._distribution = _raise_ended

    @property
    def p(self) -> Sequence[float]:
        return self._distribution_once()[0]

    @property
    def entropy(self) -> float:
        return self._distribution_once()[1]

    @property
    def candidates(self) -> int:
        return len(self._distribution_once()[0])


def _raise_ended() -> tuple[Sequence[float], float]:
    raise RuntimeError(
        "the candidates of an earlier token are not available: a step is valid only while its token is drawn"
    )


Temperature = Callable[[TokenStep], float]  # a policy as a function; 0 is greedy


def fixed(_step: TokenStep, value: float) -> float:
    """The same temperature for each token."""
    return value


def entropy(step: TokenStep, low: float, high: float, exponent: float = 1.0) -> float:
    """low + (high - low) * (H / Hmax) ^ exponent, with Hmax = ln(candidates); `low` for a single candidate.

    Source: llama.cpp `llama_sampler_temp_ext` (which leaves a single candidate alone), KoboldCpp `sample_entropy`.
    """
    return by_entropy(step.entropy, step.candidates, low, high, exponent)


def by_entropy(nats: float, candidates: int, low: float, high: float, exponent: float) -> float:
    """The formula of `entropy`, for an entropy in nats over `candidates` tokens."""
    if candidates < 2:
        return low
    return low + (high - low) * math.pow(min(nats / math.log(candidates), 1.0), exponent)


@policy("numbers", "edt:0.8,theta=0.1")
def edt(step: TokenStep, base: float, theta: float = 0.1) -> float:
    """T = T0 * 0.8 ^ (theta / H): a lower temperature where the model is certain; greedy where H is 0.

    Source: Zhang et al. 2024, "EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature
    Sampling" (arXiv:2403.14541), eq. 6 with N = 0.8. H is in nats, over the live candidates only.
    """
    return base * math.pow(0.8, theta / step.entropy) if step.entropy > 0 else 0.0


@policy("schedule", "linear:1.2->0.5@200")
def linear(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """From `start` to `end` in equal steps over `tokens` tokens, then `end`."""
    return start + (end - start) * min(step.index / tokens, 1.0)


@policy("schedule", "cosine:1.2->0.5@200")
def cosine(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """end + (start - end) * (1 + cos(pi * i / tokens)) / 2: a slow change at both ends.

    Source: the cosine annealing of Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5.
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(step.index / tokens, 1.0))) / 2


@policy("schedule", "exp:1.2->0.5@200", positive=True)
def exp(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """start * (end / start) ^ (i / tokens): the same factor from each token to the next."""
    progress = min(step.index / tokens, 1.0)
    return math.pow(start, 1.0 - progress) * math.pow(end, progress)  # end / start may be too large for a float


@policy("parts", "sentence:1.1,0.7,0.4")
def sentence(step: TokenStep, *policies: Temperature) -> float:
    """One policy per sentence, in order; the last policy for all later sentences."""
    return policies[min(step.sentence, len(policies) - 1)](step)


@policy("parts", "line:1.1,0.7")
def line(step: TokenStep, *policies: Temperature) -> float:
    """One policy per line, in order; blank lines do not count."""
    return policies[min(step.line, len(policies) - 1)](step)


@policy("parts", "paragraph:1.1,0.7")
def paragraph(step: TokenStep, *policies: Temperature) -> float:
    """One policy per paragraph, in order."""
    return policies[min(step.paragraph, len(policies) - 1)](step)


@policy("split", "think=1.0,answer=0.6")
def think(step: TokenStep, thinking: Temperature, answer: Temperature) -> float:
    """One policy for the reasoning and one for the answer."""
    return thinking(step) if step.thinking else answer(step)


@policy("clamp", "linear:1.5->0.1@200,clamp=0.2..1.2")
def clamp(step: TokenStep, inner: Temperature, low: float, high: float) -> float:
    """The temperature of another policy, limited to the range from `low` to `high`."""
    return min(max(inner(step), low), high)
