"""The screen while the model works: a spinner, then the answer with a row below it; Ctrl-C stops it."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError
from llmcli.params.policies.policy import Policy
from llmcli.params.sampler_chain import build_chain
from llmcli.params.settings import Settings
from llmcli.text import ellipsize, plural
from llmcli.ui.chat.answer_display import display
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.interrupt import disable_echo, interruptible
from llmcli.ui.terminal.progress import Spinner

if TYPE_CHECKING:
    from llmcli.chat.turn import Turn

_PRESSES = 3  # of Ctrl-C raise KeyboardInterrupt; the first one stops the answer, so a second one has no effect
_STOP = "Ctrl-C stops"
_STOP_LOOP = "the answer repeats itself: Ctrl-C stops"  # fits 40 columns
_STEP = 0.1  # the change of the temperature by a key press
_MOST_MOVES = 4  # in the note; of more moves, the first and the last
_LONGEST_POLICY = 20  # characters, so that the row fits 40 columns
_KEYS = "↑↓"
_WINDOWS = (1200, 4000)  # characters at the end of the text; a repeated part is at most a quarter of one
_EVERY = 400  # new characters between two checks, each of which takes less than a millisecond
_GRAM = 12  # characters, about three words: the unit that is compared
_FEWEST = 0.25  # share of different units: prose has more than 0.9, tables and code more than 0.35


class BusyScreen:
    """For one answer; until its first word, `spinner` shows what is happening."""

    def __init__(self, settings: Settings, live: bool) -> None:
        self._live = live
        self._display = display(settings, live)
        self._keys: TemperatureKeys | None = None
        self._repetition = RepetitionDetector()
        self.spinner = Spinner(self._display.status)

    @property
    def repeats(self) -> bool:
        """Whether the answer repeats itself."""
        return self._repetition.found

    @contextmanager
    def open(
        self, abort: Cancellation, doing: str, temperature_keys: "TemperatureKeys | None" = None
    ) -> Iterator[None]:
        """Within this block Ctrl-C sets `abort`, keys are not echoed, and only `show` may write.

        `temperature_keys` reacts to some of the keys, and its texts are part of the row below the answer.
        """
        self.spinner.text = doing
        self._keys = temperature_keys
        try:
            with self.spinner, interruptible(abort, _PRESSES), disable_echo(self._live), self._live_keys():
                yield
        finally:
            self._display.end()

    def show(self, parts: Iterable[tuple[str, str]], so_far: str = "") -> None:
        """Show the parts as they stream; they continue the text `so_far`, which is on the screen already."""
        self._display.answer(self._watched(parts), so_far)
        self._display.end()

    def _watched(self, parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The parts; the spinner ends before the first of them, or at the end if there are none."""
        for part in parts:
            self._begin()
            self._repetition.add(part[1])
            yield part
        self.spinner.end()

    def _begin(self) -> None:
        """Replace the spinner by the row below the answer; harmless when done twice."""
        if self.spinner.ended:
            return
        self.spinner.end()
        self._display.foot(self._row, now=False)

    def _live_keys(self) -> AbstractContextManager[None]:
        temperature_keys = self._keys
        if not temperature_keys or not self._live:
            return nullcontext()
        from llmcli.ui.input.live_keys import live_keys  # which the prompt has imported already

        def step(steps: int) -> None:
            temperature_keys.step(steps)
            with suppress(LlmcliError):  # the terminal is gone, which also ends the answer
                self._display.foot(self._row)

        return live_keys(step)

    def _row(self) -> str:
        """The keys while the answer streams, and its length: as much as fits the window."""
        temperature_keys = self._keys
        if not temperature_keys:
            return _STOP
        keys, tokens = temperature_keys.row(), plural(temperature_keys.n_tokens, "token")
        if temperature_keys.pressed:
            return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (keys,))
        if self.repeats:
            return first_that_fits((_STOP_LOOP, tokens), (_STOP_LOOP,), (_STOP,))
        return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (_STOP,))


class TemperatureKeys:
    """The keys that move the temperature of one answer: `row` is shown below the answer, `note` is printed after it."""

    def __init__(self, turn: "Turn") -> None:
        self._answer, self._shift = turn.answer, turn.live_shift
        self._policy = _temperature_policy(turn.resolved.settings)
        self.pressed = False  # whether one of the keys was pressed

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the answer so far."""
        return self._answer.n_drawn

    def step(self, steps: int) -> None:
        """Move the temperature of the next tokens up or down; from any thread."""
        self.pressed = True
        if self._policy:
            self._shift.add(steps * _STEP)

    def row(self) -> str:
        """The effect of the keys; after one was pressed, the temperature and its move: `0.8 → 1.0`, `0.3..1.3 +0.2`."""
        if not self.pressed:
            return f"{_KEYS} warmer, colder" if self._policy else ""
        if not self._policy:
            return f"{_KEYS} no temperature in the samplers"
        now, shift = self._current_policy(), self._shift.shift
        try:
            before = float(now)
        except ValueError:
            return f"{_KEYS} temp {ellipsize(now, _LONGEST_POLICY)}" + (f" {format_shift(shift)}" if shift else "")
        return f"{_KEYS} temp {format_degrees(before)}" + (
            f" → {format_degrees(max(before + shift, 0.0))}" if shift else ""
        )

    def note(self) -> str:
        """Each move and its first token, or why there is none; empty where no key was pressed."""
        if not self.pressed:
            return ""
        if not self._policy:
            return f"{_KEYS} had no effect: the sampler chain has no temperature"
        moves = [f"{format_shift(shift)} from token {index}" for index, shift in self._shift.moves]
        if len(moves) > _MOST_MOVES:
            moves[1:-1] = [f"{len(moves) - 2} more"]
        return f"temperature moved: {', '.join(moves)}" if moves else ""

    def _current_policy(self) -> str:
        """The part of the policy that the last token was sampled with, as text."""
        last = next((token.policy for token in reversed(self._answer.traces) if token.policy), "")
        return last or str(self._policy)


def _temperature_policy(settings: Settings) -> Policy | None:
    """The policy of the temperature step; None if the chain does not have the step."""
    from llmcli.engine.sampling.temperature import policy_of_args

    args = next((step.args for step in build_chain(settings, needs_temperature=True) if step.name == "temperature"), ())
    if not args:
        return None
    return policy_of_args(*args) if len(args) == 3 else args[0]


def format_degrees(value: float) -> str:
    """A temperature with one or two decimals."""
    return f"{value:.2f}".removesuffix("0")


def format_shift(shift: float) -> str:
    """`+0.2`, `-0.1`."""
    return ("-" if shift < 0 else "+") + format_degrees(abs(shift))


class RepetitionDetector:
    """Checks the pieces of an answer; `found` is true as soon as the answer repeats itself."""

    def __init__(self) -> None:
        self.found = False
        self._text = ""
        self._unchecked = 0  # characters since the last check

    def add(self, text: str) -> None:
        """Add a piece; most pieces are only joined."""
        if self.found:
            return
        self._text += text
        self._unchecked += len(text)
        if self._unchecked < _EVERY:
            return
        self._unchecked = 0
        self._text = self._text[-_WINDOWS[-1] :]
        self.found = any(_repeats(self._text[-size:]) for size in _WINDOWS if len(self._text) >= size)


def _repeats(text: str) -> bool:
    """Whether a text consists of few different units; a run of blanks counts as one."""
    text = " ".join(text.split())
    grams = [text[at : at + _GRAM] for at in range(len(text) - _GRAM)]
    return bool(grams) and len(set(grams)) <= _FEWEST * len(grams)
