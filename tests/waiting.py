"""To wait for what another thread or process does.

Machines of tests stop a process for a second now and then: a fixed sleep is too short some day, and a limit on the time
that something took is exceeded some day. So tests wait for the state itself, and as long as it takes.
"""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition is true; fail if it is not after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
