"""Vectors equal a computation by hand, whatever else is in their batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcli.engine.embedding import EmbeddingContext, pair_tokens
from llmcli.engine.events import Cancellation
from llmcli.engine.llama.context import AbortedError
from llmcli.engine.llama.model import Model
from llmcli.errors import ModelInvalidError
from llmcli.params.model import ModelParams
from tests.models import tiny_models
from tests.models.tiny_models import encoder, encoder_weights, weights_as_arrays

TEXTS = [[2, 5, 32, 3], [2, 6, 33, 34, 35, 7, 3], [2, 3]]  # [CLS] … [SEP]
PARAMS = ModelParams(n_threads=1)
N_HEADS = 2


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model.load([encoder(tmp_path_factory.mktemp("bert") / "bert.gguf")], 0)
    yield model
    model.close()


def vectors(model: Model, texts: Sequence[Sequence[int]], pooling: str, n_tokens: int = 64) -> list[Any]:
    context = EmbeddingContext(model, PARAMS, n_tokens, pooling)
    try:
        return context.vectors(texts)
    finally:
        context.close()


def norm(x: Any, weights: Any, name: str) -> Any:
    centered = x - x.mean(axis=-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def by_hand(tokens: Sequence[int], n_scores: int = 0) -> Any:
    """The vectors of the tokens after the layers of BERT (Devlin et al. 2019); with `n_scores`, also its head."""
    w = weights_as_arrays(encoder_weights(n_scores))

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    n = len(tokens)
    x = w["token_embd.weight"][tokens] + w["token_types.weight"][0] + w["position_embd.weight"][:n]
    x = norm(x, w, "token_embd_norm")
    for layer in ("blk.0", "blk.1"):
        q, k, v = (linear(x, f"{layer}.attn_{one}").reshape(n, N_HEADS, -1).swapaxes(0, 1) for one in "qkv")
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ v
        x = norm(
            x + linear(mixed.swapaxes(0, 1).reshape(n, -1), f"{layer}.attn_output"), w, f"{layer}.attn_output_norm"
        )
        up = linear(x, f"{layer}.ffn_up")
        gelu = up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        x = norm(x + linear(gelu, f"{layer}.ffn_down"), w, f"{layer}.layer_output_norm")
    return linear(np.tanh(linear(x[0], "cls")), "cls.output") if n_scores else x


@pytest.mark.parametrize(
    ("pooling", "pool"), [("mean", lambda x: x.mean(axis=0)), ("cls", lambda x: x[0]), ("last", lambda x: x[-1])]
)
def test_pooled_vectors_equal_a_computation_by_hand(bert: Model, pooling: str, pool: Any) -> None:
    for tokens, found in zip(TEXTS, vectors(bert, TEXTS, pooling), strict=True):
        assert found == pytest.approx(pool(by_hand(tokens)), abs=5e-3)  # ggml has a table for GELU


def test_no_pooling_gives_a_row_for_each_token(bert: Model) -> None:
    for tokens, found in zip(TEXTS, vectors(bert, TEXTS, "none"), strict=True):
        assert found == pytest.approx(by_hand(tokens), abs=5e-3)


def test_rank_gives_the_outputs_of_the_head(tmp_path: Path) -> None:
    model = Model.load([encoder(tmp_path / "rank.gguf", pooling=4, n_scores=1)], 0)
    for tokens, found in zip(TEXTS, vectors(model, TEXTS, "rank"), strict=True):
        assert found == pytest.approx(by_hand(tokens, n_scores=1), abs=5e-3)


KINDS = [
    tiny_models.full_attention,
    tiny_models.sliding_window,
    tiny_models.recurrent,
    tiny_models.hybrid,
    tiny_models.encoder,
]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_batch_does_not_change_a_vector(tmp_path: Path, make: Any, pooling: str) -> None:
    model = Model.load([make(tmp_path / "m.gguf")], 0)
    together = vectors(model, TEXTS, pooling)
    alone = [vectors(model, [tokens], pooling)[0] for tokens in TEXTS]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("n_tokens", [1, 2, 7, 63, 64, 65, 100, 513])
@pytest.mark.parametrize("make", [tiny_models.encoder, tiny_models.full_attention, tiny_models.hybrid])
def test_a_context_can_have_any_size(tmp_path: Path, make: Any, n_tokens: int) -> None:
    model = Model.load([make(tmp_path / "m.gguf")], 0)
    [found] = vectors(model, [[5] * min(n_tokens, 60)], "mean", n_tokens)
    assert np.isfinite(found).all()


def test_a_context_keeps_nothing_of_earlier_texts(tmp_path: Path) -> None:
    model = Model.load([tiny_models.recurrent(tmp_path / "m.gguf")], 0)
    context = EmbeddingContext(model, PARAMS, 64, "mean")
    first = context.vectors(TEXTS)
    context.vectors([[7] * 20])
    assert np.array_equal(first, context.vectors(TEXTS))


def test_a_cancelled_evaluation_raises_and_the_next_is_right(bert: Model) -> None:
    context, cancellation = EmbeddingContext(bert, PARAMS, 64, "mean"), Cancellation()
    expected = context.vectors(TEXTS)
    context.watch([cancellation])
    cancellation.set("interrupt")
    with pytest.raises(AbortedError):
        context.vectors(TEXTS)
    context.watch([])
    assert np.array_equal(expected, context.vectors(TEXTS))


def test_vectors_that_are_nan_are_refused(tmp_path: Path) -> None:
    path = encoder(tmp_path / "nan.gguf")
    data = bytearray(path.read_bytes())
    data[-128:] = np.full(32, np.nan, np.float32).tobytes()  # the bias of the last norm
    path.write_bytes(data)
    with pytest.raises(ModelInvalidError, match=r"^nan\.gguf computes NaN \(not a number\) instead of vectors$"):
        vectors(Model.load([path], 0), TEXTS, "mean")


def test_a_pair_for_bert_has_its_separators(bert: Model) -> None:
    assert pair_tokens(bert.vocab, "a", "b c") == [2, 5, 3, 6, 7, 3]


def test_a_template_has_control_tokens_and_the_texts_do_not(bert: Model) -> None:
    tokens = pair_tokens(bert.vocab, "a", "[SEP]", "[CLS]{query}[SEP]{document}[SEP]")
    assert tokens[:3] == [2, 5, 3]
    assert tokens[-1] == 3
    assert 3 not in tokens[3:-1]
