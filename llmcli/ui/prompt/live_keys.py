"""Keys that are pressed while an answer comes: some of them steer it, the others wait for the next prompt."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prompt_toolkit.application import get_app_session
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from llmcli.ui.typeahead import is_silent

_ARROWS: dict[str, int] = {Keys.Up: 1, Keys.Down: -1}
_SIGNS = {"+": 1, "-": -1}
_ESCAPE = 0.05  # seconds; after them Escape is a key and begins no other one
_BREATH = 0.001
_POLL = 0.03  # seconds between two looks at a console that wakes nobody

Take = Callable[[Iterable[KeyPress], bool], None]  # keys, and whether they were pressed before the answer


def sort_out(keys: Iterable[KeyPress], typing: bool = False) -> tuple[list[int], list[KeyPress]]:
    """The steps up (1) and down (-1) that `keys` ask for, and the keys that belong to the next message.

    The arrows always step, for nobody moves a cursor that is not shown; `+` and `-` do until something else is typed:
    `typing` says that a message was begun before. A paste is one key.
    """
    steps: list[int] = []
    kept: list[KeyPress] = []
    for key in keys:
        step = _step(key, typing or bool(kept))
        if step:
            steps.append(step)
        else:
            kept.append(key)
    return steps, kept


def _step(key: KeyPress, typing: bool) -> int:
    if typing or key.key not in _SIGNS:
        return _ARROWS.get(key.key, 0) if key.data else 0  # without data it is the second half of Alt-Up
    return _SIGNS[key.key]


@contextmanager
def live_keys(step: Callable[[int], None]) -> Iterator[None]:
    """Within this block, inside a silent one, `step` is called for each step from a thread; other keys are kept.

    They are read with the prompt's own parser and put where the prompt looks first, which so completes a key or a
    paste that the end of the block has cut. What was typed before the block belongs to a message, but for arrows.
    """
    keys = get_app_session().input
    waiting = get_typeahead(keys)
    store_typeahead(keys, waiting)
    typing = bool(waiting)

    def take(pressed: Iterable[KeyPress], early: bool) -> None:
        nonlocal typing
        steps, kept = sort_out(pressed, typing or early)
        typing = typing or bool(kept)
        store_typeahead(keys, kept)
        for one in steps:
            step(one)

    with _console(take) if sys.platform == "win32" else _terminal(keys, take):
        yield


@contextmanager
def _terminal(keys: Input, take: Take) -> Iterator[None]:
    """Read the terminal in a thread that sleeps until a key comes, or the end."""
    if not is_silent():
        yield
        return
    import os
    from select import select

    take(keys.read_keys(), True)
    stopped, stop = os.pipe()

    def run() -> None:
        begun = True  # a key, perhaps
        while not keys.closed:
            ready, _, _ = select([keys.fileno(), stopped], [], [], _ESCAPE if begun else None)
            if stopped in ready:
                return
            pressed = keys.read_keys() if ready else keys.flush_keys()
            begun = bool(ready)
            take(pressed, False)
            if begun and not pressed:  # a part of a paste; or the terminal is gone, which would never let us sleep
                select([stopped], [], [], _BREATH)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(stop)
        thread.join(1)
        os.close(stopped)


@contextmanager
def _console(take: Take) -> Iterator[None]:
    """Read the console of Windows, which wakes nobody, in a thread that looks often; Ctrl-C stays a signal there."""
    look, stopped = _look(), threading.Event()
    take(look(), True)

    def run() -> None:
        while not stopped.wait(_POLL):
            take(look(), False)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(1)


def _look() -> Callable[[], list[KeyPress]]:
    """What reads the keys that were pressed on the console of Windows; a mouse has nothing to say here."""
    if sys.platform == "win32":
        from prompt_toolkit.input.win32 import ConsoleInputReader

        reader = ConsoleInputReader()
        return lambda: [key for key in reader.read() if key.key != Keys.WindowsMouseEvent]
    raise NotImplementedError
