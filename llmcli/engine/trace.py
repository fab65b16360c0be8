"""What sampling did to each token of an answer, as data."""

from typing import Literal, NamedTuple

Measure = Literal["temperature", "p", "entropy"]  # what tokens can be coloured by


class Alternative(NamedTuple):
    """A token that could have been drawn.

    `before` is its probability in the model's own distribution, over the whole vocabulary; `p` that in the
    distribution that was sampled, 0 where the chain removed it.
    """

    id: int
    text: str
    before: float
    p: float


class TokenTrace(NamedTuple):
    """One token of an answer and how it was drawn; the texts of all tokens joined are the answer exactly.

    Attributes:
        i: index in the answer, from 0.
        id: None for text that no token of this answer stands for (a prefill; what was held back at the end).
        text: what became certain of the answer with this token; it may be empty or hold several lines.
        p: probability in the distribution that was sampled.
        rank: 1 for the likeliest candidate of that distribution.
        entropy: nats, of the live candidates where the temperature stands, before it.
        temperature: the one that was applied; 0 is greedy.
        candidates: how many live candidates the temperature saw.
        top: the likeliest alternatives by `before`, the likeliest first; () where not asked for.
        policy: the part of the policy that was in force, as text: "0.7", "0.3..1.3".
        sentence: from 0.
        time: milliseconds since the first token of the answer was asked for.
        reasoning: what became certain of the model's reasoning with this token.
        thinking: whether it was drawn inside the reasoning.
    """

    i: int
    id: int | None
    text: str
    p: float | None
    rank: int | None
    entropy: float | None
    temperature: float | None
    candidates: int | None
    top: tuple[Alternative, ...]
    policy: str
    sentence: int
    time: float
    reasoning: str = ""
    thinking: bool = False
