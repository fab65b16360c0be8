"""The screen while the model works: what is happening, then what it writes; Ctrl-C stops it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from llmcli.engine.abort import AbortFlag
from llmcli.errors import LlmcliError
from llmcli.params.settings import Settings
from llmcli.ui.interrupt import interruptible
from llmcli.ui.repl.show import display
from llmcli.ui.repl.waiting import Waiting
from llmcli.ui.typeahead import silent_keys

if TYPE_CHECKING:
    from llmcli.ui.repl.steering import Steering

_PRESSES = 3  # of Ctrl-C; the first one stops the answer, and nothing is left to do for the second


class Stage:
    """For one answer. Until its first word `waiting` says what is happening."""

    def __init__(self, settings: Settings, live: bool) -> None:
        self._live = live
        self._place = display(settings, live)
        self.waiting = Waiting(self._place.status)

    @contextmanager
    def open(self, abort: AbortFlag, doing: str, steering: "Steering | None" = None) -> Iterator[None]:
        """Within this block Ctrl-C sets `abort`, keys wait unseen, and nothing but `show` may write.

        With `steering` some of the keys are its, and what it says of them stands below the answer.
        """
        self.waiting.text = doing
        try:
            with self.waiting, interruptible(abort, _PRESSES), silent_keys(self._live), self._steered(steering):
                yield
        finally:
            self._place.end()

    def _steered(self, steering: "Steering | None") -> AbstractContextManager[None]:
        if not steering or not self._live:
            return nullcontext()
        from llmcli.ui.prompt.live_keys import live_keys  # which is there already, with the prompt

        def step(steps: int) -> None:
            steering.step(steps)
            with suppress(LlmcliError):  # the terminal is gone, as the answer itself will find out
                self._place.foot(steering.row)

        return live_keys(step)

    def show(self, parts: Iterable[tuple[str, str]], begun: str = "") -> None:
        """Show the parts as they come; `begun` is on the screen already and goes on."""
        self._place.answer(_tapped(parts, self.waiting.end), begun)
        self._place.end()


def _tapped(parts: Iterable[tuple[str, str]], first: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """The parts; `first` is called before the first of them, or at the end where there is none."""
    for part in parts:
        first()
        yield part
    first()
