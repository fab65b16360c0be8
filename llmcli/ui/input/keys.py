"""The keys of the input line and their actions: send, begin a new line, paste, clear, open the editor."""

from collections.abc import Callable, Coroutine
from typing import Any

from prompt_toolkit import filters
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.utils import get_cwidth, suspend_to_background_supported

from llmcli.errors import LlmcliError
from llmcli.ui.input.layout import Pasted, clean, should_open_menu
from llmcli.ui.input.piped import MARK, is_open

Action = Coroutine[Any, Any, None] | None
LEAVE = "Ctrl-D or /exit ends the chat"
OPEN_BLOCK = f"{MARK} on a line of its own sends"


class InputActions:
    """The text of the line and the actions on it; `hint` replaces the status until the next key."""

    def __init__(self, buffer: Buffer, pasted: Pasted, is_multiline: Callable[[], bool]) -> None:
        """`is_multiline`: whether Enter begins a new line and Alt-Enter sends."""
        self.buffer = buffer
        self.pasted = pasted
        self.hint = ""
        self._is_multiline = is_multiline
        self.on_interrupt: Callable[[], bool] = lambda: False  # whether Ctrl-C has already canceled something

    def enter(self) -> None:
        """Accept the chosen completion, or begin a new line where the text needs one, or send."""
        if self._accept_completion():
            return
        if not self._needs_new_line():
            self.send()
            return
        self.new_line()
        if self.buffer.text.rstrip().endswith(MARK) and "\n" in self.buffer.text.rstrip():
            self.hint = OPEN_BLOCK

    def alt_enter(self) -> None:
        if self._is_multiline():
            self.send()
        else:
            self.new_line()

    def tab(self) -> None:
        """Accept the only completion, go to the next one, or open the menu."""
        state = self.buffer.complete_state
        if state is None:
            self.buffer.start_completion(insert_common_part=True)
            return
        self.buffer.complete_next()
        if len(state.completions) == 1:
            self._accept_completion()

    def new_line(self) -> None:
        self.buffer.cancel_completion()
        self.buffer.insert_text("\n")

    def send(self) -> None:
        """End the prompt with the text; an empty text is not sent."""
        text = self.buffer.text
        if not text.strip():
            return
        size = get_app().output.get_size()
        rows = sum(get_cwidth(line) // max(size.columns - 2, 1) + 1 for line in text.split("\n"))
        # Of such a text only a part would stay on the screen: the reader prints all of it.
        get_app().erase_when_done = rows >= size.rows
        get_app().exit(result=text)

    def paste(self, text: str) -> None:
        """Insert a text; a paste never sends."""
        self.buffer.save_to_undo_stack()
        self.buffer.insert_text(self.pasted.fold(clean(text)))

    def interrupt(self) -> None:
        """Clear the line; show how to leave where there is nothing to clear."""
        canceled = self.on_interrupt()
        self.hint = "" if self.buffer.text or canceled else LEAVE
        self.buffer.reset()

    async def open_editor(self) -> None:
        """Open the text, with its long pastes, in the user's editor."""
        from llmcli.ui.terminal.console import edit  # which imports subprocess

        text = self.pasted.unfold(self.buffer.text)
        try:
            text = await run_in_terminal(lambda: edit(text), in_executor=True)
        except LlmcliError as error:
            self.hint = str(error)
            return
        text = self.pasted.fold(clean(text))
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

    def _needs_new_line(self) -> bool:
        document = self.buffer.document
        if is_open(document.text):
            return True
        if document.current_line_before_cursor.endswith("\\") and not document.current_line_after_cursor.strip():
            self.buffer.delete_before_cursor()
            return True
        return self._is_multiline() and ("\n" in document.text or not document.text.startswith("/"))


def make_keys(actions: InputActions) -> KeyBindingsBase:
    """The key bindings of the chat; they have priority over those of prompt_toolkit."""
    keys = KeyBindings()
    typing = filters.has_focus(DEFAULT_BUFFER)
    emacs, vi_insert = typing & filters.emacs_mode, typing & filters.vi_insert_mode
    empty = filters.Condition(lambda: not actions.buffer.text)

    def plain(action: Callable[[], Action]) -> Callable[[KeyPressEvent], Action]:
        return lambda _event: action()

    keys.add("enter", filter=typing)(plain(actions.enter))
    keys.add("escape", "enter", filter=emacs)(plain(actions.alt_enter))
    keys.add("tab", filter=emacs | vi_insert)(plain(actions.tab))
    keys.add("c-j", filter=typing)(plain(actions.new_line))
    keys.add("c-c", filter=typing)(plain(actions.interrupt))
    keys.add("<sigint>")(plain(actions.interrupt))
    keys.add("c-d", filter=typing & empty)(plain(lambda: get_app().exit(exception=EOFError)))
    keys.add("c-x", "c-e", filter=emacs & ~filters.has_selection)(plain(actions.open_editor))
    keys.add("v", filter=typing & filters.vi_navigation_mode)(plain(actions.open_editor))
    keys.add("escape", filter=emacs & filters.has_completions)(plain(actions.buffer.cancel_completion))
    can_suspend = filters.Condition(suspend_to_background_supported)
    keys.add("c-z", filter=can_suspend)(plain(lambda: get_app().suspend_to_background()))

    keys.add(Keys.BracketedPaste, filter=typing)(lambda event: actions.paste(event.data))

    @filters.Condition
    def enter_is_next() -> bool:  # at once after Escape: then it is Alt-Enter, and does not end the insert mode of vi
        queue = get_app().key_processor.input_queue
        return bool(queue) and queue[0].key == Keys.Enter

    @keys.add("escape", filter=vi_insert & enter_is_next)
    def _alt_enter(event: KeyPressEvent) -> None:
        event.key_processor.input_queue.popleft()
        actions.alt_enter()

    return merge_key_bindings([load_auto_suggest_bindings(), keys])
