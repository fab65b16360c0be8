"""The policies: each a pure function of the token's step and its own numbers that returns the token's temperature."""

import math

from llmcli.params.policy.registry import policy
from llmcli.params.policy.step import Temperature, TokenStep


def fixed(_step: TokenStep, value: float) -> float:
    """The same for each token."""
    return value


def entropy(step: TokenStep, low: float, high: float, exponent: float = 1.0) -> float:
    """low + (high - low) * (H / Hmax) ^ exponent, with Hmax = ln(candidates); low where only one is left.

    Source: llama.cpp `llama_sampler_temp_ext` (which leaves a single candidate alone), KoboldCpp `sample_entropy`.
    """
    return by_entropy(step.entropy, step.candidates, low, high, exponent)


def by_entropy(nats: float, candidates: int, low: float, high: float, exponent: float) -> float:
    """The formula of `entropy`."""
    if candidates < 2:
        return low
    return low + (high - low) * math.pow(min(nats / math.log(candidates), 1.0), exponent)


@policy("numbers", "edt:0.8,theta=0.1")
def edt(step: TokenStep, base: float, theta: float = 0.1) -> float:
    """T = T0 * 0.8 ^ (theta / H): sure tokens are drawn colder; greedy where H is 0.

    Source: Zhang et al. 2024, "EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature
    Sampling" (arXiv:2403.14541), eq. 6 with N = 0.8. H is in nats, here over the live candidates.
    """
    return base * math.pow(0.8, theta / step.entropy) if step.entropy > 0 else 0.0


@policy("schedule", "linear:1.2->0.5@200")
def linear(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """From `start` to `end` in equal steps over so many tokens, then `end`."""
    return start + (end - start) * min(step.index / tokens, 1.0)


@policy("schedule", "cosine:1.2->0.5@200")
def cosine(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """end + (start - end) * (1 + cos(pi * i / tokens)) / 2: slow at both ends.

    Source: the cosine annealing of Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5.
    """
    return end + (start - end) * (1 + math.cos(math.pi * min(step.index / tokens, 1.0))) / 2


@policy("schedule", "exp:1.2->0.5@200", positive=True)
def exp(step: TokenStep, start: float, end: float, tokens: float) -> float:
    """start * (end / start) ^ (i / tokens): by the same factor from token to token."""
    done = min(step.index / tokens, 1.0)
    return math.pow(start, 1.0 - done) * math.pow(end, done)  # the quotient may be too large for a float


@policy("parts", "sentence:1.1,0.7,0.4")
def sentence(step: TokenStep, *each: Temperature) -> float:
    """The first sentence by the first policy, the second by the second, every later one by the last."""
    return each[min(step.sentence, len(each) - 1)](step)


@policy("parts", "line:1.1,0.7")
def line(step: TokenStep, *each: Temperature) -> float:
    """As `sentence`, by line; blank lines do not count."""
    return each[min(step.line, len(each) - 1)](step)


@policy("parts", "paragraph:1.1,0.7")
def paragraph(step: TokenStep, *each: Temperature) -> float:
    """As `sentence`, by paragraph."""
    return each[min(step.paragraph, len(each) - 1)](step)


@policy("split", "think=1.0,answer=0.6")
def think(step: TokenStep, thinking: Temperature, answer: Temperature) -> float:
    """One policy for the reasoning, one for the answer."""
    return thinking(step) if step.thinking else answer(step)


@policy("clamp", "linear:1.5->0.1@200,clamp=0.2..1.2")
def clamp(step: TokenStep, inner: Temperature, low: float, high: float) -> float:
    """What another policy says, kept between two temperatures."""
    return min(max(inner(step), low), high)
