"""The built-in temperature policies, one pure function each, and what every policy is and sees."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

# Returns the probabilities of the live candidates, the most likely first, and their entropy in nats.
Distribution = Callable[[], tuple[Sequence[float], float]]
Function = Callable[..., float]  # (TokenStep, numbers and Temperatures...) -> the temperature of the token


@dataclass(eq=False)
class TokenStep:
    """The next token. All counts start at 0, and restart at 0 when the reasoning ends and the answer starts.

    `entropy` (nats), `candidates` (their number) and `p` (probabilities, the most likely first) describe the live
    candidates just before the temperature step of the chain; a candidate masked to -inf is not live. They are computed
    on first use, which must be while the token is drawn: llama.cpp reuses the memory of the candidates afterwards.
    """

    distribution: Distribution | None  # None: the token is drawn
    index: int = 0
    sentence: int = 0
    line: int = 0
    paragraph: int = 0
    thinking: bool = False

    @cached_property
    def _computed(self) -> tuple[Sequence[float], float]:
        if not self.distribution:
            raise RuntimeError(
                "the candidates of an earlier token are not available: a step is valid only while its token is drawn"
            )
        return self.distribution()

    @property
    def p(self) -> Sequence[float]:
        return self._computed[0]

    @property
    def entropy(self) -> float:
        return self._computed[1]

    @property
    def candidates(self) -> int:
        return len(self._computed[0])

    def end(self) -> None:
        """Mark the token as drawn: what was not computed until now raises an error."""
        self.distribution = None


Temperature = Callable[[TokenStep], float]  # a policy as a function; 0 is greedy


class Policy:
    """A temperature policy."""

    def __call__(self, step: TokenStep) -> float:
        """The temperature of the token; 0 is greedy."""
        raise NotImplementedError

    def explain(self, _step: TokenStep) -> str:
        """The part of the policy that the token uses, such as "0.7" of "think=1,answer=0.7"."""
        return str(self)

    def load(self, keep: bool = False) -> None:
        """Load the functions of users; with `keep`, the next load from the same settings gets the same ones.

        Raises UsageError when one cannot be loaded, or does not accept its arguments.
        """


@dataclass(frozen=True)
class PolicyRule:
    """A built-in policy: its function, form in the grammar, and example. Numbers of a `positive` one are above 0."""

    function: Function
    form: str
    example: str
    positive: bool = False


BUILTIN: dict[str, PolicyRule] = {}


def policy(form: str, example: str, positive: bool = False) -> Callable[[Function], Function]:
    """Decorator that makes a pure function the built-in policy of the same name."""

    def declare(function: Function) -> Function:
        BUILTIN[function.__name__] = PolicyRule(function, form, example, positive)
        return function

    return declare


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
