"""One of several answers as rows of a column; rows that stand for good are let go."""

from llmcli.ui.markdown.cells import Runs, breaks, cells, paint, plain, sliced
from llmcli.ui.safe import safe

_TAB = "    "


class Column:
    """The part of an answer that can still change, or waits for its neighbours; reasoning has the look `faint`."""

    def __init__(self, faint: str) -> None:
        self._faint = faint
        self._runs: Runs = []
        self._thinking = False
        self._begun = False
        self.ended = False

    def add(self, kind: str, text: str) -> None:
        """Add a piece of the "answer" or of the reasoning ("think")."""
        text = safe(text).replace("\t", _TAB)
        if not self._begun:
            text = text.lstrip()
        if not text:
            return
        if self._begun and self._thinking and kind != "think":
            text = "\n\n" + text
        self._begun, self._thinking = True, kind == "think"
        self._runs.append((self._faint if self._thinking else "", text))

    def rows(self, width: int) -> list[Runs]:
        """What is left, in rows of at most `width` columns; until the answer has ended the last one may change."""
        return sliced(self._runs, self._spans(width)) if self._runs else []

    def certain(self, width: int) -> int:
        """How many of the rows will not change any more."""
        n_rows = len(self._spans(width)) if self._runs else 0
        return n_rows if self.ended else max(n_rows - 1, 0)

    def take(self, count: int, width: int) -> list[Runs]:
        """The first `count` rows, which are let go."""
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
        """Let the first `count` characters go."""
        runs, self._runs = self._runs, []
        for look, text in runs:
            if count < len(text):
                self._runs.append((look, text[count:]))
            count = max(count - len(text), 0)


def filled(row: Runs, width: int) -> str:
    """A row as it is drawn, with blanks up to `width` columns."""
    return paint(row) + " " * (width - cells(plain(row)))
