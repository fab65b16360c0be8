"""Vectors of texts, and scores of documents for a query: what an embedding or a reranking model gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from llmcli.engine.embedding import EmbeddingContext, max_sequences, n_dimensions, pair_tokens
from llmcli.engine.events import Cancellation, Progress
from llmcli.engine.llama.context import AbortedError
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.structures import POOLING_TYPES
from llmcli.errors import ContextOverflowError, LlmcliError, TimeLimitError, UsageError
from llmcli.files import data_dir
from llmcli.inference import placement, sizing
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.notes import ModelHasher
from llmcli.params.settings import Settings
from llmcli.text import format_size

if TYPE_CHECKING:
    from llmcli.engine.embedding import Vector as Vector
    from llmcli.inference.engine import Engine

_TOO_LONG = "split it, or use --truncate to leave out its end"
_PASSAGE, _QUESTION = "Passage: ", "\nPlease write a question based on this passage.\nQuestion:"
_RERANK_TEMPLATE = "tokenizer.chat_template.rerank"


@dataclass(frozen=True)
class Evaluation:
    """What became of a text: its vector or its score, or the error.

    With `none` pooling the vector is a matrix, a row for each token.
    """

    n_tokens: int  # of the text, with those that the model adds
    vector: "Vector | None" = None
    score: float | None = None  # for a query: more is better
    error: LlmcliError | None = None
    is_truncated: bool = False


class EmbeddingModel:
    """A loaded model that computes vectors, in a context that grows with the texts."""

    def __init__(
        self,
        target: ResolvedModel,
        settings: Settings,
        pooling: str = "",
        cancellation: Cancellation | None = None,
        progress: Callable[[float], None] | None = None,
        shared: Model | None = None,
    ) -> None:
        """Load the model, or use one that is loaded and stays so; without a `pooling` type, that of the header counts.

        Raises ModelInvalidError when llama.cpp refuses it or it has no vectors, UsageError for a pooling type that the
        model does not have, and KeyboardInterrupt when the load is cancelled.
        """
        if not target.kind.runs:
            raise target.kind_error()
        if settings.rpc:
            from llmcli.inference import rpc_devices  # few commands need it, with subprocess and tempfile

            rpc_devices.connect(settings, cancellation)
        header = placement.with_overrides(target.header, settings)
        self.target, self.shape = target, sizing.shape_of(target.headers, settings)
        self.name, self.notes, self.kind = target.file.name, target.notes, target.kind.name
        self.settings, self.cancellation = settings, cancellation or Cancellation()
        self.pooling = self._choose_pooling(pooling, header.metadata.get(f"{header.architecture}.pooling_type"))
        self._rerank_template = str(header.metadata.get(_RERANK_TEMPLATE) or "")
        self.n_ctx = min(settings.n_ctx or self.shape.n_ctx_train, self.shape.n_ctx_train)  # tokens of one text
        if settings.n_ctx > self.n_ctx:  # a BERT has no positions beyond
            self.notes.append(f"the context is {self.n_ctx} tokens, which is what the model was trained on")
        smallest = replace(settings, n_ctx=self._room(1))
        self.notes += sizing.check_settings(self.shape, smallest) + placement.check(target.header, settings)
        layers = sizing.choose_gpu_layers(self.shape, settings, smallest.n_ctx)
        self._hasher = ModelHasher(target.file, data_dir())
        self._is_shared = shared is not None
        self._model = shared or Model.load(target.file.parts, layers, progress, cancellation, settings=settings)
        self.load_ms = self._model.load_ms
        if not shared:
            self._model.vocab.abort = cancellation
        self._context: EmbeddingContext | None = None
        self.n_dims, self._n_sequences = n_dimensions(self._model), max_sequences(self._model)

    def _choose_pooling(self, wanted: str, number: object) -> str:
        own = next((name for name, one in POOLING_TYPES.items() if one == number), "")
        if self.kind == "reranker" and not wanted:
            hint = "use `llmcli rerank`, or --pooling mean"
            raise UsageError(f"{self.name} is a reranking model, which gives a score and no vector", hint)
        if self.kind != "reranker" and wanted == "rank":
            raise UsageError(f"pooling rank needs a reranking model, and {self.name} is not one", "use --pooling mean")
        if wanted or own not in ("", "none"):
            return wanted or own
        self.notes.append(
            f"{self.name} has no pooling type: its vectors are the mean of all tokens; those of an embedding model are "
            "better"
        )
        return "mean"

    @property
    def facts(self) -> Sequence[str]:
        """About the model, for `--verbose`."""
        weights = f"{self.shape.n_layers} layers, {format_size(self.shape.weights)} of weights"
        return (
            f"model: {self.name}, {self.target.file.path}",
            f"{self.target.header.architecture}, {weights}, context {self.n_ctx} tokens",
            f"vectors of {self.n_dims} numbers, pooling {self.pooling}",
            f"loaded in {self.load_ms / 1e3:.2f} s",
        )

    def sha256(self, progress: Progress) -> str:
        """The sha256 of the model file, which is computed once; `progress` counts bytes. "" when it is cancelled."""
        return self._hasher.sha256(progress, self.cancellation.is_set)

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text with those that the model adds, none if it is blank. No text becomes a control token."""
        return self._model.vocab.tokenize(text, add_special=True) if text.strip() else []

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise UsageError if one of these is not in the vocabulary."""
        self._model.vocab.check(tokens)

    def embed(
        self, texts: Iterable[str | list[int]], normalize: bool = True, truncate: bool = False
    ) -> Iterator[Evaluation]:
        """The vectors of the texts, or of their tokens, in order; those of several texts are computed together.

        A vector has the length 1 with `normalize`, unless it has the scores of `rank`. A text that is longer than the
        context has an error, or its end is left out with `truncate`. It ends early when it is cancelled.
        """
        tokens = (self.tokenize(text) if isinstance(text, str) else text for text in texts)
        for one in self._evaluate(tokens, truncate):
            if normalize and self.pooling != "rank" and one.vector is not None:
                one = replace(one, vector=normalized(one.vector))
            yield one

    def rank(self, query: str, documents: Iterable[str], truncate: bool = False) -> Iterator[Evaluation]:
        """The scores of documents for a query: the output of a reranking model, else the cosine of their vectors.

        It ends early when it is cancelled. Raises ContextOverflowError for a query that is longer than the context.
        """
        if self.pooling == "rank":
            vocab, template = self._model.vocab, self._rerank_template
            pairs = (pair_tokens(vocab, query, one, template) if one.strip() else [] for one in documents)
            for one in self._evaluate(pairs, truncate):
                yield one if one.vector is None else replace(one, score=float(one.vector[0]))
            return
        for asked in self.embed([query]):
            if asked.error:
                raise type(asked.error)(f"the query: {asked.error}", "shorten it")
            for one in self.embed(documents, truncate=truncate):
                if asked.vector is not None and one.vector is not None:
                    one = replace(one, score=cosine(asked.vector, one.vector))
                yield one

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        if self._context:
            self._context.close()
            self._context = None
        if not self._is_shared:
            self._model.close()

    def keep_model(self) -> Model:
        """Its loaded model, which stays when this ends."""
        self._is_shared = True
        return self._model

    def _evaluate(self, texts: Iterable[list[int]], truncate: bool) -> Iterator[Evaluation]:
        """The vector or the error of each text, which is given as its tokens."""
        batch: list[list[int]] = []
        n_batch = 0  # tokens in the batch
        for tokens in texts:
            n = min(len(tokens), self.n_ctx)
            is_valid = tokens and (truncate or n == len(tokens))
            is_full = n_batch + n > self.settings.n_ubatch or len(batch) == self._n_sequences
            if batch and (is_full or not is_valid):
                yield from self._evaluate_batch(batch)
                batch, n_batch = [], 0
            if self.cancellation.is_set():
                return
            if is_valid:
                batch.append(tokens)
                n_batch += n
            else:
                yield Evaluation(len(tokens), error=self._error_of(len(tokens)))
        if batch:
            yield from self._evaluate_batch(batch)

    def _evaluate_batch(self, texts: Sequence[list[int]]) -> Iterator[Evaluation]:
        kept = [self._shortened(tokens) for tokens in texts]
        try:
            context = self._context_for(sum(map(len, kept)))
        except LlmcliError as error:  # no memory for a text of this length
            yield from (Evaluation(len(tokens), error=error) for tokens in texts)
            return
        context.watch([self.cancellation])
        with suppress(AbortedError):
            for tokens, vector in zip(texts, context.vectors(kept), strict=True):
                yield Evaluation(len(tokens), vector, is_truncated=len(tokens) > self.n_ctx)

    def _shortened(self, tokens: list[int]) -> list[int]:
        """The tokens that fit in the context; a token that marks the end stays."""
        if len(tokens) <= self.n_ctx:
            return tokens
        n_end = int(self._model.vocab.is_control(tokens[-1]))
        return [*tokens[: self.n_ctx - n_end], *tokens[len(tokens) - n_end :]]

    def _error_of(self, n_tokens: int) -> LlmcliError:
        if not n_tokens:
            return _empty_text()
        message = f"the text has {n_tokens} tokens, and the context has {self.n_ctx}"
        return ContextOverflowError(message, _TOO_LONG)

    def _room(self, n_tokens: int) -> int:
        """The size of a context for so many tokens: that of a batch, or a power of two for a longer text."""
        return max(self.settings.n_ubatch, 1 << (n_tokens - 1).bit_length())

    def _context_for(self, n_tokens: int) -> EmbeddingContext:
        """The present context, or a larger one. Raises LlmcliError if it does not fit in memory."""
        if self._context and self._context.n_tokens >= n_tokens:
            return self._context
        room = self._room(n_tokens)
        sizing.check_settings(self.shape, replace(self.settings, n_ctx=room, n_batch=room, n_ubatch=room))
        if self._context:
            self._context.close()
            self._context = None
        self._context = EmbeddingContext(self._model, self.settings, room, self.pooling)
        return self._context


def query_likelihoods(
    engine: "Engine", query: str, documents: Iterable[str], cancellation: Cancellation, n_ctx: int = 0
) -> Iterator[Evaluation]:
    """The scores of documents by a model for text: the mean log-probability of a query's tokens after each of them.

    Query likelihood (Ponte & Croft 1998), with the words of UPR (Sachan et al. 2022, "Improving Passage Retrieval with
    Zero-Shot Question Generation"). With `n_ctx`, the end of a document is left out where the tokens are more.
    It ends early when it is cancelled.
    """
    tokenizer = engine.tokenizer
    begin = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else []
    before = begin + tokenizer.tokenize(_PASSAGE)
    after, asked = tokenizer.tokenize(_QUESTION), tokenizer.tokenize(f" {query}")
    for document in documents:
        if not document.strip():
            yield Evaluation(0, error=_empty_text())
            continue
        tokens = tokenizer.tokenize(document)
        n_tokens = len(before) + len(tokens) + len(after) + len(asked)
        kept = tokens[: max(n_ctx - n_tokens + len(tokens), 0)] if n_ctx else tokens
        is_truncated = len(kept) < len(tokens)
        try:
            [logprobs] = engine.score([*before, *kept, *after], [asked], cancellation)
            yield Evaluation(n_tokens, score=fmean(logprobs), is_truncated=is_truncated)
        except ContextOverflowError as error:
            yield Evaluation(n_tokens, error=ContextOverflowError(str(error), _TOO_LONG))
        except (KeyboardInterrupt, TimeLimitError):
            if not cancellation.is_set():
                raise
            return


def _empty_text() -> LlmcliError:
    return UsageError("the text is empty", "remove it")


def normalized(vectors: "Vector") -> "Vector":
    """A vector, or each row of a matrix, with the length 1; zeros stay zeros."""
    import numpy

    lengths = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Vector = (vectors / numpy.where(lengths > 0, lengths, 1)).astype(numpy.float32)
    return found


def cosine(a: "Vector", b: "Vector") -> float:
    """The cosine of the angle between two vectors: 1 for the same direction, 0 if one of them is zero."""
    return float(normalized(a) @ normalized(b))
