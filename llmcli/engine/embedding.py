"""Vectors of texts: a context of llama.cpp that gives embeddings instead of logits."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model, Vocab

if TYPE_CHECKING:  # numpy takes 60 ms
    from numpy import float32
    from numpy.typing import NDArray

    from llmcli.params.model import ModelParams

    Vector = NDArray[float32]

_MAX_SEQUENCES = 64  # texts in one evaluation; llama.cpp has at most 256
_MAX_RECURRENT = 8  # each sequence of a recurrent model has a state of its own, which can have many megabytes


class EmbeddingContext(Context):
    """Computes the vectors of several texts in one evaluation; nothing is kept between two of them.

    `pooling` makes one vector of those of all tokens: their mean, the first one (`cls`) or the last one; `rank` gives
    the outputs of the classification head, and `none` the vectors of all tokens. Raises LlmcliError if llama.cpp cannot
    create the context.
    """

    def __init__(self, model: Model, params: "ModelParams", n_tokens: int, pooling: str) -> None:
        """A context for evaluations of up to `n_tokens` tokens.

        All of them are in one micro-batch: an encoder stops the program if they are not, and the mean of a text in two
        micro-batches would be that of the second part (llama-context.cpp, `encode` and `decode`).
        """
        n_sequences = min(max_sequences(model), n_tokens)
        n_tokens += -n_tokens % n_sequences  # another number stops the program, too
        self.n_tokens, self.pooling = n_tokens, pooling
        sizes = replace(params, n_ctx=n_tokens, n_batch=n_tokens, n_ubatch=n_tokens)
        super().__init__(model, sizes, n_sequences, n_tokens, pooling)

    def vectors(self, texts: Sequence[Sequence[int]]) -> "list[Vector]":
        """The vector of each text, which is given as its tokens; with `none`, a matrix with a row for each token.

        The texts have at least one token each, and not more together than the context. Raises AbortedError when it is
        cancelled, ModelInvalidError when the model computes NaN.
        """
        import numpy

        n = 0
        for seq_id, tokens in enumerate(texts):
            end = n + len(tokens)
            self._batch.tokens[n:end] = list(tokens)
            self._batch.positions[n:end] = [*range(len(tokens))]
            self._batch.seq_pointers[n:end] = [self._batch.seq_pointer[seq_id]] * len(tokens)
            n = end
        self._batch.wants_logits[:n] = [1] * n
        self._batch_seq_id = -1
        self._api.llama_memory_clear(self._memory, True)
        self._decode(n, [*range(len(texts))])
        found = [self._row(*one) for one in self._results(texts)]
        if self.pooling == "none":
            rows = iter(found)
            found = [numpy.stack([next(rows) for _ in tokens]) for tokens in texts]
        if any(numpy.isnan(vector).any() for vector in found):
            raise self.not_a_number("vectors")
        return found

    def _results(self, texts: Sequence[Sequence[int]]) -> "Iterator[tuple[ctypes._Pointer[ctypes.c_float], int]]":
        """Where each vector is in the memory of llama.cpp, and its length."""
        api, model = self._api, self.model.handle
        n = api.llama_model_n_cls_out(model) if self.pooling == "rank" else api.llama_model_n_embd_out(model)
        if self.pooling == "none":
            for row in range(sum(map(len, texts))):
                yield api.llama_get_embeddings_ith(self.handle, row), n
        else:
            for seq_id in range(len(texts)):
                yield api.llama_get_embeddings_seq(self.handle, seq_id), n

    @staticmethod
    def _row(pointer: "ctypes._Pointer[ctypes.c_float]", n: int) -> "Vector":
        import numpy

        return numpy.ctypeslib.as_array(pointer, (n,)).copy()  # the next evaluation writes there


def max_sequences(model: Model) -> int:
    """The number of texts in one evaluation, at most."""
    return _MAX_RECURRENT if model.is_recurrent else _MAX_SEQUENCES


def n_dimensions(model: Model) -> int:
    """The length of its vectors."""
    n: int = model._api.llama_model_n_embd_out(model.handle)
    return n


def pair_tokens(vocab: Vocab, query: str, document: str, template: str = "") -> list[int]:
    """The tokens of a query with a document for a reranking model, as llama-server has them.

    With a `template`, its own text may have control tokens, and the texts may not. Without, the separators of the
    vocabulary are around them, as in `[CLS] query [SEP] document [SEP]` of BERT.
    """
    if template:
        texts, tokens = {"{query}": query, "{document}": document}, []
        for part in _split_template(template):
            tokens += vocab.tokenize(texts[part]) if part in texts else vocab.tokenize(part, parse_special=True)
        return tokens
    api, pointer = vocab._api, vocab.pointer
    end = [vocab.eos] if vocab.eos is not None and api.llama_vocab_get_add_eos(pointer) else []
    separator = [api.llama_vocab_sep(pointer)] if api.llama_vocab_get_add_sep(pointer) else []
    begin = [vocab.bos] if vocab.adds_bos and vocab.bos is not None else []
    return [*begin, *vocab.tokenize(query), *end, *separator, *vocab.tokenize(document), *(end or separator)]


def _split_template(template: str) -> Iterator[str]:
    import re

    yield from filter(None, re.split(r"(\{query\}|\{document\})", template))
