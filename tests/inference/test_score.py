"""Scores of texts: which tokens count, and what the figures are."""

import math
from collections.abc import Iterator, Sequence

import pytest

from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.score import score_texts
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings
from tests.conftest import ROOT
from tests.inference.fake_engine import FakeEngine, without
from tests.inference.fake_vocab import FakeVocab
from tests.models.tiny_models import full_attention

# "Final estimate: PPL" (llama.cpp of llama-cpp-python 0.3.36) of
#     head -c 2600 LICENSE > l.txt
#     llama-perplexity -m SmolLM2-135M-Instruct.Q4_1.gguf -f l.txt -t 1 -fa off -ctk f32 -ctv f32 -c 128
# Of the whole file it is 16.5775, and with -c 512 15.9013: so it is here, where that takes half a minute. With flash
# attention and f16, another -b changes it by 0.3 %.
OF_LICENSE = 15.0978


def engine_with_bos(**values: float) -> FakeEngine:
    """Knows the log-probabilities of some letters; others have -1."""

    def logprob(_before: Sequence[int], token: int) -> float:
        return values.get(chr(token), -1.0)

    return FakeEngine(tokenizer=FakeVocab(bos="<s>", adds_bos=True), logprob=logprob, n_ctx=64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    settings = Settings(n_threads=1, cache_type_k="f32", cache_type_v="f32", flash_attn="off")
    engine = LocalEngine(ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True)), settings)
    yield engine
    engine.close()


def test_the_figures_are_those_of_the_formulas() -> None:
    (score,) = score_texts(engine_with_bos(a=math.log(0.5), b=math.log(0.125)), ["ab"])
    assert score.logprob == pytest.approx(math.log(1 / 16))
    assert score.bits_per_byte == pytest.approx(2)  # 4 bits, 2 bytes
    assert score.perplexity == pytest.approx(4)  # 16 ** (1 / 2)
    assert len(score.counted) == 2


def test_without_bos_all_tokens_but_the_first_count() -> None:
    engine = FakeEngine()
    (score,) = score_texts(engine, ["abc"])
    assert [token.logprob for token in score.tokens] == [None, -1, -1]
    assert score.bits_per_byte == pytest.approx(2 / math.log(2) / 2)  # of two bytes
    assert engine.scored == [([ord("a")], [[ord("b"), ord("c")]])]


def test_a_text_without_counted_tokens_has_no_perplexity() -> None:
    for score in score_texts(FakeEngine(), ["", "a"]):
        assert (score.logprob, score.bits_per_byte, score.perplexity, len(score.counted)) == (0, None, None, 0)


def test_bytes_are_those_of_utf8() -> None:
    (score,) = score_texts(engine_with_bos(), ["\u00fc\u65e5"])
    assert score.bits_per_byte == pytest.approx(2 / math.log(2) / 5)  # two tokens, five bytes


def test_a_space_that_the_tokenizer_adds_is_no_byte(tiny: LocalEngine) -> None:
    (score,) = score_texts(tiny, ["the"])
    assert sum(token.n_bytes for token in score.tokens) == 3


def test_a_prefix_does_not_count() -> None:
    engine = engine_with_bos()
    (score,) = score_texts(engine, ["cd"], "ab")
    assert [chr(token.id) for token in score.tokens] == ["c", "d"]
    assert score.logprob == -2
    assert "".join(map(engine.tokenizer.label, engine.scored[0][0])) == "<s>ab"


def test_a_token_that_crosses_the_end_of_a_prefix_counts(tiny: LocalEngine) -> None:
    (score,) = score_texts(tiny, ["|a"], "x<")
    assert [tiny.tokenizer.label(token.id) for token in score.tokens] == ["<|", "a"]


def test_a_prefix_changes_a_score_as_the_text_before_it_does(tiny: LocalEngine) -> None:
    (whole,), (rest,) = score_texts(tiny, ["the cat"]), score_texts(tiny, [" cat"], "the")
    assert rest.logprob == pytest.approx(math.fsum(token.logprob or 0 for token in whole.tokens[-len(rest.tokens) :]))


def test_each_text_has_the_score_that_it_has_alone(tiny: LocalEngine) -> None:
    texts = ["the cat", "", "\u65e5\u672c", "an owl sat " * 20, *[f"number {number}" for number in range(40)]]
    for text, score in zip(texts, score_texts(tiny, texts), strict=True):
        (alone,) = score_texts(tiny, [text])
        assert score.text == text
        assert score.logprob == pytest.approx(alone.logprob, abs=1e-4)


def test_a_text_below_two_windows_is_evaluated_as_one() -> None:
    engine = engine_with_bos()
    (score,) = score_texts(engine, ["x" * 18], window=10)  # 19 tokens with BOS
    assert (len(score.counted), score.is_windowed, len(engine.scored)) == (18, False, 1)


def test_the_second_half_of_each_window_counts() -> None:
    """As in llama-perplexity: of 10 tokens, the last 4; BOS stands for the first token of a window."""
    engine = engine_with_bos()
    (score,) = score_texts(engine, ["".join(map(chr, range(97, 97 + 23)))], window=10)  # 24 tokens with BOS
    asked = ["".join(map(engine.tokenizer.label, [*prefix, *tails[0]])) for prefix, tails in engine.scored]
    assert asked == ["<s>abcdefghi", "<s>klmnopqrs"]
    counted = "".join(chr(token.id) for token in score.counted)
    assert (counted, score.is_windowed) == ("fghipqrs", True)
    assert [len(prefix) for prefix, _ in engine.scored] == [6, 6]


def test_windows_of_a_model_are_those_computed_by_hand(tiny: LocalEngine) -> None:
    text = "the owl an her " * 12
    (score,) = score_texts(tiny, [text], window=16)
    tokens = [tiny.tokenizer.bos, *tiny.tokenizer.tokenize(text)]
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 15, 16):
        window = [tiny.tokenizer.bos, *tokens[start + 1 : start + 16]]
        for at in range(9, 16):
            ((logprob,),) = tiny.score(window[:at], [[window[at]]])  # type: ignore[arg-type, list-item]
            total, count = total + logprob, count + 1
    assert score.logprob == pytest.approx(total, rel=1e-5)
    assert len(score.counted) == count
    assert score.perplexity == pytest.approx(math.exp(-total / count))


def test_perplexity_equals_that_of_llama_perplexity(target: ResolvedModel) -> None:
    settings = Settings(n_threads=1, flash_attn="off", cache_type_k="f32", cache_type_v="f32")
    engine = LocalEngine(target, settings)
    (score,) = score_texts(engine, [(ROOT / "LICENSE").read_text(encoding="utf-8")[:2600]], window=128)
    engine.close()
    assert score.perplexity == pytest.approx(OF_LICENSE, rel=1e-2)  # kernels of another processor round otherwise
    assert (score.is_windowed, len(score.counted)) == (True, 4 * 63)


def test_a_prefix_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ContextOverflowError, match="the prefix with its text has 602 tokens, and the context has 512"):
        list(score_texts(engine_with_bos(), ["b"], "a" * 600))


def test_an_engine_without_scores_is_refused() -> None:
    with pytest.raises(UsageError, match="fake does not support scores"):
        list(score_texts(FakeEngine(capabilities=without(scores=False)), ["a"]))


def test_scores_come_while_others_are_computed() -> None:
    """Only a few texts are evaluated before the first score is there."""
    engine = engine_with_bos()
    first = next(iter(score_texts(engine, [f"line {number}" for number in range(1000)])))
    assert (first.text, len(engine.scored)) == ("line 0", 1)
