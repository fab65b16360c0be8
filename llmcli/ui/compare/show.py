"""Run a comparison and show it in columns on a terminal; elsewhere the answers are printed at the end."""

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from llmcli.ui.comparison.view import CompareView
from llmcli.ui.terminal.console import wants_colour
from llmcli.ui.terminal.output import put_drawn

if TYPE_CHECKING:  # it stands on the engine
    from llmcli.inference.comparison import Comparison


def view_of(comparison: "Comparison") -> CompareView:
    """A view of its answers on the terminal of stdout."""
    labels = [one.variant.label for one in comparison.compared]
    return CompareView(put_drawn, shutil.get_terminal_size, labels, wants_colour(sys.stdout))


def run(
    comparison: "Comparison", view: CompareView | None, think: bool, first: Callable[[], None] = lambda: None
) -> None:
    """Generate and draw the answers; `first` is called before anything is drawn, more than once."""
    from llmcli.inference.comparison import END

    try:
        with closing(comparison.parts()) as parts:
            for index, kind, text in parts:
                first()
                if view and kind == END:
                    view.end(index)
                elif view and (think or kind == "answer"):
                    view.push(index, kind, text)
    finally:
        first()
        if view:
            view.finish()
