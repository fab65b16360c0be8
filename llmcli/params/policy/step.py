"""The input of a temperature policy: the state before the next token is drawn."""

from collections.abc import Callable, Sequence

# Returns the probabilities of the live candidates, the most likely first, and their entropy in nats.
Distribution = Callable[[], tuple[Sequence[float], float]]


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
