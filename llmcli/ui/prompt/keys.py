"""The key bindings of the input line, in addition to the usual ones of emacs and vi."""

from collections.abc import Callable

from prompt_toolkit.application import get_app
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import (
    Condition,
    emacs_mode,
    has_completions,
    has_focus,
    has_selection,
    vi_insert_mode,
    vi_navigation_mode,
)
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPressEvent, merge_key_bindings
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.utils import suspend_to_background_supported

from llmcli.ui.input.keys import Editing


def make_keys(editing: Editing) -> KeyBindingsBase:
    """The bindings that come before prompt_toolkit's own."""
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)
    empty = Condition(lambda: not editing.buffer.text)

    def plain(action: Callable[[], None]) -> Callable[[KeyPressEvent], None]:
        return lambda _event: action()

    keys.add("enter", filter=typing)(plain(editing.enter))
    keys.add("escape", "enter", filter=typing & emacs_mode)(plain(editing.alt_enter))
    keys.add("tab", filter=typing & (emacs_mode | vi_insert_mode))(plain(editing.tab))
    keys.add("c-j", filter=typing)(plain(editing.new_line))
    keys.add("c-c", filter=typing)(plain(editing.interrupt))
    keys.add("<sigint>")(plain(editing.interrupt))
    keys.add("c-d", filter=typing & empty)(plain(editing.leave))
    keys.add("c-x", "c-e", filter=typing & emacs_mode & ~has_selection)(plain(editing.open_editor))
    keys.add("v", filter=typing & vi_navigation_mode)(plain(editing.open_editor))
    keys.add("escape", filter=typing & has_completions & emacs_mode)(plain(editing.buffer.cancel_completion))
    keys.add("c-z", filter=Condition(suspend_to_background_supported))(plain(lambda: get_app().suspend_to_background()))

    @keys.add("escape", filter=typing & vi_insert_mode & Condition(_enter_is_next))
    def _alt_enter(event: KeyPressEvent) -> None:
        event.key_processor.input_queue.popleft()
        editing.alt_enter()

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _paste(event: KeyPressEvent) -> None:
        editing.paste(event.data)

    return merge_key_bindings([load_auto_suggest_bindings(), keys])


def _enter_is_next() -> bool:
    """Whether Enter came together with this Escape: Alt-Enter, and not the end of the insert mode of vi."""
    queue = get_app().key_processor.input_queue
    return bool(queue) and queue[0].key == Keys.Enter
