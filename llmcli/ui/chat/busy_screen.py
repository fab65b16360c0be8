"""The screen while the model works: a spinner, then the answer with a row below it; Ctrl-C stops it."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from llmcli.engine.llama.bindings import AbortFlag
from llmcli.errors import LlmcliError
from llmcli.params.chain import build_chain
from llmcli.params.policies.policy import Policy
from llmcli.params.settings import Settings
from llmcli.text import ellipsize, plural
from llmcli.ui.chat.answer_display import display
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.interrupt import disable_echo, interruptible
from llmcli.ui.terminal.progress import Spinner

if TYPE_CHECKING:
    from llmcli.chat.turn import Turn

_PRESSES = 3  # of Ctrl-C; the first one stops the answer, and nothing is left to do for the second
_STOP = "Ctrl-C stops"
_STOP_LOOP = "the answer repeats itself: Ctrl-C stops"  # fits 40 columns
_STEP = 0.1  # degrees of one key press
_MOST_MOVES = 4  # in the note; of more, the first and the last
_LONGEST_POLICY = 20  # characters: the row fits 40 columns
_KEYS = "↑↓"
_WINDOWS = (1200, 4000)  # characters at the end of the text; a repeated part is a quarter of one at most
_EVERY = 400  # new characters between two looks, each of which takes less than a millisecond
_GRAM = 12  # characters that are compared as one; of about three words
_FEWEST = 0.25  # share of different ones: prose has more than 0.9, tables and code more than 0.35


class BusyScreen:
    """For one answer. Until its first word `waiting` says what is happening."""

    def __init__(self, settings: Settings, live: bool) -> None:
        self._live = live
        self._display = display(settings, live)
        self._steering: TemperatureKeys | None = None
        self._repetition = RepetitionDetector()
        self.spinner = Spinner(self._display.status)

    @property
    def repeats(self) -> bool:
        """Whether the answer repeats itself."""
        return self._repetition.found

    @contextmanager
    def open(self, abort: AbortFlag, doing: str, temperature_keys: "TemperatureKeys | None" = None) -> Iterator[None]:
        """Within this block Ctrl-C sets `abort`, keys wait unseen, and only `show` may write.

        With `steering` some of the keys are its, and its texts are part of the row below the answer.
        """
        self.spinner.text = doing
        self._steering = temperature_keys
        try:
            with self.spinner, interruptible(abort, _PRESSES), disable_echo(self._live), self._temperature_keys():
                yield
        finally:
            self._display.end()

    def show(self, parts: Iterable[tuple[str, str]], begun: str = "") -> None:
        """Show the parts as they come; `begun` is on the screen already and is continued."""
        self._display.answer(self._watched(parts), begun)
        self._display.end()

    def _watched(self, parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The parts. Before the first of them, or at the end where there is none, the spinner ends."""
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

    def _temperature_keys(self) -> AbstractContextManager[None]:
        temperature_keys = self._steering
        if not temperature_keys or not self._live:
            return nullcontext()
        from llmcli.ui.input.live_keys import live_keys  # which is imported already, with the prompt

        def step(steps: int) -> None:
            temperature_keys.step(steps)
            with suppress(LlmcliError):  # the terminal is gone, as the answer itself will find out
                self._display.foot(self._row)

        return live_keys(step)

    def _row(self) -> str:
        """What one can do while the answer streams, and how long it is: as much as fits the window."""
        temperature_keys = self._steering
        if not temperature_keys:
            return _STOP
        keys, tokens = temperature_keys.row(), plural(temperature_keys.n_tokens, "token")
        if temperature_keys.pressed:
            return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (keys,))
        if self.repeats:
            return first_that_fits((_STOP_LOOP, tokens), (_STOP_LOOP,), (_STOP,))
        return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (_STOP,))


class TemperatureKeys:
    """For one answer. `row` stands below the answer, `note` is what there is to print after it."""

    def __init__(self, turn: "Turn") -> None:
        self._answer, self._dial = turn.answer, turn.live_shift
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
            self._dial.add(steps * _STEP)

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
            return f"{_KEYS} temp {ellipsize(now, _LONGEST_POLICY)}" + (f" {format_shift(shift)}" if shift else "")
        return f"{_KEYS} temp {format_degrees(before)}" + (
            f" → {format_degrees(max(before + shift, 0.0))}" if shift else ""
        )

    def note(self) -> str:
        """Each move and its first token; empty where the keys did nothing worth a line."""
        if not self.pressed:
            return ""
        if not self._policy:
            return f"{_KEYS} had no effect: the sampler chain has no temperature"
        moves = [f"{format_shift(shift)} from token {index}" for index, shift in self._dial.moves]
        if len(moves) > _MOST_MOVES:
            moves[1:-1] = [f"{len(moves) - 2} more"]
        return f"temperature moved: {', '.join(moves)}" if moves else ""

    def _current_policy(self) -> str:
        """The part of the policy that the last token was drawn with, as text."""
        last = next((token.policy for token in reversed(self._answer.traces) if token.policy), "")
        return last or str(self._policy)


def _temperature_policy(settings: Settings) -> Policy | None:
    """The policy of the temperature step; None where there is no such step."""
    from llmcli.engine.sampling.temperature import policy_of_args

    args = next((step.args for step in build_chain(settings, needs_temperature=True) if step.name == "temperature"), ())
    if not args:
        return None
    return policy_of_args(*args) if len(args) == 3 else args[0]


def format_degrees(value: float) -> str:
    """A temperature with one or two decimals."""
    text = f"{value:.2f}"
    return text.removesuffix("0")


def format_shift(shift: float) -> str:
    """`+0.2`, `-0.1`."""
    return ("-" if shift < 0 else "+") + format_degrees(abs(shift))


class RepetitionDetector:
    """Add the pieces of an answer; `found` is true from the first look on that sees a loop."""

    def __init__(self) -> None:
        self.found = False
        self._text = ""
        self._unseen = 0  # characters since the last look

    def add(self, text: str) -> None:
        """Add a piece; most of them cost no more than to be joined."""
        if self.found:
            return
        self._text += text
        self._unseen += len(text)
        if self._unseen < _EVERY:
            return
        self._unseen = 0
        self._text = self._text[-_WINDOWS[-1] :]
        self.found = any(_repeats(self._text[-size:]) for size in _WINDOWS if len(self._text) >= size)


def _repeats(text: str) -> bool:
    """Whether a text consists of few different parts; runs of blanks count as one."""
    text = " ".join(text.split())
    grams = [text[at : at + _GRAM] for at in range(len(text) - _GRAM)]
    return bool(grams) and len(set(grams)) <= _FEWEST * len(grams)
