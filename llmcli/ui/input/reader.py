"""The input line of a terminal: its keys, the message or command that they write, and the history of these."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from prompt_toolkit import filters
from prompt_toolkit.application import Application, get_app, get_app_session, run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_cwidth, suspend_to_background_supported

from llmcli.errors import LlmcliError
from llmcli.files import BINARY, make_private_folder, replace_private
from llmcli.params.settings import Settings
from llmcli.text import BLOCK_MARK, block_body, is_open_block, needs_block, sanitize
from llmcli.ui.input.layout import Pasted, Suggest, SuggestCompleter, make_layout, make_style, should_open_menu
from llmcli.ui.terminal.console import edit, wants_color

LEAVE = "Ctrl-D or /exit ends the chat"
IDLE_SECONDS = 60.0
KEPT_ENTRIES = 5000  # entries of the history
MAX_ENTRY = 64 << 10  # bytes of one of them
_MOST_READ = 32 << 20  # bytes at the end of its file
_DROPPED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)]) | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_CLEAN = {code: mark for code, mark in _DROPPED.items() if chr(code) not in "\t\n"}


class TerminalReader:
    """The input line of the chat, with the status below it; `hint` replaces the status until the next key."""

    def __init__(
        self, suggest: Suggest, status: Callable[[], str], hint: Callable[[], str], history: Path, settings: Settings
    ) -> None:
        """`status` is shown below the line, `hint` in the line while it is empty; each drawing calls both."""
        output = get_app_session().output
        if isinstance(output, Vt100_Output):
            # No cursor position request: a terminal that does not answer costs a second and a warning.
            output.enable_cpr = False
        self.hint = ""
        self.is_block = False  # whether the last message was in a block: then it is not a command
        self.multiline = False  # whether Enter begins a new line and Alt-Enter sends
        self.on_drawn: Callable[[], object] | None = None  # called once, when the first prompt is on the screen
        self.on_interrupt: Callable[[], object] = lambda: None  # true if Ctrl-C has already canceled something
        self.on_idle: Callable[[], object] = lambda: None  # called after IDLE_SECONDS without a change of the text
        self._status = status
        self._pasted = Pasted()
        self.history = PrivateHistory(history, self._pasted.fold)
        self.buffer = Buffer(
            name=DEFAULT_BUFFER,
            completer=SuggestCompleter(suggest),
            complete_while_typing=filters.Condition(lambda: should_open_menu(self.buffer.document.text_before_cursor)),
            auto_suggest=AutoSuggestFromHistory(),
            history=self.history,
        )
        self.buffer.on_text_changed += self._clear_hint
        vi, color = settings.editing_mode == "vi", wants_color(sys.stdout)
        self._app: Application[str] = Application(
            layout=make_layout(self.buffer, self._pasted, self._footer, lambda: _text_of(hint)),
            key_bindings=make_keys(self),
            editing_mode=EditingMode.VI if vi else EditingMode.EMACS,
            style=make_style(settings.theme, color),
            include_default_pygments_style=False,
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            cursor=ModalCursorShapeConfig() if vi else None,
            reverse_vi_search_direction=True,
        )
        self._app.ttimeoutlen = 0.05  # seconds; Escape alone is a key
        self._app.timeoutlen = 0.5
        self._app.after_render += self._after_drawing

    def read(self, default: str = "") -> str:
        """The message that the user sends; `default` is in the line at first. EOFError: Ctrl-D, or no terminal."""
        before, shown, after = self._parts(clean(default))
        start = Document(before + shown + after, len(before + shown))
        while True:
            try:
                text = self._prompt(start)
                self.history.append_string(text)
            except KeyboardInterrupt:  # while the prompt does not read keys
                text = ""
            except OSError as error:
                raise EOFError from error
            if (message := block_body(text)).strip():
                self.is_block = text.startswith(BLOCK_MARK)
                return message
            start = Document()

    def _prompt(self, start: Document) -> str:
        """The text exactly as typed; it stays on the screen, or is printed completely into the scrollback."""
        self.hint = ""
        self._app.erase_when_done = False
        self.buffer.reset(start)
        try:
            shown = self._app.run(pre_run=self._begin, set_exception_handler=False)
        finally:  # prompt_toolkit omits this when a signal ends it during the first drawing
            self._app.renderer.reset()
        if self._app.erase_when_done:
            drawn = "".join(self._pasted.label(char) or char for char in shown)
            self._app.print_text([("class:marker", "> "), ("", sanitize(drawn).replace("\n", "\n  ") + "\n")])
        return clean(self._pasted.unfold(shown))

    def _parts(self, message: str) -> tuple[str, str, str]:
        """A message as it stands in the line, between the marks of a block if it would be a command without them."""
        mark = BLOCK_MARK if needs_block(message) else ""
        return mark and f"{mark}\n", self._pasted.fold(message), mark and f"\n{mark}"

    def refresh(self) -> None:
        """Redraw the status; from any thread."""
        with suppress(RuntimeError):  # the prompt has just ended
            self._app.invalidate()

    def _begin(self) -> None:
        self._catch_errors()
        self._app.create_background_task(self._wait_idle())

    async def _wait_idle(self) -> None:
        """Call `on_idle` once, after some time without a change of the text."""
        before = None
        while self.buffer.text != before:
            before = self.buffer.text
            await asyncio.sleep(IDLE_SECONDS)
        self.on_idle()

    def _catch_errors(self) -> None:
        """An error in a key or a drawing does not end the prompt, unless the terminal is gone."""

        def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and not self._app.is_done:
                self._app.exit(exception=EOFError)
            self.hint = f"internal error: {error or context.get('message')}"

        asyncio.get_running_loop().set_exception_handler(handle)

    def _clear_hint(self, _buffer: Buffer) -> None:
        self.hint = ""

    def _after_drawing(self, _app: Application[str]) -> None:
        call, self.on_drawn = self.on_drawn, None
        if call:
            call()

    def _footer(self) -> str:
        return sanitize(self.hint) if self.hint else _text_of(self._status)

    # The actions of the keys

    def enter(self) -> None:
        """Accept the chosen completion, or begin a new line where the text needs one, or send."""
        if self._accept_completion():
            return
        document = self.buffer.document
        needs_new_line = self.multiline and ("\n" in document.text or not document.text.startswith("/"))
        if is_open_block(document.text):
            needs_new_line = True
        elif document.current_line_before_cursor.endswith("\\") and not document.current_line_after_cursor.strip():
            self.buffer.delete_before_cursor()
            needs_new_line = True
        if not needs_new_line:
            self.send()
            return
        self.new_line()
        if self.buffer.text.rstrip().endswith(BLOCK_MARK) and "\n" in self.buffer.text.rstrip():
            self.hint = f"{BLOCK_MARK} on a line of its own sends"

    def alt_enter(self) -> None:
        """Begin a new line, or send where Enter begins one."""
        (self.send if self.multiline else self.new_line)()

    def send(self) -> None:
        """End the prompt with the text; an empty text is not sent."""
        text = self.buffer.text
        if not text.strip():
            return
        size = self._app.output.get_size()
        rows = sum(get_cwidth(line) // max(size.columns - 2, 1) + 1 for line in text.split("\n"))
        # Of such a text only a part would stay on the screen: `_prompt` prints all of it.
        self._app.erase_when_done = rows >= size.rows
        self._app.exit(result=text)

    def new_line(self) -> None:
        self.buffer.cancel_completion()
        self.buffer.insert_text("\n")

    def tab(self) -> None:
        """Accept the only completion, go to the next one, or open the menu."""
        state = self.buffer.complete_state
        if state is None:
            self.buffer.start_completion(insert_common_part=True)
            return
        self.buffer.complete_next()
        if len(state.completions) == 1:
            self._accept_completion()

    def paste(self, text: str) -> None:
        """Insert a text; a paste never sends, and its lines are text: only one line alone may be a command."""
        text = clean(text)
        is_message = not self.buffer.text and "\n" in text.strip()
        before, shown, after = self._parts(text) if is_message else ("", self._pasted.fold(text), "")
        self.buffer.save_to_undo_stack()
        self.buffer.insert_text(before + shown)
        self.buffer.insert_text(after, move_cursor=False)

    def interrupt(self) -> None:
        """Clear the line; show how to leave where there is nothing to clear."""
        canceled = self.on_interrupt()
        self.hint = "" if self.buffer.text or canceled else LEAVE
        self.buffer.reset()

    async def open_editor(self) -> None:
        """Open the text, with its long pastes, in the user's editor."""
        text = self._pasted.unfold(self.buffer.text)
        try:
            text = await run_in_terminal(lambda: edit(text), in_executor=True)
        except LlmcliError as error:
            self.hint = str(error)
            return
        text = self._pasted.fold(clean(text))
        self.buffer.document = Document(text, len(text))

    def _accept_completion(self) -> bool:
        """Keep the completion that is chosen in the menu; it is in the text already."""
        state = self.buffer.complete_state
        if state is None or state.current_completion is None:
            return False
        self.buffer.complete_state = None
        before = self.buffer.document.text_before_cursor
        if before.endswith(" ") and should_open_menu(before):
            self.buffer.start_completion()  # of the command's argument
        return True


