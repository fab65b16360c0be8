"""Trace of an answer: how each token was sampled, as data."""

from typing import Literal, NamedTuple

Measure = Literal["temperature", "p", "entropy"]  # values that can color tokens


class Alternative(NamedTuple):
    """A token that could have been drawn.

    `before` is its probability in the distribution of the model, over the whole vocabulary; `p` its probability after
    the chain, 0 if the chain removed it.
    """

    id: int
    text: str
    before: float
    p: float


class TokenTrace(NamedTuple):
    """One token of an answer and how it was drawn. The texts of all tokens together are exactly the answer.

    Attributes:
        i: index in the answer, from 0.
        id: None for text without a token of this answer (a prefill, or text that was held back at the end).
        text: text of the answer that is final after this token; it can be empty or have several lines.
        p: probability after the chain.
        rank: rank by this probability, from 1.
        entropy: of the live candidates before the temperature step, in nats.
        temperature: the applied temperature; 0 is greedy.
        candidates: number of live candidates before the temperature step.
        top: the most likely alternatives by `before`, the most likely first; () without a request for them.
        policy: the part of the policy that was used, as text: "0.7", "0.3..1.3".
        sentence: index of the sentence, from 0.
        time: milliseconds since the start of the generation.
        reasoning: text of the reasoning that is final after this token.
        thinking: whether it is part of the reasoning.
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
