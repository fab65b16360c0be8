"""The screen while the model works: a spinner, then the answer with a row below it; Ctrl-C stops it."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, TemperatureShift
from llmcli.errors import LlmcliError
from llmcli.params.sampler_chain import plan_temperature
from llmcli.params.settings import Settings
from llmcli.text import ellipsize, plural
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.console import wants_color
from llmcli.ui.terminal.interrupt import bracket_pastes, exit_on_signal, interruptible, time_limit
from llmcli.ui.terminal.output import AnswerWriter, print_drawn, stream_answer
from llmcli.ui.terminal.progress import ProgressLine, Spinner

if TYPE_CHECKING:
    from llmcli.chat.sessions.session import Turn
    from llmcli.ui.comparison import CompareView
    from llmcli.ui.markdown.view import AnswerView

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


@dataclass(eq=False, repr=False)
class BusyScreen:
    """What a user sees while the model works: a spinner with `doing`, then the answer, if there is one to `show`."""

    settings: Settings
    live: bool
    doing: str
    cancellation: Cancellation = field(default_factory=Cancellation)
    temperature_keys: "TemperatureKeys | None" = None  # their texts are part of the row below the answer
    view: "CompareView | None" = None  # shows the spinner, where something else than one answer follows it

    def __post_init__(self) -> None:
        self.repetition = RepetitionDetector()
        self._display = display(self.settings, self.live and not self.view)
        self._shown = self.view or self._display
        self.spinner = Spinner(self._shown.status)
        self.spinner.text = self.doing

    def progress(self, done: int, total: int) -> None:
        """Show how far the model is."""
        self.spinner.text = f"{self.doing} {done / max(total, 1):.0%}"

    @contextmanager
    def open(self, timeout: float = 0) -> Iterator["BusyScreen"]:
        """Within this block Ctrl-C and the time limit (seconds, 0 = none) set `cancellation`.

        Only `show` may write. Keys are kept for the next message, apart from those that `temperature_keys` reacts to.
        """
        with (
            exit_on_signal(defer=True),
            interruptible(self.cancellation, presses=3),  # the first one stops the answer: a second one has no effect
            time_limit(self.cancellation, timeout),
            ExitStack() as stack,
        ):
            bracket_pastes()
            stack.callback(self._shown.finish)
            stack.enter_context(self.spinner)
            if self.live:
                from llmcli.ui.input.live_keys import live_keys  # which the prompt has imported already

                stack.enter_context(live_keys(self._step if self.temperature_keys else None))
            yield self

    def show(self, parts: Iterable[tuple[str, str]], so_far: str = "") -> None:
        """Show the parts as they stream; they continue the text `so_far`, which is on the screen already."""

        def watched() -> Iterator[tuple[str, str]]:
            for part in parts:
                if self.spinner.end():
                    self._display.foot(self._row, now=False)  # in place of the spinner
                self.repetition.add(part[1])
                yield part
            self.spinner.end()

        self._display.answer(watched(), so_far)
        self._display.finish()

    def _step(self, steps: int) -> None:
        assert self.temperature_keys
        self.temperature_keys.step(steps)
        with suppress(LlmcliError):  # the terminal is gone, which also ends the answer
            self._display.foot(self._row)

    def _row(self) -> str:
        """The keys while the answer streams, and its length: as much as fits the window."""
        if not self.temperature_keys:
            return _STOP
        keys, tokens = self.temperature_keys.row(), plural(self.temperature_keys.answer.n_drawn, "token")
        stop, shortest = _STOP, _STOP
        if self.temperature_keys.pressed:
            shortest = keys
        elif self.repetition.found:
            stop, keys = _STOP_LOOP, ""
        return first_that_fits((stop, keys, tokens), (stop, keys), (shortest,))


class PlainDisplay:
    """Shows one answer, as `AnswerView` does, but as the text that it is; reasoning and progress go to stderr."""

    def __init__(self, settings: Settings, live: bool) -> None:
        self._think, self._live = settings.think, live
        self._progress = ProgressLine()
        self.status, self.finish = self._progress.update, self._progress.clear

    def answer(self, parts: Iterable[tuple[str, str]], so_far: str = "") -> None:
        # Again, so that a reader at a terminal sees a whole line.
        tail = so_far.rpartition("\n")[2] if self._live else ""
        shown = chain([("answer", tail)], parts) if tail else parts
        writer = AnswerWriter()
        stream_answer(shown, writer, self._progress, live=True, think=self._think)
        writer.end()

    def foot(self, row: Callable[[], str], now: bool = True) -> None:
        """Do nothing: a row of plain text cannot be erased."""


def display(settings: Settings, live: bool) -> "AnswerView | PlainDisplay":
    """The display for the present settings."""
    if not live or not settings.markdown:
        return PlainDisplay(settings, live)
    from llmcli.ui.markdown.view import AnswerView, call_later  # slow to import: not while the prompt starts

    color, size, shows = wants_color(sys.stdout), shutil.get_terminal_size, settings.think == "show"
    return AnswerView(print_drawn, size, settings.theme, color, shows_reasoning=shows, later=call_later)


class TemperatureKeys:
    """The keys that move the temperature of one answer: `row` is shown below the answer, `note` is printed after it."""

    def __init__(self, turn: "Turn") -> None:
        self.answer, self._shift = turn.answer, turn.answer.request.live_shift or TemperatureShift()
        self.pressed = False  # whether one of the keys was pressed
        settings, engine = turn.resolved.settings, turn.answer.engine
        can_move, has_mirostat = engine.capabilities.live_temperature, settings.mirostat > 0
        self._refusal = "" if can_move else f"{engine.name} does not support it"
        has_temperature = has_mirostat or "temperature" in settings.samplers
        # None: the keys have no effect.
        self._policy = plan_temperature(settings, has_mirostat).policy if can_move and has_temperature else None

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
            return f"{_KEYS} {self._refusal or 'no temperature in the samplers'}"
        # The part of the policy that the last token was sampled with.
        last = next((token.policy for token in reversed(self.answer.traces) if token.policy), "")
        now, shift = last or str(self._policy), self._shift.shift
        try:
            before = float(now)
        except ValueError:
            return f"{_KEYS} temp {ellipsize(now, _LONGEST_POLICY)}" + (f" {_degrees(shift, '+')}" if shift else "")
        moved = f" → {_degrees(max(before + shift, 0.0))}" if shift else ""
        return f"{_KEYS} temp {_degrees(before)}{moved}"

    def note(self) -> str:
        """Each move and its first token, or why there is none; empty where no key was pressed."""
        if not self.pressed:
            return ""
        if not self._policy:
            return f"{_KEYS} had no effect: {self._refusal or 'the sampler chain has no temperature'}"
        moves = [f"{_degrees(shift, '+')} from token {index}" for index, shift in self._shift.moves]
        if len(moves) > _MOST_MOVES:
            moves[1:-1] = [f"{len(moves) - 2} more"]
        return f"temperature moved: {', '.join(moves)}" if moves else ""


def _degrees(value: float, sign: str = "-") -> str:
    """A temperature with one or two decimals; with the sign "+" a change, as in `+0.2`."""
    return f"{value:{sign}z.2f}".removesuffix("0")  # z: never -0.0


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
        for size in _WINDOWS:
            if len(self._text) >= size:
                end = " ".join(self._text[-size:].split())  # a run of blanks counts as one
                grams = [end[at : at + _GRAM] for at in range(len(end) - _GRAM)]
                self.found |= bool(grams) and len(set(grams)) <= _FEWEST * len(grams)