def make_keys(reader: TerminalReader) -> KeyBindingsBase:
    """The key bindings of the chat; they have priority over those of prompt_toolkit."""
    keys = KeyBindings()
    typing = filters.has_focus(DEFAULT_BUFFER)
    emacs, vi_insert = typing & filters.emacs_mode, typing & filters.vi_insert_mode
    empty = filters.Condition(lambda: not reader.buffer.text)

    def bind(*names: str, when: filters.FilterOrBool = True, to: Callable[[], Any]) -> None:
        keys.add(*names, filter=when)(lambda _event: to())

    bind("enter", when=typing, to=reader.enter)
    bind("escape", "enter", when=emacs, to=reader.alt_enter)
    bind("tab", when=emacs | vi_insert, to=reader.tab)
    bind("c-j", when=typing, to=reader.new_line)
    bind("c-c", when=typing, to=reader.interrupt)
    bind("<sigint>", to=reader.interrupt)
    bind("c-x", "c-e", when=emacs & ~filters.has_selection, to=reader.open_editor)
    bind("v", when=typing & filters.vi_navigation_mode, to=reader.open_editor)
    bind("escape", when=emacs & filters.has_completions, to=reader.buffer.cancel_completion)
    keys.add("c-d", filter=typing & empty)(lambda event: event.app.exit(exception=EOFError))
    if suspend_to_background_supported():
        keys.add("c-z")(lambda event: event.app.suspend_to_background())
    keys.add(Keys.BracketedPaste, filter=typing)(lambda event: reader.paste(event.data))

    @filters.Condition
    def enter_is_next() -> bool:  # at once after Escape: then it is Alt-Enter, and does not end the insert mode of vi
        queue = get_app().key_processor.input_queue
        return bool(queue) and queue[0].key == Keys.Enter

    @keys.add("escape", filter=vi_insert & enter_is_next)
    def _alt_enter(event: KeyPressEvent) -> None:
        event.key_processor.input_queue.popleft()
        reader.alt_enter()

    return merge_key_bindings([load_auto_suggest_bindings(), keys])


