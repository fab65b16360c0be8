"""The output of commands: not an answer of the model, so it goes to stderr where stdout is not a terminal."""

from collections.abc import Sequence

from llmcli.ui.terminal.console import wrapped
from llmcli.ui.terminal.output import aside, put_line
from llmcli.ui.terminal.table import put_definitions, put_facts, put_rows


class Voice:
    """`live` says that a person sits at a terminal whose cursor can be moved."""

    def __init__(self, live: bool, colour: bool) -> None:
        self.live = live
        self.colour = colour

    def say(self, text: str, style: str = "") -> None:
        """One line or several."""
        with aside(not self.live):
            text = "\n".join(map(wrapped, text.split("\n"))) if self.live else text
            put_line(text, style if self.colour else "")

    def rows(self, heads: Sequence[str], rows: Sequence[Sequence[str]], **more: Sequence[str]) -> None:
        """A table; see `put_rows`."""
        with aside(not self.live):
            put_rows(heads, rows, **more)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Pairs; see `put_facts`."""
        with aside(not self.live):
            put_facts(facts)

    def definitions(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names and what they mean; see `put_definitions`."""
        with aside(not self.live):
            put_definitions(pairs)
