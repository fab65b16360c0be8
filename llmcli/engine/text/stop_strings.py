"""Stop strings in streamed text: the earliest match, also across tokens."""

from collections.abc import Sequence


class StopScanner:
    """Finds stop strings. It holds back the end of the text while that can be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is final, and the stop string that was found or None."""
        text = self._held + text
        at, stop = self._find(text)
        final = len(text) - held_back(text, self._stops)
        if stop is not None and at <= final:  # no earlier match is possible any more
            self._held = ""
            return text[:at], stop
        self._held = text[final:]
        return text[:final], None

    def finish(self, text: str) -> tuple[str, str | None]:
        """`push` for the last text, together with the text that was held back."""
        text, self._held = self._held + text, ""
        at, stop = self._find(text)
        return text[:at], stop

    def _find(self, text: str) -> tuple[int, str | None]:
        """The start of the earliest match and its stop string, or the length of the text and None."""
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found) if found else (len(text), None)


def held_back(text: str, phrases: Sequence[str]) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of one of `phrases`."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0
