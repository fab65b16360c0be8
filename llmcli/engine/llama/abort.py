"""A flag that aborts a running computation of llama.cpp, from any thread."""

import ctypes
import sys
from typing import Any


class AbortFlag:
    """One byte that llama.cpp checks after every tensor operation.

    ggml calls its abort callback about 1,000 times per token, so the callback must not be Python. The C
    library's `strlen` has the right form: over this buffer it returns 0 (continue) for an empty string, else 1 (abort).
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)
        self.reason = "interrupt"

    def set(self, reason: str = "interrupt") -> None:
        """Abort the running computation, and those that start before `clear`. The first reason is kept."""
        if not self.is_set():
            self.reason = reason
        self._byte[0] = b"!"

    def clear(self) -> None:
        self._byte[0] = b"\0"

    def is_set(self) -> bool:
        return self._byte[0] != b"\0"

    def attach(self, api: Any, ctx: Any) -> None:
        """Make this flag abort the llama.cpp context `ctx` (CPU backend only, see llama.h)."""
        callback = ctypes.cast(C_LIBRARY.strlen, api.ggml_abort_callback)
        api.llama_set_abort_callback(ctx, callback, ctypes.cast(self._byte, ctypes.c_void_p))
        self._callback = callback  # llama.cpp keeps only the pointer


# The C library: some of its functions serve as callbacks without Python.
C_LIBRARY = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
