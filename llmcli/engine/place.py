"""Where in an answer is the token that is drawn next?"""

from copy import copy

from llmcli.engine.sentences import TextPosition
from llmcli.engine.thinking import ThinkingSplitter


class Place:
    """Counts tokens, sentences, lines and paragraphs, anew where the reasoning ends and the answer begins.

    `splitter` tells the two apart; without one all is answer.
    """

    def __init__(self, splitter: ThinkingSplitter | None = None) -> None:
        self._splitter = splitter
        self.total = 0  # of the whole answer, reasoning and all
        self.index = 0
        self.text = TextPosition()
        self.thinking = bool(splitter and splitter.thinking)

    def read(self, text: str) -> None:
        """Take a text that stands before the first token: a prefill, or the answer that is gone on with.

        Letter by letter, because reasoning may both begin and end in it.
        """
        for letter in text:
            self._push(letter)

    def step(self, text: str) -> None:
        """Take one more token, with the text that became whole with it."""
        self.total += 1
        self.index += 1
        self._push(text)

    def _push(self, text: str) -> None:
        if not text:
            return
        was = self.thinking
        if self._splitter:
            said = [part for kind, part in self._splitter.push(text) if kind == "answer"]
            self.thinking = self._splitter.thinking
            if was and not self.thinking:
                self.index, self.text, text = 0, TextPosition(), "".join(said)
            elif self.thinking and not was:
                self.index, self.text, text = 0, TextPosition(), ""
        self.text.push(text)

    def copy(self) -> "Place":
        """The place as it is now, for `restore`: a token may be taken back."""
        other = copy(self)
        other._splitter, other.text = copy(self._splitter), self.text.copy()
        return other

    def restore(self, other: "Place") -> None:
        """Go back to a copy, which is used up by this."""
        vars(self).update(vars(other))
