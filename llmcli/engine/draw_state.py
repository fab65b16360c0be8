"""Where a draw is in its answer: the counts that a temperature policy and a trace read."""

from copy import copy

from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.engine.sentences import TextPosition


class DrawState:
    """Counts tokens, sentences, lines and paragraphs. The counts restart where reasoning ends and the answer starts.

    `splitter` separates the two; without one, all text is answer.
    """

    def __init__(self, splitter: ReasoningSplitter | None = None) -> None:
        self._splitter = splitter
        self.total = 0  # tokens, including the reasoning
        self.index = 0
        self.text = TextPosition()
        self.thinking = bool(splitter and splitter.thinking)

    def read(self, text: str) -> None:
        """Add text before the first token: a prefill, or the answer to continue.

        It is added character by character, because reasoning can both start and end in it.
        """
        for character in text:
            self._push(character)

    def step(self, text: str) -> None:
        """Add a token with its text."""
        self.total += 1
        self.index += 1
        self._push(text)

    def _push(self, text: str) -> None:
        if not text:
            return
        was_thinking = self.thinking
        if self._splitter:
            answer = [part for kind, part in self._splitter.push(text) if kind == "answer"]
            self.thinking = self._splitter.thinking
            if was_thinking != self.thinking:
                self.index, self.text = 0, TextPosition()
                text = "" if self.thinking else "".join(answer)
        self.text.push(text)

    def copy(self) -> "DrawState":
        """A copy, for `restore` after tokens are removed."""
        other = copy(self)
        other._splitter, other.text = copy(self._splitter), copy(self.text)
        return other

    def restore(self, other: "DrawState") -> None:
        """Restore a copy, which must not be used again."""
        vars(self).update(vars(other))
