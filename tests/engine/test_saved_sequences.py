"""A sequence that is saved and restored continues exactly as it would have, with every kind of memory."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.engine.llama.batches import BatchPlan, SequenceState, layout_of, rows_of
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from tests.engine.test_reuse import KINDS, PARAMS, assert_same, logits
from tests.models import tiny_models

PROMPT = [3 + 7 * number % 200 for number in range(300)]


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield model
    model.close()


def greedy(context: Context, seq_id: int, n_tokens: int) -> list[list[float]]:
    """The logits of some steps, each of which evaluates the most likely token of the step before."""
    found = [logits(context)]
    for _ in range(n_tokens):
        context.step([(seq_id, found[-1].index(max(found[-1])))])
        found.append(logits(context))
    return found


def assert_continues(model: Model, expected: list[list[float]], found: list[list[float]]) -> None:
    """The same numbers. Behind a window a restored cache is shorter, so that its sums have another order."""
    if model.path.stem != "sliding_window":
        assert found == expected
    for values, others in zip(found, expected, strict=True):
        assert values.index(max(values)) == others.index(max(others))
        assert_same(values, others)


@pytest.mark.parametrize("swa_full", [True, False])
@pytest.mark.parametrize("target", [0, 1])
def test_a_restored_sequence_continues_exactly(tiny: Model, swa_full: bool, target: int) -> None:
    params = replace(PARAMS, swa_full=swa_full)
    original, other = Context(tiny, params, 2, 500), Context(tiny, params, 2, 500)
    original.prefill(0, PROMPT)
    greedy(original, 0, 5)
    state = original.save()
    assert state
    assert len(state.tokens) == len(PROMPT) + 5
    assert other.restore(target, state)
    assert other.tokens(target) == original.tokens()
    assert other.layout(target) == original.layout()
    longer = [*state.tokens, 9, 8, 7]
    assert original.prefill(0, longer) == other.prefill(target, longer) == 3
    assert_continues(tiny, greedy(original, 0, 8), greedy(other, target, 8))
    original.close()
    other.close()


def test_a_sequence_without_tokens_is_not_saved(tiny: Model) -> None:
    context = Context(tiny, PARAMS, 2)
    assert context.save() is None
    context.close()


def test_a_sequence_with_unknown_tokens_is_not_saved(tiny: Model) -> None:
    """A signal has ended an evaluation before its tokens were noted."""
    context = Context(tiny, PARAMS, 2)
    context.prefill(0, PROMPT)
    del context._evaluated[0][-3:], context._rows[0][-3:]
    assert context.save() is None
    context.close()


def test_a_state_that_does_not_fit_leaves_an_empty_sequence(tiny: Model) -> None:
    large, small = Context(tiny, PARAMS, 2), Context(tiny, replace(PARAMS, n_ctx=256), 1)
    large.prefill(0, PROMPT)
    state = large.save()
    assert state
    short = SequenceState(state.tokens[:-1], layout_of(rows_of(state.batches)[:-1]), state.data)
    assert not large.restore(1, short)  # the data has another number of tokens
    assert not large.restore(1, replace(state, data=state.data[: len(state.data) // 2]))
    if not tiny.is_recurrent or tiny.path.stem == "hybrid":  # a recurrent state has one size
        assert not small.restore(0, state)
    small.prefill(0, PROMPT[:50])
    large.prefill(1, PROMPT)
    assert large.evaluated(seq_id=1) == len(PROMPT)
    large.close()
    small.close()


@pytest.mark.parametrize(
    ("begin", "end", "sizes"),
    [
        (0, 100, [100]),
        (0, 128, [64, 64]),
        (0, 200, [64, 64, 72]),
        (0, 520, [520]),  # llama.cpp makes 512 and 8 of it
        (0, 700, [512, 64, 124]),
        (640, 700, [60]),
        (10, 300, [290]),  # behind something else, nobody shares the place of a block
    ],
)
def test_the_rest_of_a_prompt_comes_in_blocks(begin: int, end: int, sizes: list[int]) -> None:
    assert BatchPlan(512, 64).sizes(begin, end) == sizes
    assert sum(BatchPlan(512, 512).sizes(begin, end)) == end - begin


def test_a_beginning_is_exact_where_both_prompts_are_divided() -> None:
    plan, tokens = BatchPlan(512, 64), list(range(1000))
    batches = [(512, 512, 1), (64, 64, 7), (40, 40, 1)]
    other = [*tokens[:900], *range(5000, 5150)]
    assert plan.exact_prefix(tokens, batches, tokens) == 896  # a prompt of 1000 tokens: 512, 6 times 64, 104
    assert plan.exact_prefix(tokens, batches, tokens[:900]) == 832
    assert plan.exact_prefix(tokens, batches, other) == 512  # 1050 tokens: 512, 512, 26
    assert plan.exact_prefix(tokens[:700], batches, tokens) == 640
    assert plan.exact_prefix(tokens, [(512, 500, 2)], tokens) == 0  # some of its rows were removed
    assert plan.last_end(tokens, 900) == 896


def test_a_file_is_restored_with_its_own_tokens_only(tiny: Model, tmp_path: Path) -> None:
    original, other = Context(tiny, PARAMS, 2, 500), Context(tiny, PARAMS, 2, 500)
    original.prefill(0, PROMPT)
    path = tmp_path / "state"
    original.save_file(0, path)
    tokens, layout = original.tokens(), original.layout()
    assert not other.restore_file(1, path, [*tokens[:-1], 5], layout)
    assert not other.restore_file(1, tmp_path / "missing", tokens, layout)
    assert other.evaluated(seq_id=1) == 0
    assert other.restore_file(1, path, tokens, layout)
    longer = [*PROMPT, 9, 8, 7]
    assert original.prefill(0, longer) == other.prefill(1, longer) == 3
    assert_continues(tiny, greedy(original, 0, 5), greedy(other, 1, 5))
    with pytest.raises(OSError, match="cannot write"):
        original.save_file(0, tmp_path / "missing" / "state")
    with pytest.raises(OSError, match="cannot write"):
        original.save_file(1, path)  # it has no tokens
    original.close()
    other.close()


def test_a_file_whose_last_byte_does_not_fit_is_an_error(tiny: Model, tmp_path: Path) -> None:
    """The C library writes its last block when the file is closed, and llama.cpp does not look at the result."""
    resource = pytest.importorskip("resource")
    context, path = Context(tiny, PARAMS), tmp_path / "state"
    context.prefill(0, PROMPT)
    context.save_file(0, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(OSError, match="is the disk full"):
            context.save_file(0, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    context.close()


def test_rows_and_layout_are_inverse() -> None:
    rows = [3, 0, 0, 3, 0, 0, 2, 0, 1, 1, 5, 0]
    assert rows_of(layout_of(rows)) == rows
