"""Where reasoning ends and the answer begins, told token by token: constraint, stop strings and limits begin there."""

import codecs
import re
from collections.abc import Sequence
from copy import copy
from typing import Literal

from llmcli.engine.answer_text import REASONING_TAGS, ReasoningSplitter
from llmcli.engine.events import Request
from llmcli.engine.llama.model import Vocab

Side = Literal["reasoning", "answer", "both"]
_BREAKS = r"""((?:\\n|['"]\s*[~+]\s*['"])*)"""  # line breaks in a text of a template, also where texts are joined
_LOOKED_FOR = r"""(['"]\s*(?:in\b|[),]))?"""  # behind a text that the template only compares or splits with

_TAG_TOKENS = 64  # more than the tags, their line breaks and the rest of a character take


class ReasoningGate:
    """Follows an answer until its reasoning is over, if there is any.

    `budget` is the number of tokens after which the reasoning is ended with the text `closing`; negative: no limit.
    """

    def __init__(self, vocab: Vocab, splitter: ReasoningSplitter, openers: Sequence[str], budget: int, closing: str):
        self._vocab, self._splitter, self._openers = vocab, splitter, tuple(openers)
        self._budget, self._closing = budget, closing
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_over = False  # whether the budget was used up
        self.n_tokens = 0  # of the reasoning
        self.is_open = False  # whether the answer has begun
        self.completes_tags = False  # whether a first token that begins a tag is followed by the rest of it
        self._is_expected = True  # not if the prompt has ended the reasoning

    @classmethod
    def of_request(cls, vocab: Vocab, request: Request) -> "ReasoningGate | None":
        """The gate of an answer; None if neither its prompt nor the template of that has a tag of reasoning."""
        splitter, template, prompt = request.splitter(), request.prompt.template, request.prompt.text
        openers = [opener for opener, closer in REASONING_TAGS if closer and opener in template]
        if not splitter or not (openers or splitter.thinking):
            return None
        pairs = [pair for pair in REASONING_TAGS if pair[1]]
        opener, closer = max(pairs, key=lambda pair: (prompt.rfind(pair[0]), template.rfind(pair[0])))
        closing = closing_text(opener, closer, template, prompt)
        gate = cls(vocab, splitter, openers, request.settings.think_budget, closing)
        gate._is_expected = not prompt.rstrip().endswith(tuple(closer for _, closer in pairs))
        return gate

    @property
    def max_tokens(self) -> int:
        """The number of tokens that the reasoning can take with its tags; -1 if it has no limit."""
        if not self._is_expected:
            return 0
        return self._budget + _TAG_TOKENS if self._budget >= 0 else -1

    @property
    def thinking(self) -> bool:
        """Whether the next token is reasoning."""
        return self._splitter.thinking

    def side(self, token: int) -> Side:
        """What `token` would be next; the end of an answer is not reasoning, and what begins a tag is answer so far."""
        if self._vocab.ends(token):
            return "both" if self.thinking else "answer"
        trial = self.copy()
        text = trial._read(token)
        if trial.thinking or trial._splitter.state == "gap":
            return "reasoning"
        return "both" if self.thinking or (self._splitter.state == "gap" and text.startswith("\n")) else "answer"

    def rest_of_opener(self, token: int) -> list[int]:
        """The tokens that complete the opening tag that `token` begins, as the first one; empty if it begins none."""
        text = self._vocab.piece(token).decode("utf-8", "replace")
        is_first = self._splitter.state == "start" and text
        opener = next((opener for opener in self._openers if is_first and opener.startswith(text)), text)
        return self._vocab.tokenize(opener[len(text) :], parse_special=True)

    def push(self, token: int, is_forced: bool = False) -> list[int]:
        """Add a token; returns the tokens that must follow: the rest of a tag, or those that end the reasoning."""
        rest = self.rest_of_opener(token) if self.completes_tags and not (is_forced or self.is_open) else []
        was_thinking = self.thinking
        self._read(token)
        self.n_tokens += was_thinking and self.thinking
        self.is_open = self.is_open or self._splitter.state == "answer"
        return rest or self.closing_tokens()

    def closing_tokens(self) -> list[int]:
        """The tokens that end the reasoning now; empty while the budget lasts, and afterwards."""
        is_whole = not self._decoder.getstate()[0]  # not in the middle of a character
        if not self.thinking or self._is_over or not 0 <= self._budget <= self.n_tokens or not is_whole:
            return []
        self._is_over = True
        return self._vocab.tokenize(self._closing, parse_special=True)

    def copy(self) -> "ReasoningGate":
        """A gate at the same place that advances alone."""
        other = copy(self)
        other._splitter, other._decoder = copy(self._splitter), codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def _read(self, token: int) -> str:
        text = self._decoder.decode(self._vocab.piece(token))
        for _ in self._splitter.push(text):
            pass
        return text


def closing_text(opener: str, closer: str, template: str, prompt: str) -> str:
    """The closing tag with the line breaks before and after it that the model is used to.

    They are those with which the template writes earlier or empty reasoning; one that writes none tells by its opening
    tag whether tags have their own lines.
    """
    if closer.startswith("<|start|>"):  # gpt-oss: a message of its own, so that the one before it must end
        return "<|end|>" + closer
    written = []
    for found in re.finditer(_BREAKS + re.escape(closer) + _BREAKS + _LOOKED_FOR, template):
        before, after = (found[group].count(r"\n") for group in (1, 2))
        if template[: found.start()].endswith(opener):  # an empty reasoning has the line breaks of both tags
            before = min(before, 1)
        if before + after and not found[3]:
            written.append((before + after, before, after))
    has_lines = opener + "\n" in prompt or opener + r"\n" in template
    *_, before, after = max(written, default=(3, 1, 2) if has_lines else (0, 0, 0))
    return "\n" * before + closer + "\n" * after
