"""A flag that stops llama.cpp in the middle of a computation, from any thread."""

import ctypes
import sys
from typing import Any


class AbortFlag:
    """One byte that llama.cpp looks at after every tensor operation.

    ggml calls its abort callback about 1,000 times per token, so the callback must not be Python. The C
    library's `strlen` over a one-letter buffer is a ready-made one: 0 (go on) for an empty text, 1 (stop) else.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        self.reason = "interrupt"

    def set(self, reason: str = "interrupt") -> None:
        """Stop the computation that runs now and those that start before `clear`; the first reason stays."""
        if not self.is_set():
            self.reason = reason
        self._byte[0] = b"!"

    def clear(self) -> None:
        self._byte[0] = b"\0"

    def is_set(self) -> bool:
        return self._byte[0] != b"\0"

    def attach(self, api: Any, ctx: Any) -> None:
        """Make the llama.cpp context `ctx` obey this flag (CPU backend only, as llama.h says)."""
        callback = ctypes.cast(C_LIBRARY.strlen, api.ggml_abort_callback)
        api.llama_set_abort_callback(ctx, callback, ctypes.cast(self._byte, ctypes.c_void_p))
        self._callback = callback


# The C library, whose plain functions serve as callbacks that need no Python.
C_LIBRARY = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
