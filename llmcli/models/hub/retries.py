"""How often, and after which pause, is something tried again that may pass by itself?"""

import random
import threading
import time
from collections.abc import Callable

from llmcli.errors import NetworkError

Say = Callable[[str], None]

FIRST_PAUSE = 0.5  # seconds; doubled each time
LONGEST_PAUSE = 30.0
_TRIES_TO_REACH = 3
LONGEST_ASKED = 60.0  # seconds that a server may ask us to wait (Retry-After) before we hand that to the user
ENOUGH = 256 << 10  # bytes that count as progress: a server that sends one byte and stops must not hold us for ever


class PassingError(Exception):
    """A fault that may pass: what it was, the seconds a server asks us to wait, and whether it answered at all."""

    def __init__(self, reason: str, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unreachable = unreachable


class Patience:
    """Counts the tries of one piece of work; progress gives all of them back."""

    def __init__(self, say: Say, tries: int = 8, stop: threading.Event | None = None) -> None:
        self._say = say
        self._tries = tries
        self._stop = stop or threading.Event()
        self._failed = 0
        self._progress = 0
        self._began = False

    def progressed(self, n_bytes: int) -> None:
        """Note bytes that came."""
        self._began = True
        self._progress += n_bytes
        if self._progress >= ENOUGH:
            self._failed = self._progress = 0

    def wait(self, fault: PassingError) -> None:
        """Wait before the next try, or end at once when the work is stopped meanwhile.

        Raises:
            NetworkError: when the tries are used up, or the server asks for more time than anybody would wait.
        """
        self._failed += 1
        asked = fault.retry_after or 0.0
        if asked > LONGEST_ASKED:
            clock = time.strftime("%H:%M", time.localtime(time.time() + asked))
            raise NetworkError(f"{fault}, and asks to wait {asked:.0f} s", f"Try again at {clock}.")
        # With no network at all there is no point in a minute's patience; in the middle of a download there is.
        tries = min(self._tries, _TRIES_TO_REACH) if fault.unreachable and not self._began else self._tries
        if self._failed >= tries:
            raise NetworkError(f"{fault} ({self._failed} tries)", "Try again later: what has come is kept.")
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failed - 1)) * random.uniform(0.6, 1.0)
        pause = max(pause, asked)
        if pause >= 1:
            self._say(f"{fault}; trying again in {pause:.0f} s ({self._failed} of {tries - 1})")
        self._stop.wait(pause)