def clean(text: str) -> str:
    """`text` with plain line ends, and without control characters and lone surrogates."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CLEAN)


def _text_of(call: Callable[[], str]) -> str:
    """The result of `call` in one line; an error in it must not end the prompt."""
    try:
        return " ".join(sanitize(call()).split("\n"))
    except Exception:
        return ""


class PrivateHistory(History):
    """One JSON string a line, shown as `fold` shortens it. A file that cannot be used is an empty history, no error."""

    def __init__(self, path: Path, fold: Callable[[str], str] = str) -> None:
        super().__init__()
        self._path, self._fold = path, fold

    def append_string(self, string: str) -> None:
        if not self._loaded:
            self._loaded_strings = list(self.load_history_strings())
            self._loaded = True
        shown = self._fold(string)
        if len(string.encode("utf-8", "replace")) > MAX_ENTRY or self._loaded_strings[:1] == [shown]:
            return
        self._loaded_strings.insert(0, shown)
        self.store_string(string)

    def load_history_strings(self) -> Iterable[str]:
        """The newest entry first."""
        if not os.path.isfile(self._path):  # to open a pipe would wait
            return []
        lines: list[bytes] = []
        with suppress(OSError), self._path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _MOST_READ)
            file.seek(start)
            lines = [line for line in file.read().split(b"\n")[bool(start) :] if line]  # the first may be cut
            if len(lines) >= 2 * KEPT_ENTRIES:
                replace_private(self._path, b"\n".join(lines[-KEPT_ENTRIES:]) + b"\n")
                if late := file.read():  # of another chat, meanwhile
                    _append(self._path, late)
        # Without damaged lines and repetitions.
        entries = [entry for entry, _ in groupby(filter(None, map(_entry, lines)))]
        return map(self._fold, entries[: -KEPT_ENTRIES - 1 : -1])

    def store_string(self, string: str) -> None:
        line = json.dumps(string, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with suppress(OSError):
            make_private_folder(self._path.parent)
            _append(self._path, line)


def _append(path: Path, line: bytes) -> None:
    """Append a line in one write, so that lines of two chats never mix."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        if os.lseek(file, 0, os.SEEK_END) and os.lseek(file, -1, os.SEEK_END) >= 0 and os.read(file, 1) != b"\n":
            line = b"\n" + line  # the disk was full, or the machine stopped, in the middle of a line
        os.write(file, line)
    finally:
        os.close(file)


def _entry(line: bytes) -> str:
    if len(line) > 6 * MAX_ENTRY + 2:  # the longest entry, with each byte as an escape
        return ""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return entry if isinstance(entry, str) else ""
