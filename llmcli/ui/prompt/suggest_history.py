"""The grey text behind the cursor: the rest of the newest message with the same start."""

from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

_LONGEST = 1000  # characters typed; longer messages are not repeated


class FromHistory(AutoSuggest):
    """Completes from the start of a message to the end of that line, not from a line inside another message."""

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        text = document.text
        if not text.strip() or len(text) > _LONGEST or not document.is_cursor_at_the_end:
            return None
        for entry in reversed(buffer.history.get_strings()):
            rest = entry[len(text) :].partition("\n")[0] if entry.startswith(text) else ""
            if rest:
                return Suggestion(rest)
        return None
