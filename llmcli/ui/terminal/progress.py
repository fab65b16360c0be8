"""A progress line on the terminal of stderr, erased before anything else is printed."""

import os
import sys
from time import monotonic

from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.sanitize import safe

_PATIENCE = 0.4  # seconds before work counts as long
_INTERVAL = 0.1


class Status:
    """Shows nothing for short work, and nothing at all where stderr is not a terminal."""

    def __init__(self) -> None:
        self._on = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not console.quiet
        self._next = monotonic() + _PATIENCE
        self._shown = False

    def update(self, text: str) -> None:
        """Replace the line."""
        if not self._on or monotonic() < self._next:
            return
        self._next = monotonic() + _INTERVAL
        self._shown = True
        sys.stderr.write(f"\r\x1b[K{safe(text)}")
        sys.stderr.flush()

    def loading(self, share: float) -> None:
        self.update(f"loading the model {share:.0%}")

    def reading(self, done: int, total: int) -> None:
        self.update(f"reading the prompt {done / max(total, 1):.0%}")

    def identifying(self, done: int, total: int) -> None:
        self.update(f"computing the sha256 of the model {done / max(total, 1):.0%}")

    def clear(self) -> None:
        """Erase the line; cheap when there is none."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
