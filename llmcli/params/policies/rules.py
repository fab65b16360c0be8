"""The built-in policies: pure functions of a token's step and their arguments that return the token's temperature."""

import math

from llmcli.params.policy.registry import policy
from llmcli.params.policy.step import Temperature, TokenStep


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
