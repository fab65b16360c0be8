"""The reasoning of a model on the screen: its last rows while it streams, then one line."""

from llmcli.text import plural
from llmcli.ui.terminal.cells import Runs, wrap

_ROWS = 3
_KEPT = 2000  # characters; of twice as many the older half is dropped


class Thinking:
    """Counts the words and keeps the end of the text."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._text = ""
        self._words = 0
        self._within = False

    def add(self, text: str) -> None:
        if not text:
            return
        self._words += len(text.split()) - (self._within and not text[0].isspace())
        self._within = not text[-1].isspace()
        self._text += text
        if len(self._text) > 2 * _KEPT:
            half = self._text[-_KEPT:]
            self._text = half[half.find(" ") + 1 :]

    def rows(self, width: int) -> list[Runs]:
        """The last rows of the text, under a title."""
        text = " ".join(self._text.split())
        last = wrap([("", text)], width)[-_ROWS:] if text else []
        return [[("", "thinking")], *last]

    def summary(self, now: float) -> str:
        return f"thought for {max(0.0, now - self._started):.1f} s · {plural(self._words, 'word')}"
