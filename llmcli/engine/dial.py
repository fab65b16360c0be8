"""The shift of the temperature by the user while an answer is generated, and the log of its moves."""

from collections.abc import Sequence

from llmcli.params.param import LARGEST_FLOAT

_RECENT = 16  # number of last temperatures that limit the shift

# The index of the first draw with a shift, and the shift from then on. Draws of tokens that were removed later, with a
# banned string, count too: so a replay with the same moves has the same shift at every draw.
Move = tuple[int, float]


class Dial:
    """A shift that is added to the temperature of the next tokens. `turn` can be called from any thread."""

    def __init__(self, moves: Sequence[Move] = ()) -> None:
        """`moves` are repeated at the same draws: a replay."""
        self.shift = 0.0
        self.moves: list[Move] = []
        self._replayed = dict(moves)
        self._applied = 0.0
        self._temperatures: tuple[float, ...] = ()
        self._index = self._draws = -1

    def turn(self, by: float) -> float:
        """Change the shift by `by` and return it. If it makes all recent temperatures 0, it is not lowered further."""
        lowest = -max(self._temperatures, default=LARGEST_FLOAT)
        shift = round(min(max(self.shift, lowest) + by, LARGEST_FLOAT), 4)
        self.shift = max(shift, lowest)
        return self.shift

    def gave(self, temperature: float) -> None:
        """Record the temperature of a token before the shift, or the maximum of the policy."""
        self._temperatures = (*self._temperatures[1 - _RECENT :], temperature)

    def at(self, index: int) -> float:
        """The shift for the draw of token `index`; the same when a grammar rejects the token and it is drawn again."""
        if index == self._index:
            return self._applied
        self._index, self._draws = index, self._draws + 1
        if self._draws in self._replayed:
            self.shift = self._replayed[self._draws]
        shift = self.shift
        if shift != self._applied:
            self.moves.append((self._draws, shift))
            self._applied = shift
        return shift
