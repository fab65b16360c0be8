"""The temperature moved by keys while an answer streams: what a key press does, and the texts about it."""

from typing import TYPE_CHECKING

from llmcli.params.chain import plan
from llmcli.params.policies.policy import Policy
from llmcli.params.settings import Settings
from llmcli.text import excerpt

if TYPE_CHECKING:  # the engine is imported behind the prompt
    from llmcli.chat.turn import Turn

_STEP = 0.1  # degrees of one key press
_MOST_MOVES = 4  # in the note; of more, the first and the last
_LONGEST_POLICY = 20  # characters: the row fits 40 columns
_KEYS = "↑↓"


class Steering:
    """For one answer. `row` stands below the answer, `note` is what there is to print after it."""

    def __init__(self, turn: "Turn") -> None:
        self._answer, self._dial = turn.answer, turn.dial
        self._policy = _temperature_policy(turn.resolved.settings)
        self.pressed = False  # whether a key asked for another temperature

    @property
    def n_tokens(self) -> int:
        """How many tokens the answer has so far."""
        return self._answer.n_drawn

    def step(self, steps: int) -> None:
        """Move the temperature of the tokens to come, up or down; from any thread."""
        self.pressed = True
        if self._policy:
            self._dial.turn(steps * _STEP)

    def row(self) -> str:
        """What the keys do, then the temperature and its move: `0.8 → 1.0`, or `0.3..1.3 +0.2`."""
        if not self.pressed:
            return f"{_KEYS} warmer, colder" if self._policy else ""
        if not self._policy:
            return f"{_KEYS} no temperature in the samplers"
        now, shift = self._current_policy(), self._dial.shift
        try:
            before = float(now)
        except ValueError:
            return f"{_KEYS} temp {excerpt(now, _LONGEST_POLICY)}" + (f" {signed(shift)}" if shift else "")
        return f"{_KEYS} temp {degrees(before)}" + (f" → {degrees(max(before + shift, 0.0))}" if shift else "")

    def note(self) -> str:
        """Each move and its first token; empty where the keys did nothing worth a line."""
        if not self.pressed:
            return ""
        if not self._policy:
            return f"{_KEYS} had no effect: there is no temperature in the samplers"
        moves = [f"{signed(shift)} from token {index}" for index, shift in self._dial.moves]
        if len(moves) > _MOST_MOVES:
            moves[1:-1] = [f"{len(moves) - 2} more"]
        return f"temperature moved: {', '.join(moves)}" if moves else ""

    def _current_policy(self) -> str:
        """The part of the policy that the last token was drawn with, as text."""
        last = next((token.policy for token in reversed(self._answer.traces) if token.policy), "")
        return last or str(self._policy)


def _temperature_policy(settings: Settings) -> Policy | None:
    """The policy of the temperature step; None where there is no such step."""
    from llmcli.engine.sampling.temperature import policy_of

    args = next((step.args for step in plan(settings, steered=True) if step.name == "temperature"), ())
    if not args:
        return None
    return policy_of(*args) if len(args) == 3 else args[0]


def degrees(value: float) -> str:
    """A temperature with one or two decimals."""
    text = f"{value:.2f}"
    return text.removesuffix("0")


def signed(shift: float) -> str:
    """`+0.2`, `-0.1`."""
    return ("-" if shift < 0 else "+") + degrees(abs(shift))
