"""Finding stop strings in streamed text: the earliest match, also when it is split over tokens."""

from collections.abc import Sequence


class StopScanner:
    """Holds back the end of the text while it could be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to show now, and the stop string that was found, if one was."""
        text = self._held + text
        at, stop = self._find(text)
        open_at = len(text) - held_back(text, self._stops)
        if stop is not None and at <= open_at:  # nothing that began earlier can still become a match
            self._held = ""
            return text[:at], stop
        self._held = text[open_at:]
        return text[:open_at], None

    def finish(self, text: str) -> tuple[str, str | None]:
        """`push` for the last text: what was held back comes with it."""
        text, self._held = self._held + text, ""
        at, stop = self._find(text)
        return text[:at], stop

    def _find(self, text: str) -> tuple[int, str | None]:
        """The earliest match and where it begins, or the end of the text."""
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found) if found else (len(text), None)


def held_back(text: str, phrases: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `phrases` without completing it."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0
