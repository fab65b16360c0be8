"""Scores: the log-probabilities of given tokens, equal to those that are computed by hand from the logits."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scoring import WIDTH, score, score_prompt
from llmcli.errors import ModelInvalidError
from llmcli.params.model import ModelParams
from tests.engine.test_probe import with_nan
from tests.engine.test_scheduler import Trigger
from tests.models import tiny_models

KINDS = ("full_attention", "sliding_window", "recurrent", "hybrid")
ROUNDING = 1e-3  # another processor rounds batches of another size by up to 2e-4
CELLS = 512
PARAMS = ModelParams(
    n_ctx=CELLS, n_threads=1, n_batch=64, n_ubatch=16, cache_type_k="f32", cache_type_v="f32", flash_attn="off"
)
PREFIX = list(range(10, 35))
CONTINUATIONS = ([40], [41, 42, 43], [40, 44], list(range(60, 90)), [259, 260, 261, 259])


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield model
    model.close()


@pytest.fixture(scope="module")
def context(tiny: Model) -> Iterator[Context]:
    made = Context(tiny, PARAMS, WIDTH + 1, CELLS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(tiny: Model) -> Iterator[Context]:
    made = Context(tiny, PARAMS)
    yield made
    made.close()


def by_hand(context: Context, prefix: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """One evaluation for each token, and the logarithm of its softmax."""
    found = []
    for at, token in enumerate(tokens):
        context.prefill(0, [*prefix, *tokens[:at]])
        logits = context.logits(context.model.vocab.n_tokens)
        best = max(logits)
        found.append(logits[token] - best - math.log(math.fsum(math.exp(one - best) for one in logits)))
    return found


def test_scores_equal_those_computed_from_the_logits(context: Context, alone: Context) -> None:
    for tokens, found in zip(CONTINUATIONS, score(context, CELLS, PREFIX, CONTINUATIONS), strict=True):
        assert found == pytest.approx(by_hand(alone, PREFIX, tokens), abs=ROUNDING)


def test_order_of_the_continuations_does_not_matter(context: Context) -> None:
    forward = score(context, CELLS, PREFIX, CONTINUATIONS)
    backward = score(context, CELLS, PREFIX, CONTINUATIONS[::-1])
    for a, b in zip(forward, backward[::-1], strict=True):
        assert a == pytest.approx(b, abs=ROUNDING)


def test_any_number_of_continuations_is_scored(context: Context) -> None:
    """More than there are sequences, more tokens than fit beside each other, and more rows than one batch has."""
    many = [[40 + number, *range(10, 10 + number)] for number in range(2 * WIDTH + 6)]
    found = score(context, CELLS, PREFIX, many)
    assert [len(one) for one in found] == [len(one) for one in many]
    for number in (0, 1, WIDTH, 2 * WIDTH + 5):
        assert found[number] == pytest.approx(score(context, CELLS, PREFIX, [many[number]])[0], abs=ROUNDING)


def test_a_long_continuation_is_scored_in_several_batches(context: Context, alone: Context) -> None:
    tokens = [10 + number % 200 for number in range(150)]
    (found,) = score(context, CELLS, [1], [tokens])
    assert found[-3:] == pytest.approx(by_hand(alone, [1], tokens)[-3:], abs=ROUNDING)


def test_no_continuation_and_an_empty_one_have_no_score(context: Context) -> None:
    assert score(context, CELLS, PREFIX, []) == []
    assert score(context, CELLS, PREFIX, [[], [40]])[0] == []


@pytest.mark.parametrize("tiny", ["full_attention"], indirect=True)
def test_a_shared_beginning_is_evaluated_once(tiny: Model) -> None:
    context = Context(tiny, PARAMS, WIDTH + 1, CELLS)
    score(context, CELLS, PREFIX, CONTINUATIONS)
    score(context, CELLS, [*PREFIX, 50, 51, 52], CONTINUATIONS)
    n_rows = sum(len(tokens) - 1 for tokens in CONTINUATIONS)  # of the same batch
    # The second call added three tokens.
    assert context.layout() == [(len(PREFIX) + n_rows, len(PREFIX), 1), (3 + n_rows, 3, 1)]
    context.close()


@pytest.mark.parametrize(
    ("prefix", "n_batches"),
    [(PREFIX, 1), ([*PREFIX, 50], 1), ([9] * 30, 2), ([8] * 100, 3)],  # what does not fit one batch of 64 has its own
)
def test_prefix_and_continuations_are_one_batch(
    tiny: Model, context: Context, monkeypatch: pytest.MonkeyPatch, prefix: Sequence[int], n_batches: int
) -> None:
    decode, seen = context._decode, list[int]()

    def note(n: int, *rest: Any) -> None:
        seen.append(n)
        decode(n, *rest)

    monkeypatch.setattr(context, "_decode", note)
    context.cut(0)
    found = score(context, CELLS, prefix, CONTINUATIONS)
    assert len(seen) == n_batches + (tiny.is_recurrent and n_batches == 1)
    again = score(context, CELLS, prefix, CONTINUATIONS)  # with all but the last token of the prefix
    for a, b in zip(found, again, strict=True):
        assert a == pytest.approx(b, abs=ROUNDING)


@pytest.mark.parametrize("tiny", ["full_attention"], indirect=True)
def test_several_tokens_of_a_sequence_are_one_batch(tiny: Model) -> None:
    context = Context(tiny, PARAMS, 2, CELLS)
    context.extend([(0, 10), (1, 20), (0, 11), (0, 12)])
    context.extend([(1, 21)])
    assert (context.layout(0), context.layout(1)) == ([(4, 3, 1)], [(4, 1, 1), (1, 1, 1)])
    assert (context.evaluated([10, 11, 12], 0), context.evaluated([20, 21], 1)) == (3, 2)
    context.close()


def test_a_context_is_usable_after_a_cancelled_score(context: Context) -> None:
    expected, stop = score(context, CELLS, PREFIX, CONTINUATIONS), Cancellation()
    context.watch([stop])
    stop.set()
    with pytest.raises(AbortedError):
        score(context, CELLS, [*PREFIX, 50], CONTINUATIONS)
    context.watch([])
    assert score(context, CELLS, PREFIX, CONTINUATIONS)[3] == pytest.approx(expected[3], abs=ROUNDING)


def test_a_score_can_be_cancelled_at_any_time(tiny: Model) -> None:
    context = Context(tiny, PARAMS, WIDTH + 1, CELLS)
    expected, trigger, n_cancelled = score(context, CELLS, PREFIX, CONTINUATIONS), Trigger(context), 0
    for number in range(12):
        trigger.target, trigger.left = Cancellation(), 1 + 30 * number  # operations of the graph
        context.watch([trigger.target])
        context.cut(0, number)
        try:
            score(context, CELLS, PREFIX, CONTINUATIONS)
        except AbortedError:
            n_cancelled += 1
        context.watch([])
        for a, b in zip(score(context, CELLS, PREFIX, CONTINUATIONS), expected, strict=True):
            assert a == pytest.approx(b, abs=ROUNDING)
    assert n_cancelled >= 3
    context.close()


@pytest.mark.parametrize("continuations", [CONTINUATIONS, [[40]]])
def test_scores_that_are_nan_are_refused(tmp_path: Path, continuations: Sequence[Sequence[int]]) -> None:
    model = Model.load([with_nan(tmp_path / "nan.gguf", -1000, 1000)], n_gpu_layers=0)
    context = Context(model, PARAMS, WIDTH + 1, CELLS)
    with pytest.raises(ModelInvalidError, match="computes NaN"):
        score(context, CELLS, PREFIX, continuations)
    assert not any(context.evaluated(seq_id=seq_id) for seq_id in range(WIDTH + 1))
    context.close()
    model.close()


def test_a_prompt_is_scored_as_its_tokens_are(context: Context) -> None:
    tokens = [*PREFIX, 40, 41, 42]
    (own,) = score(context, CELLS, tokens[:1], [tokens[1:]])
    scored = score_prompt(context, tokens, 3)
    assert [one.logprob for one in scored.logprobs] == pytest.approx(own, rel=1e-3)
    assert [one.id for one in scored.logprobs] == tokens[1:]
    assert {len(one.top) for one in scored.logprobs} == {3}
    assert len(scored.following) == 3


def test_the_known_beginning_of_a_prompt_is_not_computed_again(context: Context) -> None:
    first, second = [*PREFIX, 40, 41], [*PREFIX, 50, 51, 52]
    alone = score_prompt(context, second, 1)
    known = score_prompt(context, first, 1).logprobs[: len(PREFIX) - 1]
    score(context, CELLS, first[:2], [first[2:4]])  # something else in the same context
    again = score_prompt(context, second, 1, known)
    assert [one.logprob for one in again.logprobs] == pytest.approx([one.logprob for one in alone.logprobs], rel=1e-3)
    assert [one.id for one in again.logprobs] == second[1:]
    assert again.logprobs[0] is known[0] or context.keep_prefix(0, second) == 0
