"""Keys pressed while an answer streams: some move the temperature, the others are kept for the prompt."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prompt_toolkit.application import get_app_session
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from llmcli.ui.terminal.interrupt import echo_is_off, in_background

_ARROWS: dict[str, int] = {Keys.Up: 1, Keys.Down: -1}
_SIGNS = {"+": 1, "-": -1}
_ESCAPE = 0.05  # seconds, after which Escape is a key of its own
_PAUSE = 0.001  # seconds
_POLL = 0.03  # seconds between two reads of a console that sends no event

Take = Callable[[Iterable[KeyPress], bool], None]  # keys, and whether they were pressed before the answer


def split_keys_and_text(keys: Iterable[KeyPress], typing: bool = False) -> tuple[list[int], list[KeyPress]]:
    """The steps up (1) and down (-1) among `keys`, and the keys that belong to the next message.

    The arrows are always steps, because no cursor can move; `+` and `-` are steps until something else is
    typed (`typing`: it was already). A paste is one key.
    """
    steps: list[int] = []
    kept: list[KeyPress] = []
    for key in keys:
        step = _ARROWS.get(key.key, 0) if key.data else 0  # without data it is a part of Alt-Up
        if not typing and not kept:
            step = _SIGNS.get(key.key, step)
        if step:
            steps.append(step)
        else:
            kept.append(key)
    return steps, kept


def keep_typed_lines(after_text: bool) -> None:
    """Let the prompt get what was typed, after a text or not; Enter is a new line, so that nothing is sent unseen."""
    keys = get_app_session().input
    with live_keys(None):  # which keeps those that nobody has read yet
        pass
    pressed, new_line = get_typeahead(keys), KeyPress(Keys.ControlJ, "\n")
    while pressed and pressed[-1].key == Keys.ControlM:
        pressed.pop()
    kept = [new_line if key.key == Keys.ControlM else key for key in pressed]
    store_typeahead(keys, [new_line, *kept] if kept and after_text else kept)


@contextmanager
def live_keys(step: Callable[[int], None] | None) -> Iterator[None]:
    """Within this block, inside `disable_echo`, a thread calls `step` for each step; other keys are kept.

    The parser of the prompt reads the keys, and they are stored where the prompt looks first. So the prompt completes
    a key or a paste that the end of the block has cut. Keys typed before the block, and all keys where there is no
    `step`, are text, apart from arrows.
    """
    keys = get_app_session().input
    stored = get_typeahead(keys)
    store_typeahead(keys, stored)
    typing = bool(stored) or step is None
    move = step or (lambda _direction: None)

    def take(pressed: Iterable[KeyPress], early: bool) -> None:
        nonlocal typing
        steps, kept = split_keys_and_text(pressed, typing or early)
        typing = typing or bool(kept)
        store_typeahead(keys, kept)
        for direction in steps:
            move(direction)

    with _console(take) if sys.platform == "win32" else _terminal(keys, take):
        yield


@contextmanager
def _terminal(keys: Input, take: Take) -> Iterator[None]:
    """Read the terminal in a thread that sleeps until a key is pressed or the block ends."""
    if not echo_is_off():
        yield
        return
    from select import select
    from socket import socketpair

    take(keys.read_keys(), True)
    reader, writer = socketpair()
    stopped = reader.fileno()

    def run() -> None:
        pending = True  # perhaps a part of a key
        while not keys.closed:
            ready, _, _ = select([keys.fileno(), stopped], [], [], _ESCAPE if pending else None)
            if stopped in ready:
                return
            pressed = keys.read_keys() if ready else keys.flush_keys()
            pending = bool(ready)
            take(pressed, False)
            if pending and not pressed:  # a part of a paste; or the terminal is gone and always ready
                select([stopped], [], [], _PAUSE)

    with reader, in_background(run, writer.close):
        yield


@contextmanager
def _console(take: Take) -> Iterator[None]:
    """Read the console of Windows, which sends no event, in a thread that polls; Ctrl-C stays a signal there."""
    if sys.platform == "win32":
        from prompt_toolkit.input.win32 import ConsoleInputReader

        reader, stopped = ConsoleInputReader(), threading.Event()

        def read_keys(early: bool = False) -> None:
            take([key for key in reader.read() if key.key != Keys.WindowsMouseEvent], early)

        def run() -> None:
            while not stopped.wait(_POLL):
                read_keys()

        read_keys(early=True)
        with in_background(run, stopped.set):
            yield
    else:
        raise NotImplementedError
