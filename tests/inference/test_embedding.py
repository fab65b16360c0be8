"""An embedding model: texts in order, batches, long texts, pooling types, and scores for a query."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcli.engine.events import Cancellation
from llmcli.errors import ContextOverflowError, ModelInvalidError, UsageError
from llmcli.inference.embedding import EmbeddingModel, cosine, normalized, query_likelihoods
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings
from tests.models.gguf_writer import write_gguf
from tests.models.tiny_models import N_CTX_ENCODER, encoder

Open = Callable[..., EmbeddingModel]
LONG = "a" * 200


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Open]:
    """Opens a model file, which is closed at the end."""
    opened: list[EmbeddingModel] = []

    def call(
        path: Path, pooling: str = "", cancellation: Cancellation | None = None, **settings_of: Any
    ) -> EmbeddingModel:
        target = ResolvedModel(ModelFile(path, (path,), path.stem))
        settings = Settings(**{"n_threads": 1, "n_ubatch": 16} | settings_of)
        opened.append(EmbeddingModel(target, settings, pooling, cancellation))
        return opened[-1]

    yield call
    for one in opened:
        one.close()


@pytest.fixture
def bert(open_model: Open, tmp_path: Path) -> EmbeddingModel:
    return open_model(encoder(tmp_path / "bert.gguf"))


def test_vectors_come_in_the_order_of_the_texts(bert: EmbeddingModel) -> None:
    texts = ["cat", "dog " * 6, "a", "b c d e", LONG, "f", "dog " * 9, "g h"]
    together = [*bert.embed(texts)]
    assert [one.n_tokens for one in together] == [5, 20, 3, 6, 202, 3, 29, 4]
    for text, one in zip(texts, together, strict=True):
        if text != LONG:
            [alone] = bert.embed([text])
            assert one.vector == pytest.approx(alone.vector, abs=1e-4)
    assert [one.error is None for one in together] == [text != LONG for text in texts]


def test_a_vector_has_the_length_1_unless_asked_otherwise(bert: EmbeddingModel) -> None:
    [unit], [raw] = bert.embed(["cat"]), bert.embed(["cat"], normalize=False)
    assert unit.vector is not None
    assert raw.vector is not None
    assert unit.vector.dtype == np.float32
    assert np.linalg.norm(unit.vector) == pytest.approx(1)
    assert np.linalg.norm(raw.vector) > 2
    assert unit.vector == pytest.approx(raw.vector / np.linalg.norm(raw.vector))


def test_a_text_longer_than_the_context_says_both_numbers(bert: EmbeddingModel) -> None:
    [one] = bert.embed([LONG])
    assert isinstance(one.error, ContextOverflowError)
    assert str(one.error) == f"the text has 202 tokens, and the context has {N_CTX_ENCODER}"
    assert one.vector is None


def test_truncation_keeps_the_beginning_and_the_end_token(bert: EmbeddingModel) -> None:
    [cut], [short] = bert.embed([LONG], truncate=True), bert.embed(["a" * (N_CTX_ENCODER - 2)])
    assert (cut.is_truncated, cut.n_tokens, short.is_truncated) == (True, 202, False)
    assert cut.vector == pytest.approx(short.vector, abs=1e-5)


def test_a_smaller_context_is_the_limit(open_model: Open, tmp_path: Path) -> None:
    model = open_model(encoder(tmp_path / "bert.gguf"), n_ctx=8)
    assert [one.error is None for one in model.embed(["abcdef", "abcdefg"])] == [True, False]


def test_a_context_beyond_the_training_is_not_used(open_model: Open, tmp_path: Path) -> None:
    model = open_model(encoder(tmp_path / "bert.gguf"), n_ctx=4096)
    assert model.n_ctx == N_CTX_ENCODER
    assert model.notes == [f"the context is {N_CTX_ENCODER} tokens, which is what the model was trained on"]


def test_an_empty_text_is_an_error_whatever_a_model_adds(open_model: Open, tiny: Path, bert: EmbeddingModel) -> None:
    before, empty, after = open_model(tiny, override_kv=("tokenizer.ggml.add_bos_token=bool:false",)).embed(
        ["a", "", "b"]
    )
    assert str(empty.error) == "the text is empty"
    assert (before.error, after.error) == (None, None)
    [of_bert] = bert.embed([""])
    assert str(of_bert.error) == "the text is empty"  # [CLS] [SEP] would have a vector without a meaning


def test_control_tokens_in_a_text_are_text(bert: EmbeddingModel) -> None:
    assert bert.tokenize("[SEP]").count(3) == 1


def test_a_decoder_has_the_mean_and_a_warning(open_model: Open, tiny: Path) -> None:
    model = open_model(tiny)
    assert model.pooling == "mean"
    assert model.notes == [
        "tiny has no pooling type: its vectors are the mean of all tokens; those of an embedding model are better"
    ]
    [one] = model.embed(["the other hen"])
    [rows] = open_model(tiny, "none").embed(["the other hen"], normalize=False)
    assert one.vector is not None
    assert rows.vector is not None
    assert one.vector == pytest.approx(normalized(rows.vector.mean(axis=0)), abs=1e-5)


@pytest.mark.parametrize(("number", "name"), [(1, "mean"), (2, "cls"), (3, "last")])
def test_the_header_gives_the_pooling_type(open_model: Open, tmp_path: Path, number: int, name: str) -> None:
    model = open_model(encoder(tmp_path / "bert.gguf", pooling=number))
    assert (model.pooling, model.notes) == (name, [])
    assert open_model(encoder(tmp_path / "bert.gguf", pooling=number), "cls").pooling == "cls"


def test_rank_without_a_reranking_model_is_refused(open_model: Open, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^pooling rank needs a reranking model, and bert is not one$"):
        open_model(encoder(tmp_path / "bert.gguf"), "rank")


def test_a_reranking_model_gives_no_vectors_by_itself(open_model: Open, tmp_path: Path) -> None:
    path = encoder(tmp_path / "judge.gguf", pooling=4, n_scores=1)
    with pytest.raises(UsageError, match=r"^judge is a reranking model, which gives a score and no vector$"):
        open_model(path)
    assert open_model(path, "mean").n_dims == 32


def test_a_model_of_another_kind_is_refused(open_model: Open, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t5.gguf", {"general.architecture": "t5"})
    with pytest.raises(ModelInvalidError, match="encoder-decoder"):
        open_model(path)


def test_a_reranking_model_scores_each_document(open_model: Open, tmp_path: Path) -> None:
    model = open_model(encoder(tmp_path / "judge.gguf", pooling=4, n_scores=2), "rank")
    documents = ["c d", LONG, "e"]
    first, long, last = model.rank("a b", documents)
    assert first.vector is not None
    assert len(first.vector) == 2
    assert first.score == pytest.approx(float(first.vector[0]))
    assert isinstance(long.error, ContextOverflowError)
    [alone] = model.rank("a b", ["e"])
    assert last.score == pytest.approx(alone.score, abs=1e-4)
    assert last.score != pytest.approx(first.score, abs=1e-3)


def test_an_embedding_model_scores_by_the_cosine(bert: EmbeddingModel) -> None:
    a, b = (one.vector for one in bert.embed(["a b", "c d"], normalize=False))
    [ranked] = bert.rank("a b", ["c d"])
    assert a is not None
    assert b is not None
    assert ranked.score == pytest.approx(float(a @ b / np.sqrt((a @ a) * (b @ b))), abs=1e-4)


def test_a_query_that_does_not_fit_is_named(bert: EmbeddingModel) -> None:
    with pytest.raises(ContextOverflowError, match=r"^the query: the text has 202 tokens"):
        next(bert.rank(LONG, ["a"]))


def test_a_cancellation_ends_the_vectors_early(open_model: Open, tmp_path: Path) -> None:
    cancellation = Cancellation()
    model = open_model(encoder(tmp_path / "bert.gguf"), cancellation=cancellation)
    results = model.embed(["abcdef"] * 10)
    assert next(results).vector is not None
    cancellation.set("interrupt")
    assert len([*results]) < 9


def test_the_cosine_of_opposite_vectors_is_minus_1() -> None:
    a = np.array([3, 4], np.float32)
    assert [cosine(a, a), cosine(a, -a), cosine(a, np.zeros(2, np.float32))] == pytest.approx([1, -1, 0])


@pytest.fixture
def engine(tiny: Path) -> Iterator[LocalEngine]:
    model = LocalEngine(ResolvedModel(ModelFile(tiny, (tiny,), "tiny")), Settings(n_threads=1, n_ctx=256))
    yield model
    model.close()


def test_a_model_for_text_scores_by_the_query_after_each_document(engine: LocalEngine) -> None:
    documents = ["the hen", "an answer"]
    found = [*query_likelihoods(engine, "hen", documents, Cancellation())]
    for document, one in zip(documents, found, strict=True):
        tokenize = engine.tokenizer.tokenize
        words = "\nPlease write a question based on this passage.\nQuestion:"
        prefix = [1, *tokenize("Passage: "), *tokenize(document), *tokenize(words)]
        tokens = tokenize(" hen")
        [logprobs] = engine.score(prefix, [tokens])
        assert one.score == pytest.approx(sum(logprobs) / len(tokens), abs=3e-3)
        assert one.n_tokens == len(prefix) + len(tokens)
    assert found[0].score != pytest.approx(found[1].score, abs=1e-2)


def test_a_document_that_does_not_fit_is_cut_or_an_error(engine: LocalEngine) -> None:
    failed, _ = query_likelihoods(engine, "hen", [LONG, "a"], Cancellation())
    assert isinstance(failed.error, ContextOverflowError)
    assert failed.error.hint == "split it, or use --truncate to leave out its end"
    cut, short = query_likelihoods(engine, "hen", [LONG, "a"], Cancellation(), n_ctx=256)
    assert (cut.is_truncated, short.is_truncated) == (True, False)
    assert cut.score is not None


def test_likelihoods_end_early_when_they_are_cancelled(engine: LocalEngine) -> None:
    cancellation = Cancellation()
    results = query_likelihoods(engine, "hen", ["a", "b", "c"], cancellation)
    assert next(results).score is not None
    cancellation.set("interrupt")
    assert [*results] == []
