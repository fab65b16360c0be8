"""How a comparison appears while it is made: in columns on a full terminal, nowhere else before its end."""

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from llmcli.ui.compare.view import CompareView
from llmcli.ui.console import wants_colour
from llmcli.ui.output import put_drawn

if TYPE_CHECKING:  # it stands on the engine
    from llmcli.chat.comparison import Comparison


def view_of(comparison: "Comparison") -> CompareView:
    """A place for its answers on the terminal of stdout."""
    labels = [one.variant.label for one in comparison.compared]
    return CompareView(put_drawn, shutil.get_terminal_size, labels, wants_colour(sys.stdout))


def run(
    comparison: "Comparison", view: CompareView | None, think: bool, first: Callable[[], None] = lambda: None
) -> None:
    """Let the answers be written and drawn; `first` is called before anything is drawn, more than once."""
    from llmcli.chat.comparison import END

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
