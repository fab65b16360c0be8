"""Whether a growing answer repeats itself: a small model may write the same lines until the context is full."""

_WINDOWS = (1200, 4000)  # characters at the end of the text; a repeated part is a quarter of one at most
_EVERY = 400  # new characters between two looks, each of which takes less than a millisecond
_GRAM = 12  # characters that are compared as one; of about three words
_FEWEST = 0.25  # share of different ones: prose has more than 0.9, tables and code more than 0.35


class RepetitionDetector:
    """Add the pieces of an answer; `found` is true from the first look on that sees a loop."""

    def __init__(self) -> None:
        self.found = False
        self._text = ""
        self._unseen = 0  # characters since the last look

    def add(self, text: str) -> None:
        """Add a piece; most of them cost no more than to be joined."""
        if self.found:
            return
        self._text += text
        self._unseen += len(text)
        if self._unseen < _EVERY:
            return
        self._unseen = 0
        self._text = self._text[-_WINDOWS[-1] :]
        self.found = any(_repeats(self._text[-size:]) for size in _WINDOWS if len(self._text) >= size)


def _repeats(text: str) -> bool:
    """Whether a text consists of few different parts; runs of blanks count as one."""
    text = " ".join(text.split())
    grams = [text[at : at + _GRAM] for at in range(len(text) - _GRAM)]
    return bool(grams) and len(set(grams)) <= _FEWEST * len(grams)
