"""Retry after transient errors: how often, and after which pause."""

import random
import threading
import time
from collections.abc import Callable

from llmcli.errors import NetworkError

Say = Callable[[str], None]

FIRST_PAUSE = 0.5  # seconds; doubled after each attempt
LONGEST_PAUSE = 30.0
_MAX_UNREACHABLE = 3  # attempts while the host was never reached
LONGEST_ASKED = 60.0  # seconds; a longer Retry-After of the server is an error with a hint
ENOUGH = 256 << 10  # bytes that count as progress: a server that always stops after one byte must not win


class PassingError(Exception):
    """A transient error: its reason, the Retry-After of the server in seconds, and whether the host was unreachable."""

    def __init__(self, reason: str, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unreachable = unreachable


class Patience:
    """Count the failed attempts of one task; progress resets the count."""

    def __init__(self, say: Say, tries: int = 8, stop: threading.Event | None = None) -> None:
        self._say = say
        self._tries = tries
        self._stop = stop or threading.Event()
        self._failed = 0
        self._progress = 0
        self._has_received = False

    def progressed(self, n_bytes: int) -> None:
        """Count received bytes."""
        self._has_received = True
        self._progress += n_bytes
        if self._progress >= ENOUGH:
            self._failed = self._progress = 0

    def wait(self, fault: PassingError) -> None:
        """Wait before the next attempt, or return at once when the task is stopped meanwhile.

        Raises:
            NetworkError: no attempts are left, or the server's Retry-After is too long.
        """
        self._failed += 1
        retry_after = fault.retry_after or 0.0
        if retry_after > LONGEST_ASKED:
            clock = time.strftime("%H:%M", time.localtime(time.time() + retry_after))
            raise NetworkError(f"{fault}; the server asks to wait {retry_after:.0f} s", f"try again at {clock}")
        # Without a network, long waiting is pointless; in the middle of a download it is not.
        is_unreachable = fault.unreachable and not self._has_received
        tries = min(self._tries, _MAX_UNREACHABLE) if is_unreachable else self._tries
        if self._failed >= tries:
            raise NetworkError(f"{fault} ({self._failed} attempts)", "try again later; the partial download is kept")
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failed - 1)) * random.uniform(0.6, 1.0)
        pause = max(pause, retry_after)
        if pause >= 1:
            self._say(f"{fault}, retrying in {pause:.0f} s (retry {self._failed} of {tries - 1})")
        self._stop.wait(pause)
