"""What a temperature policy is told about the token that is drawn next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One token to be drawn. All counts begin at 0, and begin anew where reasoning ends and the answer begins.

    `entropy` (nats), `candidates` and `p` (the likeliest first) are those of the live candidates where the
    temperature stands in the chain, before it; a candidate that was masked to -inf is not live.
    """

    entropy: float
    candidates: int
    p: Sequence[float]
    index: int
    sentence: int = 0
    line: int = 0
    paragraph: int = 0
    thinking: bool = False


Temperature = Callable[[TokenStep], float]  # what a policy is once it is put together; 0 is greedy
