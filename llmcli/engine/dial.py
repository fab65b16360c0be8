"""The temperature moved by hand while an answer is being written, and what was moved when."""

from collections.abc import Sequence

from llmcli.params.values import LARGEST_FLOAT

_LATELY = 16  # tokens whose temperatures say what is cold enough

# The first token it counts for, and the shift from then on. Tokens are counted as they are drawn, so that what is
# drawn again after a banned string counts again: then the same moves lead the same way.
Move = tuple[int, float]


class Dial:
    """What is added to the temperature of one answer's tokens to come. `turn` may be called from any thread."""

    def __init__(self, moves: Sequence[Move] = ()) -> None:
        """`moves` are made again at the same tokens: a replay."""
        self.shift = 0.0
        self.moves: list[Move] = []
        self._again = dict(moves)
        self._counted = 0.0
        self._given: tuple[float, ...] = ()
        self._index = self._drawn = -1

    def turn(self, by: float) -> float:
        """Move by so many degrees; returns the shift. What has made 0 of all temperatures is not moved further."""
        lowest = -max(self._given, default=LARGEST_FLOAT)
        shift = round(min(max(self.shift, lowest) + by, LARGEST_FLOAT), 4)
        self.shift = max(shift, lowest)
        return self.shift

    def gave(self, temperature: float) -> None:
        """Tell what the policy gave for a token, or the most that it ever gives."""
        self._given = (*self._given[1 - _LATELY :], temperature)

    def at(self, index: int) -> float:
        """The shift for token `index`, which is drawn now; the same when a grammar has it drawn twice."""
        if index == self._index:
            return self._counted
        self._index, self._drawn = index, self._drawn + 1
        if self._drawn in self._again:
            self.shift = self._again[self._drawn]
        shift = self.shift
        if shift != self._counted:
            self.moves.append((self._drawn, shift))
            self._counted = shift
        return shift
