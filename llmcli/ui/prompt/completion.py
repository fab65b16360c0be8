"""The menu of completions: when it opens without a key, and its entries."""

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from llmcli.ui.prompt.suggestion import Suggest
from llmcli.ui.terminal.sanitize import safe

_MOST = 500  # entries of the menu


def opens_by_itself(before: str) -> bool:
    """Whether the menu shows while typing: for a command, and for a word that begins with @."""
    if before.startswith("/") and "\n" not in before:
        return True
    word = before[max(map(before.rfind, " \t\n")) + 1 :]
    return word.startswith("@")


class SuggestCompleter(Completer):
    """Asks `suggest`; a fault in it means that there are no completions."""

    def __init__(self, suggest: Suggest) -> None:
        self._suggest = suggest

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        if not complete_event.completion_requested and not opens_by_itself(before):
            return
        try:
            for number, found in enumerate(self._suggest(before)):
                if number == _MOST:
                    return
                yield Completion(found.text, -min(max(found.back, 0), len(before)), safe(found.text), safe(found.note))
        except Exception:  # a fault in a suggestion must not end the prompt
            return
