"""One of several answers as the rows of a column; rows that are printed are removed."""

from llmcli.ui.terminal.cells import Runs, breaks, cells, paint, plain, sliced
from llmcli.ui.terminal.sanitize import safe

_TAB = "    "


class Column:
    """The rows of an answer that are not printed yet; reasoning has the style `faint`."""

    def __init__(self, faint: str) -> None:
        self._faint = faint
        self._runs: Runs = []
        self._is_reasoning = False
        self._started = False
        self.ended = False

    def add(self, kind: str, text: str) -> None:
        """Add a piece of the "answer" or of the reasoning ("think")."""
        text = safe(text).replace("\t", _TAB)
        if not self._started:
            text = text.lstrip()
        if not text:
            return
        if self._started and self._is_reasoning and kind != "think":
            text = "\n\n" + text
        self._started, self._is_reasoning = True, kind == "think"
        self._runs.append((self._faint if self._is_reasoning else "", text))

    def rows(self, width: int) -> list[Runs]:
        """The remaining text in rows of at most `width` columns; until the answer ends, the last one may change."""
        return sliced(self._runs, self._spans(width)) if self._runs else []

    def certain(self, width: int) -> int:
        """How many of the rows cannot change any more."""
        n_rows = len(self._spans(width)) if self._runs else 0
        return n_rows if self.ended else max(n_rows - 1, 0)

    def take(self, count: int, width: int) -> list[Runs]:
        """Remove and return the first `count` rows."""
        rows, spans = self.rows(width), self._spans(width)
        if count >= len(rows):
            self._runs = []
            return rows
        self._drop(spans[count][0])
        return rows[:count]

    def _spans(self, width: int) -> list[tuple[int, int]]:
        text = plain(self._runs)
        return breaks(text.rstrip() if self.ended else text, width)

    def _drop(self, count: int) -> None:
        """Remove the first `count` characters."""
        runs, self._runs = self._runs, []
        for look, text in runs:
            if count < len(text):
                self._runs.append((look, text[count:]))
            count = max(count - len(text), 0)


def filled(row: Runs, width: int) -> str:
    """A row as it is drawn, padded to `width` columns."""
    return paint(row) + " " * (width - cells(plain(row)))
