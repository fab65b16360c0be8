"""A reader on a keyboard made of text, and what it read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmcli.params.settings import Settings
from llmcli.ui.input.layout import Suggest
from llmcli.ui.input.reader import TerminalReader

ENTER, NEW_LINE, ALT_ENTER, TAB, ESCAPE = "\r", "\n", "\x1b\r", "\t", "\x1b"
UP, DOWN, LEFT, RIGHT, HOME, BACKSPACE = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C", "\x1b[H", "\x7f"
CTRL_C, CTRL_D, CTRL_E, CTRL_R, CTRL_X = "\x03", "\x04", "\x05", "\x12", "\x18"


class Small(DummyOutput):
    """A window of a given size."""

    def __init__(self, columns: int, rows: int) -> None:
        self._size = Size(rows, columns)

    def get_size(self) -> Size:
        return self._size


def paste(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def nothing(_before: str) -> list[tuple[str, int, str]]:
    return []


class Keyboard:
    """`typed("hi", ENTER)` is what the reader gives back for these keys."""

    def __init__(self, keys: PipeInput, make: Callable[..., TerminalReader]) -> None:
        self.keys = keys
        self._make = make
        self.reader = make()

    def again(
        self,
        suggest: Suggest = nothing,
        status: Callable[[], str] = str,
        mode: str = "emacs",
        hint: Callable[[], str] = str,
    ) -> None:
        """Start another chat."""
        self.reader = self._make(suggest, status, mode, hint)

    def __call__(self, *keys: str, default: str = "") -> str:
        """Each text waits until the one before it has been worked off."""
        return self._read(list(keys), default)

    def _read(self, keys: list[str], default: str) -> str:
        app = self.reader._app

        def feed(_app: object) -> None:
            if keys:
                self.keys.send_text(keys.pop(0))

        app.after_render += feed
        try:
            return self.reader.read(default)
        finally:
            app.after_render -= feed


@contextmanager
def keyboard(history: Path, columns: int = 80, rows: int = 24) -> Iterator[Keyboard]:
    def make(
        suggest: Suggest = nothing,
        status: Callable[[], str] = str,
        mode: str = "emacs",
        hint: Callable[[], str] = str,
    ) -> TerminalReader:
        return TerminalReader(suggest, status, hint, history, Settings(editing_mode=mode))

    with create_pipe_input() as keys, create_app_session(input=keys, output=Small(columns, rows)):
        yield Keyboard(keys, make)
