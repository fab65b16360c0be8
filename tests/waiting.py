"""To wait for what another thread or process does.

Machines of tests stop a process for a second now and then: a fixed sleep is too short some day, and a limit on the time
that something took is exceeded some day. So tests wait for the state itself, and as long as it takes.
"""

import time
from collections.abc import Callable

_MOST = 1.0  # seconds between two looks that count


class Patience:
    """So many seconds; those do not count in which this program, or the whole machine, is stopped."""

    def __init__(self, seconds: float = 60) -> None:
        self._left, self._looked = seconds, time.monotonic()

    def is_over(self) -> bool:
        """Whether the time is over: ask it again and again."""
        now = time.monotonic()
        self._left -= min(now - self._looked, _MOST)
        self._looked = now
        return self._left < 0


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition is true; fail if it is not after so many seconds."""
    patience = Patience(seconds)
    while not condition():
        assert not patience.is_over(), "it did not happen"
        time.sleep(0.005)
