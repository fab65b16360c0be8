"""The screen while the model works: a spinner, then the answer with a row below it; Ctrl-C stops it."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from llmcli.engine.llama.bindings import AbortFlag
from llmcli.errors import LlmcliError
from llmcli.params.settings import Settings
from llmcli.text import plural
from llmcli.ui.chat.answer_display import display
from llmcli.ui.chat.status_line import first_that_fits
from llmcli.ui.repl.repetition import RepetitionDetector
from llmcli.ui.repl.waiting import Waiting
from llmcli.ui.terminal.interrupt import interruptible
from llmcli.ui.terminal.typeahead import silent_keys

if TYPE_CHECKING:
    from llmcli.ui.chat.temperature_keys import Steering

_PRESSES = 3  # of Ctrl-C; the first one stops the answer, and nothing is left to do for the second
_STOP = "Ctrl-C stops"
_STOP_LOOP = "the answer repeats itself: Ctrl-C stops"  # fits 40 columns


class Stage:
    """For one answer. Until its first word `waiting` says what is happening."""

    def __init__(self, settings: Settings, live: bool) -> None:
        self._live = live
        self._display = display(settings, live)
        self._steering: Steering | None = None
        self._repetition = RepetitionDetector()
        self.waiting = Waiting(self._display.status)

    @property
    def repeats(self) -> bool:
        """Whether the answer repeats itself."""
        return self._repetition.found

    @contextmanager
    def open(self, abort: AbortFlag, doing: str, steering: "Steering | None" = None) -> Iterator[None]:
        """Within this block Ctrl-C sets `abort`, keys wait unseen, and only `show` may write.

        With `steering` some of the keys are its, and its texts are part of the row below the answer.
        """
        self.waiting.text = doing
        self._steering = steering
        try:
            with self.waiting, interruptible(abort, _PRESSES), silent_keys(self._live), self._temperature_keys():
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
        self.waiting.end()

    def _begin(self) -> None:
        """Replace the spinner by the row below the answer; harmless when done twice."""
        if self.waiting.ended:
            return
        self.waiting.end()
        self._display.foot(self._row, now=False)

    def _temperature_keys(self) -> AbstractContextManager[None]:
        steering = self._steering
        if not steering or not self._live:
            return nullcontext()
        from llmcli.ui.input.live_keys import live_keys  # which is imported already, with the prompt

        def step(steps: int) -> None:
            steering.step(steps)
            with suppress(LlmcliError):  # the terminal is gone, as the answer itself will find out
                self._display.foot(self._row)

        return live_keys(step)

    def _row(self) -> str:
        """What one can do while the answer streams, and how long it is: as much as fits the window."""
        steering = self._steering
        if not steering:
            return _STOP
        keys, tokens = steering.row(), plural(steering.n_tokens, "token")
        if steering.pressed:
            return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (keys,))
        if self.repeats:
            return first_that_fits((_STOP_LOOP, tokens), (_STOP_LOOP,), (_STOP,))
        return first_that_fits((_STOP, keys, tokens), (_STOP, keys), (_STOP,))
