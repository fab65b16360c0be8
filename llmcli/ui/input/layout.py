"""How the input line looks: marker, text or hint, menu, and the status below."""

from collections.abc import Callable

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_completions, has_focus, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import Dimension, Float, FloatContainer, HSplit, Layout, Window
from prompt_toolkit.layout.containers import ConditionalContainer
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import (
    AppendAutoSuggestion,
    ConditionalProcessor,
    HighlightIncrementalSearchProcessor,
    HighlightSelectionProcessor,
    Processor,
    TabsProcessor,
    Transformation,
    TransformationInput,
)
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets.toolbars import SearchToolbar

from llmcli.ui.prompt.pasted import Pasted, ShowPasted

_MENU_ROWS = 8
_FEWEST_COLUMNS, _FEWEST_ROWS = 30, 6  # of a window that has room for the status

_PLAIN = {
    "marker": "bold",
    "pasted": "italic",
    "status": "dim",
    "auto-suggestion": "dim",
    "hint": "dim",
    "completion-menu": "",
    "completion-menu.completion": "",
    "completion-menu.completion.current": "reverse",
    "completion-menu.meta.completion": "dim",
    "completion-menu.meta.completion.current": "reverse",
}
_COLORS = {
    "dark": {
        "marker": "bold ansicyan",
        "auto-suggestion": "#808080",
        "hint": "#808080",
        "completion-menu": "bg:#303030 #d0d0d0",
        "completion-menu.completion.current": "noreverse bg:#005f87 #ffffff",
        "completion-menu.meta.completion": "bg:#262626 #8a8a8a",
        "completion-menu.meta.completion.current": "noreverse bg:#004b6b #d0d0d0",
    },
    "light": {
        "marker": "bold ansiblue",
        "auto-suggestion": "#8a8a8a",
        "hint": "#8a8a8a",
        "completion-menu": "bg:#e4e4e4 #303030",
        "completion-menu.completion.current": "noreverse bg:#005faf #ffffff",
        "completion-menu.meta.completion": "bg:#eeeeee #767676",
        "completion-menu.meta.completion.current": "noreverse bg:#3a7fc0 #ffffff",
    },
}


def make_style(name: str, colour: bool) -> Style:
    """The style of that name ("dark" when it is unknown)."""
    return Style.from_dict(_PLAIN | (_COLORS.get(name, _COLORS["dark"]) if colour else {}))


class ShowHint(Processor):
    """Draws a hint in the line while the line is empty."""

    def __init__(self, hint: Callable[[], str]) -> None:
        self._hint = hint

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        if transformation_input.document.text:
            return Transformation(fragments)
        return Transformation([*fragments, ("class:hint", self._hint())])


def make_layout(buffer: Buffer, pasted: Pasted, status: Callable[[], str], hint: Callable[[], str]) -> Layout:
    """The text with its menu, the search line, and the status right below it; `hint` is shown in an empty line."""
    search = SearchToolbar()
    line = Window(
        BufferControl(
            buffer,
            input_processors=[
                HighlightIncrementalSearchProcessor(),
                HighlightSelectionProcessor(),
                TabsProcessor(char1=" ", char2=" "),
                ShowPasted(pasted),
                ConditionalProcessor(AppendAutoSuggestion(), has_focus(buffer) & ~is_done),
                ConditionalProcessor(ShowHint(hint), has_focus(buffer) & ~is_done),
            ],
            include_default_input_processors=False,
            search_buffer_control=search.control,
            preview_search=True,
        ),
        height=Dimension(min=1),
        get_line_prefix=_prefix,
        wrap_lines=True,
        dont_extend_height=True,
    )
    footer = ConditionalContainer(
        Window(FormattedTextControl(lambda: [("class:status", status())]), height=1),
        ~is_done & ~has_completions & Condition(_has_room),
    )
    rest = Window(height=lambda: Dimension(preferred=_menu_rows(buffer)))
    menu = Float(CompletionsMenu(max_height=_MENU_ROWS, scroll_offset=1), xcursor=True, ycursor=True)
    rows = HSplit([line, ConditionalContainer(search, ~is_done), footer, rest])
    return Layout(FloatContainer(rows, [menu]), line)


def _prefix(row: int, wrapped: int) -> StyleAndTextTuples:
    return [("class:marker", "> ")] if row == wrapped == 0 else [("", "  ")]


def _has_room() -> bool:
    size = get_app().output.get_size()
    return size.columns >= _FEWEST_COLUMNS and size.rows >= _FEWEST_ROWS


def _menu_rows(buffer: Buffer) -> int:
    """Rows that the menu wants below the line."""
    state = buffer.complete_state
    return 0 if state is None or get_app().is_done else min(len(state.completions), _MENU_ROWS)
