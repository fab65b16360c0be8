"""The temperature moved by keys while an answer comes: what a step does, and what is said of it."""

from typing import TYPE_CHECKING

from llmcli.chat.excerpt import excerpt
from llmcli.params.policy.tree import Policy
from llmcli.params.samplers import plan
from llmcli.params.settings import Settings

if TYPE_CHECKING:  # the engine is imported behind the prompt
    from llmcli.chat.turn import Turn

_DEGREES = 0.1  # of one step
_MOST_TOLD = 4  # moves
_LONGEST = 20  # characters of a policy: the row fits 40 columns
_KEYS = "↑↓"


class Steering:
    """For one answer. `row` is what stands below it once a key was pressed, `note` what is left to say afterwards."""

    def __init__(self, turn: "Turn") -> None:
        self._answer, self._dial = turn.answer, turn.dial
        self._policy = _steerable(turn.resolved.settings)
        self._pressed = False

    def step(self, steps: int) -> None:
        """Move the temperature of the tokens to come, up or down; from any thread."""
        self._pressed = True
        if self._policy:
            self._dial.turn(steps * _DEGREES)

    def row(self) -> str:
        """The temperature and how it was moved: `0.8 → 1.0`, or `0.3..1.3 +0.2`."""
        if not self._policy:
            return f"{_KEYS} no temperature among the samplers"
        now, shift = self._in_force(), self._dial.shift
        try:
            before = float(now)
        except ValueError:
            return f"{_KEYS} temp {excerpt(now, _LONGEST)}" + (f" {signed(shift)}" if shift else "")
        return f"{_KEYS} temp {degrees(before)}" + (f" → {degrees(max(before + shift, 0.0))}" if shift else "")

    def note(self) -> str:
        """What was moved, from which token on; empty where there is nothing to say."""
        if not self._pressed:
            return ""
        if not self._policy:
            return "the keys moved nothing: there is no temperature among the samplers"
        told = [f"{signed(shift)} from token {index}" for index, shift in self._dial.moves]
        if len(told) > _MOST_TOLD:
            told[1:-1] = [f"{len(told) - 2} more"]
        return f"temperature moved: {', '.join(told)}" if told else ""

    def _in_force(self) -> str:
        """The part of the policy that the last token was drawn with, as text."""
        last = next((token.policy for token in reversed(self._answer.traces) if token.policy), "")
        return last or str(self._policy)


def _steerable(settings: Settings) -> Policy | None:
    """The policy of the temperature step; None where there is no such step."""
    from llmcli.engine.temperature import policy_of

    args = next((step.args for step in plan(settings, steered=True) if step.name == "temperature"), ())
    return policy_of(*args) if len(args) == 3 else args[0] if args else None


def degrees(value: float) -> str:
    """With one digit behind the point at least, and two at most."""
    text = f"{value:.2f}"
    return text.removesuffix("0")


def signed(shift: float) -> str:
    """`+0.2`, `-0.1`."""
    return ("-" if shift < 0 else "+") + degrees(abs(shift))
