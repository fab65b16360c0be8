"""The look of the input line: marker, text or hint, menu of completions, labels, and status."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate, islice

from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_completions, has_focus, is_done
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout import Dimension, Float, FloatContainer, HSplit, Layout, Window, processors
from prompt_toolkit.layout.containers import ConditionalContainer
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets.toolbars import SearchToolbar

from llmcli.text import sanitize
from llmcli.ui.markdown.theme import ground_of

_MENU_ROWS, _MENU_ENTRIES = 8, 500
_FEWEST_COLUMNS, _FEWEST_ROWS = 30, 6  # of a window with a status
_MOST_DRAWN = 10_000  # characters that are drawn: a key press takes 50 ms in a line of that length
_MOST_LINES = 200  # that are drawn
_FIRST_SIGN, _MOST_SIGNS = 0xF0000, 0xFFFE  # characters of private use, which stand for long pastes
_STYLES = {  # without colors, on a dark background, on a light one
    "marker": ("bold", "bold ansicyan", "bold ansiblue"),
    "pasted": ("italic", "italic", "italic"),
    "status": ("dim", "dim", "dim"),
    "auto-suggestion": ("dim", "#808080", "#8a8a8a"),
    "hint": ("dim", "#808080", "#8a8a8a"),
    "completion-menu": ("", "bg:#303030 #d0d0d0", "bg:#e4e4e4 #303030"),
    "completion-menu.completion": ("", "", ""),
    "completion-menu.completion.current": ("reverse", "noreverse bg:#005f87 #ffffff", "noreverse bg:#005faf #ffffff"),
    "completion-menu.meta.completion": ("dim", "bg:#262626 #8a8a8a", "bg:#eeeeee #767676"),
    "completion-menu.meta.completion.current": ("reverse", "bg:#004b6b #d0d0d0", "bg:#3a7fc0 #ffffff"),
}

# Given the text before the cursor, the completions: each with how many characters it replaces there, and a note.
Suggest = Callable[[str], Iterable[tuple[str, int, str]]]


def make_layout(
    buffer: Buffer, pasted: processors.Processor, status: Callable[[], str], hint: Callable[[], str]
) -> Layout:
    """The text with its menu, the search line, and below them the status; `hint` is shown in an empty line."""
    search = SearchToolbar()
    typing = has_focus(buffer) & ~is_done
    empty = Condition(lambda: not buffer.text)
    line = Window(
        BufferControl(
            buffer,
            input_processors=[
                processors.HighlightIncrementalSearchProcessor(),
                processors.HighlightSelectionProcessor(),
                processors.TabsProcessor(char1=" ", char2=" "),
                pasted,
                processors.ConditionalProcessor(processors.AppendAutoSuggestion(), typing),
                processors.ConditionalProcessor(processors.AfterInput(hint, "class:hint"), typing & empty),
            ],
            include_default_input_processors=False,
            search_buffer_control=search.control,
            preview_search=True,
        ),
        height=Dimension(min=1),
        get_line_prefix=lambda row, wrapped: [("class:marker", "> ") if row == wrapped == 0 else ("", "  ")],
        wrap_lines=True,
        dont_extend_height=True,
    )

    @Condition
    def window_is_large() -> bool:
        size = get_app().output.get_size()
        return size.columns >= _FEWEST_COLUMNS and size.rows >= _FEWEST_ROWS

    def menu_height() -> Dimension:
        state = buffer.complete_state
        rows = 0 if state is None or get_app().is_done else min(len(state.completions), _MENU_ROWS)
        return Dimension(preferred=rows)

    footer = ConditionalContainer(
        Window(FormattedTextControl(lambda: [("class:status", status())]), height=1),
        ~is_done & ~has_completions & window_is_large,
    )
    menu = Float(CompletionsMenu(max_height=_MENU_ROWS, scroll_offset=1), xcursor=True, ycursor=True)
    rows = HSplit([line, ConditionalContainer(search, ~is_done), footer, Window(height=menu_height)])
    return Layout(FloatContainer(rows, [menu]), line)


def make_style(theme: str, color: bool) -> Style:
    """The style for the background of a theme. Raises UsageError for an unknown one."""
    ground = ground_of(theme)
    column = 0 if not color else 2 if ground == "light" else 1
    return Style.from_dict({part: looks[column] for part, looks in _STYLES.items()})


class Pasted(processors.Processor):
    """The long pastes; each is one character (a sign) in the line, and is drawn as a label."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}  # by the code of the sign

    def fold(self, text: str) -> str:
        """`text`, or the sign for it when it is long."""
        if len(text) <= _MOST_DRAWN and text.count("\n") <= _MOST_LINES:
            return text
        text = self.unfold(text)
        sign = next((sign for sign, known in self._texts.items() if known == text), _FIRST_SIGN + len(self._texts))
        if sign == _FIRST_SIGN + _MOST_SIGNS:
            return text
        self._texts[sign] = text
        return chr(sign)

    def unfold(self, text: str) -> str:
        """`text` with the paste in place of each sign."""
        return text.translate(self._texts)

    def label(self, sign: str) -> str:
        """The label of a sign; empty for any other character."""
        text = self._texts.get(ord(sign), "")
        lines = len(text.splitlines())
        if lines > 1:
            return f"[pasted {lines:,} lines]"
        return f"[pasted {len(text):,} characters]" if text else ""

    def apply_transformation(self, transformation_input: processors.TransformationInput) -> processors.Transformation:
        fragments = transformation_input.fragments
        text = fragment_list_to_text(fragments)
        if text.isascii() or not any(map(self.label, text)):
            return processors.Transformation(fragments)
        shown = [
            (f"{style} class:pasted", label) if (label := self.label(char)) else (style, char)
            for style, char, *_ in explode_text_fragments(fragments)
        ]
        starts = [0, *accumulate(len(char) for _, char in shown)]
        return processors.Transformation(
            list(shown),
            lambda at: starts[at] if at < len(starts) else starts[-1] + at - len(starts) + 1,
            lambda at: bisect_right(starts, at) - 1 if at < starts[-1] else at - starts[-1] + len(starts) - 1,
        )


class SuggestCompleter(Completer):
    def __init__(self, suggest: Suggest) -> None:
        self._suggest = suggest

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if not complete_event.completion_requested and not should_open_menu(before):
            return
        try:
            for text, back, note in islice(self._suggest(before), _MENU_ENTRIES):
                yield Completion(text, -min(max(back, 0), len(before)), sanitize(text), sanitize(note))
        except Exception:  # an error in a suggestion must not end the prompt
            return


def should_open_menu(before: str) -> bool:
    """Whether the menu shows while typing: for a command, and for a word that begins with @."""
    if before.startswith("/") and "\n" not in before:
        return True
    word = before[max(map(before.rfind, " \t\n")) + 1 :]
    return word.startswith("@")
