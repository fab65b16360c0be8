"""JSON schemas and regular expressions, matched token by token by llguidance."""

import ctypes
import math
import re
import threading
import weakref
from copy import copy
from functools import cache, lru_cache
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
_LIMITS = LLParserLimits(max_items_in_row=20_000, step_max_items=500_000)
_STACK = 256 * 2**20  # bytes, of which only those that are used take memory
NOTHING = "nothing can match it"
_CONTROL = b"\xff"  # begins no text in UTF-8: llguidance's mark of a token that a text cannot contain


class GuidanceMatcher:
    """A constraint of llguidance and the position in it.

    A token is checked by its bytes. Only a mask needs an index of the vocabulary, which takes 100 ms to make: a model
    that obeys does not pay for it.
    """

    def __init__(self, vocab: Vocab, kind: str, text: str) -> None:
        self._vocab, self._kind, self._text = vocab, kind, text
        if reason := refusal(kind, text):
            raise UsageError(f"{kind} is not valid: {reason}")
        self._bytes = _compiled(kind, text).deep_copy()
        self._tokens: LLMatcher | None = None  # from the first mask on
        self._accepted: list[int] = []  # the tokens before it

    def allows(self, token: int) -> bool:
        if self._vocab.ends(token):
            return self._bytes.is_accepting()
        data = [*self._vocab.piece(token)]
        is_text = bool(data) and not self._vocab.is_control(token)
        return is_text and self._bytes.validate_tokens(data) == len(data)

    def accept(self, token: int) -> None:
        if self._vocab.ends(token):
            return
        is_valid = self._bytes.consume_tokens([*self._vocab.piece(token)])
        if self._tokens is None:
            self._accepted.append(token)
        elif not self._tokens.consume_token(token):
            raise self._failure(self._tokens)
        if not is_valid:
            raise self._failure(self._bytes)

    def may_end(self) -> bool:
        return self._bytes.is_accepting()

    def must_end(self) -> bool:
        return self._bytes.is_stopped()

    def apply(self, candidates: "Candidates") -> None:
        import numpy as np  # takes 80 ms, as the index does

        if self._tokens is None:
            self._tokens = _compile(token_index(self._vocab), self._kind, self._text)
            self._tokens.consume_tokens(self._accepted)
        bits = self._tokens.compute_bitmask()
        if self._tokens.is_error():
            raise self._failure(self._tokens)
        array = candidates.contents
        rows = np.ctypeslib.as_array(ctypes.cast(array.data, ctypes.POINTER(ctypes.c_float)), (array.size, 3))
        allowed = np.unpackbits(np.frombuffer(bits, np.uint8), count=array.size, bitorder="little")
        rows[allowed == 0, 1] = -math.inf  # id, logit, p

    def copy(self) -> "GuidanceMatcher":
        other = copy(self)
        other._bytes, other._accepted = self._bytes.deep_copy(), [*self._accepted]
        other._tokens = self._tokens.deep_copy() if self._tokens else None
        return other

    def close(self) -> None:
        """Nothing to free."""

    def _failure(self, matcher: LLMatcher) -> ConstraintError:
        return ConstraintError(f"the {self._kind} is too complex: {_first_line(matcher.get_error())}", "simplify it")


def refusal(kind: str, text: str) -> str:
    """Why llguidance does not support a constraint; empty if it does."""
    try:
        message = _compiled(kind, text).get_error()
    except ValueError as error:  # JSON that is nested deeper, or has larger numbers, than llguidance reads
        return re.sub(r" at line .*", "", _first_line(str(error)))
    reasons = re.findall(r"error: (.*)|\(in regex\): (?!regex parse)(.*)", message) if kind == "regex" else []
    return " ".join(reasons[0]).strip() if reasons else _first_line(message)


def ignored_parts(kind: str, text: str) -> list[str]:
    """What a constraint says that llguidance ignores, in its own words."""
    return _compiled(kind, text).get_grammar_warnings()


def start_error(kind: str, text: str) -> str:
    """Why no text can match a constraint that is valid, or it is too complex; empty if a text can begin."""
    matcher = _compiled(kind, text).deep_copy()
    bits = matcher.compute_bitmask()
    if not matcher.is_error() and any(bits):  # what is too long, such as a{1000000}, shows after one character
        matcher.consume_token(next(byte for byte in range(257) if bits[byte // 8] >> byte % 8 & 1))
    if not matcher.is_error():
        return "" if any(bits) else NOTHING
    reason = _first_line(matcher.get_error())
    return NOTHING if reason.startswith("NoExtension") else f"it is too complex: {reason}"


def matches_regex(regex: str, text: str) -> bool:
    """Whether the whole text matches."""
    matcher = _compiled("regex", regex).deep_copy()
    data = list(text.encode("utf-8", "surrogatepass"))
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


# The checks of a constraint and its answers compile it once: an object of 1,500 properties takes 600 ms.
@lru_cache(maxsize=8)
def _compiled(kind: str, text: str) -> LLMatcher:
    """The matcher of a constraint at its start, for copies; or with the error of one that is not supported."""
    return _compile(_byte_index(), kind, text)


def _compile(index: LLTokenizer, kind: str, text: str) -> LLMatcher:
    """A matcher for one kind of tokens. Raises ValueError for JSON that llguidance does not read.

    llguidance follows a `$ref` by recursion: 700 of them in succession need more than the stack of the main thread.
    """
    if kind == "regex":
        return LLMatcher(index, LLMatcher.grammar_from_regex(text), log_level=0, limits=_LIMITS)
    grammar = LLMatcher.grammar_from_json_schema(text, overrides=_JSON_OPTIONS)
    matchers: list[LLMatcher] = []
    usual = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(
            target=lambda: matchers.append(LLMatcher(index, grammar, log_level=0, limits=_LIMITS)), daemon=True
        )
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join()  # which Ctrl-C ends: a large schema takes seconds
    return matchers[0]


def _first_line(text: str) -> str:
    """The first line of a message of llguidance, whose others draw the place."""
    return text.strip().split("\n")[0][:200]


@cache
def _byte_index() -> LLTokenizer:
    """An index of the 256 bytes, each of which is a token; the last token is the end."""

    class Bytes:
        eos_token_id, bos_token_id = 256, None
        tokens = (*(bytes([value]) for value in range(256)), b"")

        def __call__(self, text: bytes | str) -> list[int]:
            return list(text.encode() if isinstance(text, str) else text)

    return LLTokenizer(TokenizerWrapper(Bytes()), slices=[])


class _Tokens:
    """What llguidance asks of a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = weakref.ref(vocab)  # llguidance keeps this object, and the model must be freed all the same
        ends = [vocab.eos] if vocab.eos is not None else vocab.end_tokens
        self.eos_token_id = ends[0] if ends else vocab.n_tokens - 1
        self.bos_token_id = vocab.bos
        self.tokens = list(vocab.all_pieces)
        for token in filter(vocab.is_control, vocab.special):
            self.tokens[token] = _CONTROL + self.tokens[token]

    def __call__(self, text: bytes | str) -> list[int]:
        vocab = self._vocab()
        return vocab.tokenize_exactly(text.encode() if isinstance(text, str) else text) if vocab else []


_indexes: weakref.WeakKeyDictionary[Vocab, LLTokenizer] = weakref.WeakKeyDictionary()


def token_index(vocab: Vocab) -> LLTokenizer:
    """llguidance's index of a vocabulary, which is made once per model."""
    if vocab not in _indexes:
        _indexes[vocab] = LLTokenizer(TokenizerWrapper(_Tokens(vocab)), slices=[])
    return _indexes[vocab]
