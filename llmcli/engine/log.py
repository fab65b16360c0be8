"""The log of llama.cpp: it is captured, not printed, and its errors explain failures."""

import ctypes
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmcli.engine.llama.abort import C_LIBRARY

_DEBUG, _INFO, _WARN, _ERROR, _CONT = 1, 2, 3, 4, 5  # ggml.h, enum ggml_log_level
_errors: deque[str] = deque(maxlen=16)
_listeners: list[Callable[[str], None]] = []
_last_level = _INFO


def _on_log(level: int, text: bytes | None, _user_data: Any) -> None:
    global _last_level
    if level != _CONT:
        _last_level = level
    if not text or (_last_level not in (_WARN, _ERROR) and not _listeners):
        return
    line = text.decode("utf-8", "replace").rstrip("\n")
    for listener in _listeners:
        listener(line)
    if _last_level == _ERROR:
        _errors.append(line)


_callback: Any = None  # llama.cpp keeps only the pointer


def install(api: Any) -> None:
    """Send llama.cpp's log here instead of to stderr."""
    global _callback
    _callback = api.llama_log_callback(_on_log)
    api.llama_log_set(_callback, ctypes.c_void_p(0))


@contextmanager
def muted(api: Any) -> Iterator[None]:
    """Discard the log without a call into Python, for a load in parallel with a thread that has Python's lock.

    The callback is C's `abs`, which takes the log level and has no effect.
    """
    api.llama_log_set(ctypes.cast(C_LIBRARY.abs, api.llama_log_callback), ctypes.c_void_p(0))
    try:
        yield
    finally:
        api.llama_log_set(_callback, ctypes.c_void_p(0))


def listen(listener: Callable[[str], None]) -> None:
    """Call `listener` with each further line of the log (`--verbose`)."""
    _listeners.append(listener)


def forget() -> None:
    """Discard the captured errors, before a call that can fail."""
    _errors.clear()


def reason() -> str:
    """llama.cpp's message for the last failure: the first error since `forget`, without function names."""
    lines = [re.sub(r"^\w+: ", "", line).strip() for line in _errors]
    specific = [line for line in lines if line and not re.fullmatch(r"failed to load model\W*", line)]
    return specific[0] if specific else ""
