"""The input line of a terminal: reads one message or command, and keeps the history of them."""

import asyncio
import json
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from prompt_toolkit.application import Application, get_app_session
from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from llmcli.files import make_private_folder, replace_private
from llmcli.text import sanitize
from llmcli.ui.input.keys import InputActions, make_keys
from llmcli.ui.input.layout import Pasted, Suggest, SuggestCompleter, clean, make_layout, make_style, should_open_menu
from llmcli.ui.input.piped import body

KEPT = 5000  # entries
LONGEST = 64 << 10  # bytes of one entry
_MOST_READ = 32 << 20  # bytes at the end of the file
_MOST_TYPED = 1000  # characters; longer texts get no suggestion


class PrivateHistory(History):
    """One JSON string a line. A file that cannot be read or written is an empty history, not an error.

    `fold` shortens an entry for the input line.
    """

    def __init__(self, path: Path, fold: Callable[[str], str] = str) -> None:
        super().__init__()
        self._path = path
        self._fold = fold

    def append_string(self, string: str) -> None:
        if not self._loaded:
            self._loaded_strings = list(self.load_history_strings())
            self._loaded = True
        shown = self._fold(string)
        if len(string.encode("utf-8", "replace")) > LONGEST or self._loaded_strings[:1] == [shown]:
            return
        self._loaded_strings.insert(0, shown)
        self.store_string(string)

    def load_history_strings(self) -> Iterable[str]:
        """The newest entry first."""
        if not os.path.isfile(self._path):  # to open a pipe would wait
            return []
        lines: list[bytes] = []
        with suppress(OSError), self._path.open("rb") as file:
            lines = _read_lines(file)
            if len(lines) >= 2 * KEPT:
                _trim(self._path)
        # Without damaged lines and repetitions.
        entries = [entry for entry, _ in groupby(filter(None, map(_entry, lines)))]
        return map(self._fold, entries[: -KEPT - 1 : -1])

    def store_string(self, string: str) -> None:
        line = json.dumps(string, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with suppress(OSError):
            make_private_folder(self._path.parent)
            _append(self._path, line)


def _append(path: Path, line: bytes) -> None:
    """Append a line in one write, so that lines of two chats never mix."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        if os.lseek(file, 0, os.SEEK_END) and os.lseek(file, -1, os.SEEK_END) >= 0 and os.read(file, 1) != b"\n":
            line = b"\n" + line  # the disk was full, or the machine stopped, in the middle of a line
        os.write(file, line)
    finally:
        os.close(file)


def _read_lines(file: BinaryIO) -> list[bytes]:
    start = max(0, file.seek(0, os.SEEK_END) - _MOST_READ)
    file.seek(start)
    lines = file.read().split(b"\n")
    return [line for line in lines[bool(start) :] if line]  # the first may be cut


def _entry(line: bytes) -> str:
    if len(line) > 6 * LONGEST + 2:  # the longest entry, with each byte as an escape
        return ""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return entry if isinstance(entry, str) else ""


def _trim(path: Path) -> None:
    """Keep the newest entries, and those that another chat adds meanwhile; one chat at a time trims."""
    from filelock import FileLock, Timeout  # 70 ms, only once in thousands of messages

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, mode=0o600)
    with suppress(Timeout), lock, path.open("rb") as old:
        lines = _read_lines(old)
        if len(lines) < 2 * KEPT:
            return  # another chat was faster
        replace_private(path, b"\n".join(lines[-KEPT:]) + b"\n")
        if late := old.read():
            _append(path, late)


class HistorySuggest(AutoSuggest):
    """Suggests the rest of the first line of the newest message that starts with the text."""

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        text = document.text
        if not text.strip() or len(text) > _MOST_TYPED or not document.is_cursor_at_the_end:
            return None
        starting = (entry for entry in reversed(buffer.history.get_strings()) if entry.startswith(text))
        rest = next(filter(None, (entry[len(text) :].partition("\n")[0] for entry in starting)), "")
        return Suggestion(rest) if rest else None


class TerminalReader:
    """The input line of the chat, with the status below it."""

    def __init__(
        self,
        suggest: Suggest,
        status: Callable[[], str],
        history: Path,
        editing_mode: str = "emacs",
        style: str = "dark",
        color: bool = True,
        hint: Callable[[], str] = str,
    ) -> None:
        """`status` is shown below the line, `hint` in the line while it is empty; each drawing calls both."""
        output = get_app_session().output
        if isinstance(output, Vt100_Output):
            # No cursor position request: a terminal that does not answer costs a second and a warning.
            output.enable_cpr = False
        self._status = status
        self._pasted = Pasted()
        self.history = PrivateHistory(history, self._pasted.fold)
        buffer = Buffer(
            name=DEFAULT_BUFFER,
            completer=SuggestCompleter(suggest),
            complete_while_typing=Condition(lambda: should_open_menu(buffer.document.text_before_cursor)),
            auto_suggest=HistorySuggest(),
            history=self.history,
        )
        self.multiline = False  # whether Enter begins a new line and Alt-Enter sends
        self.actions = InputActions(buffer, self._pasted, lambda: self.multiline)
        buffer.on_text_changed += self._clear_hint
        vi = editing_mode == "vi"
        self._app: Application[str] = Application(
            layout=make_layout(buffer, self._pasted, self._footer, lambda: _text_of(hint)),
            key_bindings=make_keys(self.actions),
            editing_mode=EditingMode.VI if vi else EditingMode.EMACS,
            style=make_style(style, color),
            include_default_pygments_style=False,
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            cursor=ModalCursorShapeConfig() if vi else None,
            reverse_vi_search_direction=True,
        )
        self._app.ttimeoutlen = 0.05  # seconds; Escape alone is a key
        self._app.timeoutlen = 0.5
        self.on_drawn: Callable[[], object] | None = None  # called once, when the first prompt is on the screen
        self._app.after_render += self._after_drawing

    def read(self, default: str = "") -> str:
        """The message that the user sends; `default` is in the line at first.

        Raises:
            EOFError: at Ctrl-D on an empty line, or when the terminal is gone.
        """
        start = self._pasted.fold(clean(default))
        while True:
            try:
                text = self._prompt(start)
                self.history.append_string(text)
            except KeyboardInterrupt:  # while the prompt does not read keys
                text = ""
            except OSError as error:
                raise EOFError from error
            if (message := body(text)).strip():
                return message
            start = ""

    def _prompt(self, start: str) -> str:
        """The text exactly as typed; it stays on the screen, or is printed completely into the scrollback."""
        self.actions.hint = ""
        self._app.erase_when_done = False
        self.actions.buffer.reset(Document(start))
        try:
            shown = self._app.run(pre_run=self._catch_errors, set_exception_handler=False)
        finally:  # prompt_toolkit omits this when a signal ends it during the first drawing
            self._app.renderer.reset()
        if self._app.erase_when_done:
            drawn = "".join(self._pasted.label(char) or char for char in shown)
            self._app.print_text([("class:marker", "> "), ("", sanitize(drawn).replace("\n", "\n  ") + "\n")])
        return clean(self._pasted.unfold(shown))

    def refresh(self) -> None:
        """Redraw the status; from any thread."""
        with suppress(RuntimeError):  # the prompt has just ended
            self._app.invalidate()

    def _catch_errors(self) -> None:
        """An error in a key or a drawing does not end the prompt, unless the terminal is gone."""

        def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and not self._app.is_done:
                self._app.exit(exception=EOFError)
            self.actions.hint = f"internal error: {error or context.get('message')}"

        asyncio.get_running_loop().set_exception_handler(handle)

    def _clear_hint(self, _buffer: Buffer) -> None:
        self.actions.hint = ""

    def _after_drawing(self, _app: Application[str]) -> None:
        call, self.on_drawn = self.on_drawn, None
        if call:
            call()

    def _footer(self) -> str:
        return sanitize(self.actions.hint) if self.actions.hint else _text_of(self._status)


def _text_of(call: Callable[[], str]) -> str:
    """The result of `call` in one line; an error in it must not end the prompt."""
    try:
        return " ".join(sanitize(call()).split("\n"))
    except Exception:
        return ""
