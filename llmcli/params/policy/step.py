"""What a temperature policy is told about the token that is drawn next."""

from collections.abc import Callable, Sequence

# The probabilities of the live candidates, the likeliest first, and their entropy.
Distribution = Callable[[], tuple[Sequence[float], float]]


class TokenStep:
    """One token to be drawn. All counts begin at 0, and begin anew where reasoning ends and the answer begins.

    `entropy` (nats), `candidates` and `p` (the likeliest first) are those of the live candidates where the
    temperature stands in the chain, before it; a candidate that was masked to -inf is not live. They are computed
    when they are asked for, while the token is drawn and not later.
    """

    __slots__ = ("_distribution", "_known", "index", "line", "paragraph", "sentence", "thinking")

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
        self._known: tuple[Sequence[float], float] | None = None
        self.index = index
        self.sentence = sentence
        self.line = line
        self.paragraph = paragraph
        self.thinking = thinking

    def _ask(self) -> tuple[Sequence[float], float]:
        if self._known is None:
            self._known = self._distribution()
        return self._known

    def end(self) -> None:
        """The token is drawn and its candidates are gone: what was not asked for can no longer be."""
        self._distribution = _gone

    @property
    def p(self) -> Sequence[float]:
        return self._ask()[0]

    @property
    def entropy(self) -> float:
        return self._ask()[1]

    @property
    def candidates(self) -> int:
        return len(self._ask()[0])


def _gone() -> tuple[Sequence[float], float]:
    raise RuntimeError("the candidates of an earlier token are gone: a step holds while its token is drawn")


Temperature = Callable[[TokenStep], float]  # what a policy is once it is put together; 0 is greedy
