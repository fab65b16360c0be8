"""JSON schemas and regular expressions, matched token by token by llguidance."""

import ctypes
import math
import re
import weakref
from functools import cache
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from llmcli.engine.llama.model import Vocab
from llmcli.errors import ConstraintError, UsageError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from llmcli.engine.llama.bindings import Candidates

# One line with the spaces that people and models write: one value a line in a pipe, and no endless white space.
# Keywords that llguidance does not have make the grammar wider: whoever asks for the answer validates it.
_JSON_OPTIONS: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allow_general_unicode_escapes": True,
    "lenient": True,
    "coerce_one_of": True,
}
# Its own limit allows objects of about 500 optional properties.
LIMITS = LLParserLimits(max_items_in_row=20_000, step_max_items=500_000)
_CONTROL = b"\xff"  # begins no text in UTF-8: llguidance's mark of a token that a text cannot contain


class GuidanceMatcher:
    """A constraint of llguidance and the position in it."""

    def __init__(self, vocab: Vocab, kind: str, text: str, matcher: "LLMatcher | None" = None) -> None:
        self._vocab, self._kind, self._text = vocab, kind, text
        self._matcher = matcher or LLMatcher(
            token_index(vocab), llguidance_grammar(kind, text), log_level=0, limits=LIMITS
        )
        if self._matcher.is_error():
            raise UsageError(f"{kind} is not valid: {first_line(self._matcher.get_error())}")

    def allows(self, token: int) -> bool:
        if self._vocab.ends(token):
            return self._matcher.is_accepting()
        return bool(self._matcher.validate_tokens([token]))

    def accept(self, token: int) -> None:
        if not self._vocab.ends(token) and not self._matcher.consume_token(token):
            raise self._failure()

    def may_end(self) -> bool:
        return self._matcher.is_accepting()

    def must_end(self) -> bool:
        return self._matcher.is_stopped()

    def apply(self, candidates: "Candidates") -> None:
        import numpy as np  # takes 80 ms, so only for an answer that did not obey

        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise self._failure()
        array = candidates.contents
        rows = np.ctypeslib.as_array(ctypes.cast(array.data, ctypes.POINTER(ctypes.c_float)), (array.size, 3))
        allowed = np.unpackbits(np.frombuffer(bits, np.uint8), count=array.size, bitorder="little")
        rows[allowed == 0, 1] = -math.inf  # id, logit, p

    def copy(self) -> "GuidanceMatcher":
        return GuidanceMatcher(self._vocab, self._kind, self._text, self._matcher.deep_copy())

    def close(self) -> None:
        """Nothing to free."""

    def _failure(self) -> ConstraintError:
        reason = first_line(self._matcher.get_error())
        return ConstraintError(f"the {self._kind} is too complex: {reason}", "simplify it")


def llguidance_grammar(kind: str, text: str) -> str:
    """The constraint in llguidance's own format; whether it is valid is known once a matcher is made of it."""
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    return LLMatcher.grammar_from_json_schema(text, overrides=_JSON_OPTIONS)


def regex_error(regex: str) -> str:
    """Why llguidance does not support a regular expression; empty if it does."""
    message = LLMatcher.validate_grammar(llguidance_grammar("regex", regex))
    reasons = re.findall(r"error: (.*)|\(in regex\): (?!regex parse)(.*)", message)
    return " ".join(reasons[0]).strip() if reasons else first_line(message)


def matches_regex(regex: str, text: str) -> bool:
    """Whether the whole text matches."""
    matcher = LLMatcher(_byte_index(), llguidance_grammar("regex", regex), log_level=0)
    data = list(text.encode("utf-8", "surrogatepass"))
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@cache
def _byte_index() -> LLTokenizer:
    """An index of the 256 bytes, each of which is a token; the last token is the end."""

    class Bytes:
        eos_token_id, bos_token_id = 256, None
        tokens = (*(bytes([value]) for value in range(256)), b"")

        def __call__(self, text: bytes | str) -> list[int]:
            return list(text.encode() if isinstance(text, str) else text)

    return LLTokenizer(TokenizerWrapper(Bytes()), slices=[])


def first_line(text: str) -> str:
    return text.strip().split("\n")[0][:200]


class _Tokens:
    """What llguidance asks of a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = weakref.ref(vocab)  # llguidance keeps this object, and the model must be freed all the same
        ends = [vocab.eos] if vocab.eos is not None else vocab.end_tokens
        self.eos_token_id = ends[0] if ends else vocab.n_tokens - 1
        self.bos_token_id = vocab.bos
        self.tokens = list(vocab.all_pieces)
        for token in vocab.special:
            piece = self.tokens[token]
            if vocab.is_control(token) or (piece.startswith(b"<") and piece.endswith(b">")):
                self.tokens[token] = _CONTROL + piece

    def __call__(self, text: bytes | str) -> list[int]:
        vocab = self._vocab()
        return vocab.tokenize_exactly(text.encode() if isinstance(text, str) else text) if vocab else []


_indexes: weakref.WeakKeyDictionary[Vocab, LLTokenizer] = weakref.WeakKeyDictionary()


def token_index(vocab: Vocab) -> LLTokenizer:
    """llguidance's index of a vocabulary, which is made once per model."""
    if vocab not in _indexes:
        _indexes[vocab] = LLTokenizer(TokenizerWrapper(_Tokens(vocab)), slices=[])
    return _indexes[vocab]
