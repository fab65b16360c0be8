"""Scores: how probable a model finds a text, as log-probability, bits per byte and perplexity."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, common_prefix
from llmcli.errors import ContextOverflowError
from llmcli.inference.engine import check_scores

if TYPE_CHECKING:
    from llmcli.inference.engine import Engine

WINDOW = 512  # tokens; llama-perplexity has the same (tools/perplexity/perplexity.cpp, main)
_TOGETHER = 16  # short texts that are evaluated side by side


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text; `logprob` is None where it does not count."""

    id: int
    logprob: float | None
    n_bytes: int


@dataclass(frozen=True)
class Score:
    """The score of a text: of those of its tokens that count."""

    text: str
    tokens: Sequence[ScoredToken]
    is_windowed: bool = False  # whether only a part counts, because the text was cut into windows

    @property
    def counted(self) -> Sequence[ScoredToken]:
        return [token for token in self.tokens if token.logprob is not None]

    @property
    def logprob(self) -> float:
        """The sum of the natural log-probabilities."""
        return math.fsum(token.logprob or 0.0 for token in self.tokens)

    @property
    def bits_per_byte(self) -> float | None:
        """-log2 P of the tokens that count, for each of their bytes in UTF-8; None if none counts."""
        n_bytes = sum(token.n_bytes for token in self.counted)
        return -self.logprob / math.log(2) / n_bytes if n_bytes else None

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-probability of a token; None if none counts, or it is too large for a float."""
        n_tokens = len(self.counted)
        mean = -self.logprob / n_tokens if n_tokens else math.inf
        return math.exp(mean) if mean < 700 else None

    def data(self) -> dict[str, object]:
        """The score as JSON data."""
        return {
            "logprob": self.logprob,
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "n_tokens": len(self.counted),
        }


def score_texts(
    engine: "Engine",
    texts: Sequence[str],
    before: str = "",
    window: int = WINDOW,
    cancellation: Cancellation | None = None,
) -> Iterator[Score]:
    """The scores of texts in their order; `before` is a prefix, which is given and does not count.

    A text of less than two windows, or with a prefix, is evaluated as one. All its tokens count; without a prefix and
    without a BOS token of the model, all but the first. A longer text is cut into windows, see `_score_windows`.

    Raises UsageError when the engine gives no scores, ContextOverflowError when a text with its prefix does not fit,
    KeyboardInterrupt when it is cancelled.
    """
    check_scores(engine, "scores")
    for start in range(0, len(texts), _TOGETHER):
        group = [_tokens_of(engine, before, text) for text in texts[start : start + _TOGETHER]]
        # Texts with the same prefix, as all of them have as a rule, are evaluated side by side.
        most = max(window, engine.n_ctx_train if before else min(2 * window - 1, engine.n_ctx_train))
        for (is_long, _), same in groupby(group, key=lambda one: (not before and one.size > most, one.prefix)):
            if is_long:
                yield from (_score_windows(engine, one, window, cancellation) for one in same)
            else:
                yield from _score_whole(engine, list(same), most, cancellation)


@dataclass(frozen=True)
class _TextTokens:
    text: str
    prefix: tuple[int, ...]  # what does not count; empty for a text without tokens
    tail: Sequence[int]
    n_hidden: int  # tokens of the prefix that are not of the text: a BOS token, or all of a given prefix
    sizes: Sequence[int]  # bytes of the tokens of the text

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.prefix) + len(self.tail)


def _tokens_of(engine: "Engine", before: str, text: str) -> _TextTokens:
    """The tokens of a text behind `before`. They are tokenized together: see `DecisionRequest.tokens`."""
    vocab = engine.tokenizer
    bos = [vocab.bos] if vocab.adds_bos and vocab.bos is not None else []
    given = [*bos, *(vocab.tokenize(before) if before else [])]
    tokens = [*bos, *vocab.tokenize(before + text)]
    n_prefix = min(common_prefix(given, tokens), len(tokens) - bool(text))
    n_hidden = n_prefix
    if not n_prefix and tokens:
        n_prefix = 1  # nothing can be said of the first token of all
    sizes = [len(vocab.piece(token)) for token in tokens[n_hidden:]]
    if not before and sum(sizes) == len(text.encode("utf-8", "replace")) + 1:
        sizes[0] -= 1  # the space that some tokenizers put before a text is not of the text
    return _TextTokens(text, tuple(tokens[:n_prefix]), tokens[n_prefix:], n_hidden, sizes)


def _score_whole(
    engine: "Engine", ones: Sequence[_TextTokens], most: int, cancellation: Cancellation | None
) -> Iterator[Score]:
    if too_long := next((one for one in ones if one.size > most), None):
        raise ContextOverflowError(
            f"the prefix with its text has {too_long.size} tokens, and the context has {most}",
            "shorten the prefix or the text",
        )
    asked = [one for one in ones if one.tail]
    found = iter(engine.score(ones[0].prefix, [one.tail for one in asked], cancellation) if asked else [])
    for one in ones:
        logprobs = [*[None] * (len(one.prefix) - one.n_hidden), *(next(found) if one.tail else [])]
        yield _score_of(one, logprobs)


def _score_windows(engine: "Engine", one: _TextTokens, window: int, cancellation: Cancellation | None) -> Score:
    """The score by windows as llama-perplexity computes it (tools/perplexity/perplexity.cpp, `perplexity`).

    The tokens, with their BOS, are cut into windows of `window` tokens. The second half of each window counts, so that
    each token has at least the first half before it. BOS takes the place of the first token of each window. What is
    left behind the last whole window does not count.
    """
    vocab = engine.tokenizer
    tokens = [*one.prefix, *one.tail]
    logprobs: list[float | None] = [None] * len(tokens)
    n_given = window // 2 + 1
    for start in range(0, len(tokens) - window + 1, window):
        part = tokens[start : start + window]
        if vocab.adds_bos and vocab.bos is not None:
            part[0] = vocab.bos
        (found,) = engine.score(part[:n_given], [part[n_given:]], cancellation)
        logprobs[start + n_given : start + window] = found
    return _score_of(one, logprobs[one.n_hidden :], is_windowed=True)


def _score_of(one: _TextTokens, logprobs: Sequence[float | None], is_windowed: bool = False) -> Score:
    ids = [*one.prefix[one.n_hidden :], *one.tail]
    return Score(one.text, [ScoredToken(*token) for token in zip(ids, logprobs, one.sizes, strict=True)], is_windowed)
