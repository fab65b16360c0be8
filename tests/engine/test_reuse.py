"""A context reuses evaluated tokens without a change of the answer, with every kind of memory."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.params.model import ModelParams
from tests.models import tiny_models
from tests.models.tiny_models import N_VOCAB

KINDS = ("full_attention", "sliding_window", "recurrent", "hybrid")
CUTTABLE = ("full_attention", "sliding_window")
N_SEQ, N_CTX, LONGEST = 2, 512, 480
NOISE = 2e-3  # the size of a batch changes a logit by up to 5e-4, another past by 0.07 and more
PARAMS = ModelParams(
    n_ctx=N_SEQ * N_CTX,
    n_threads=1,
    n_batch=64,
    n_ubatch=16,
    cache_type_k="f32",
    cache_type_v="f32",
    flash_attn="off",
)


class Countdown(Cancellation):
    """Aborts after `left` operations: always at the same point, also in the middle of a batch. -1 clears it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.left = -1
        self._flag = context._abort_flag
        tick = context._api.ggml_abort_callback(self._count)
        context._api.llama_set_abort_callback(context.handle, tick, None)
        context._abort_callback = tick  # llama.cpp keeps only the pointer

    def is_set(self) -> bool:
        return self.left == 0

    def _count(self, _data: Any) -> bool:
        self.left -= self.left > 0
        return self.is_set() or self._flag[0] != b"\0"


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield model
    model.close()


def logits(context: Context, row: int = -1) -> list[float]:
    values: list[float] = context._api.llama_get_logits_ith(context.handle, row)[:N_VOCAB]
    return values


def fresh_logits(model: Model, tokens: list[int]) -> list[float]:
    context = Context(model, replace(PARAMS, n_ctx=N_CTX, n_batch=N_CTX, n_ubatch=N_CTX))
    context.prefill(0, tokens)
    values = logits(context)
    context.close()
    return values


def assert_same(values: list[float], expected: list[float]) -> None:
    assert max(abs(a - b) for a, b in zip(values, expected, strict=True)) < NOISE


def common_prefix_length(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass
class Walk:
    """Random work on two sequences; each answer is compared with that of a fresh context."""

    model: Model
    random: Random
    context: Context
    flag: Countdown
    can_cut: bool  # whether the memory keeps what is outside of a sliding window
    held: list[list[int]] = field(default_factory=lambda: [[] for _ in range(N_SEQ)])

    def tokens(self, most: int) -> list[int]:
        return [self.random.randrange(3, N_VOCAB) for _ in range(self.random.randint(1, most))]

    def prompt(self, seq_id: int) -> list[int]:
        """The same prompt, a longer or shorter one, an edited one, or a new one."""
        held = self.held[seq_id]
        keep = self.random.choice([len(held), len(held), len(held) - 1, len(held) - 9, len(held) // 2, 0])
        new = self.tokens(self.random.choice([1, 20, 450]))
        return ([*held[: max(keep, 0)], *(new if self.random.random() < 0.8 else [])] or new)[:LONGEST]

    def read(self) -> None:
        seq_id = self.random.randrange(N_SEQ)
        prompt = self.prompt(seq_id)
        ran = self.context.prefill(seq_id, prompt)
        assert_same(logits(self.context), fresh_logits(self.model, prompt))
        new = len(prompt) - min(common_prefix_length(self.held[seq_id], prompt), len(prompt) - 1)
        extends = prompt[: len(self.held[seq_id])] == self.held[seq_id] and prompt != self.held[seq_id]
        if extends or (self.model.path.stem in CUTTABLE and self.can_cut):
            assert ran == new
        self.held[seq_id] = prompt

    def write(self) -> None:
        """Generate a few tokens on every sequence that has a prompt."""
        active = [seq_id for seq_id in range(N_SEQ) if 0 < len(self.held[seq_id]) < LONGEST]
        for token in self.tokens(5) if active else []:
            self.context.step([(seq_id, token) for seq_id in active])
            for seq_id in active:
                self.held[seq_id] = [*self.held[seq_id], token]
        for row, seq_id in enumerate(active):
            assert_same(logits(self.context, row), fresh_logits(self.model, self.held[seq_id]))

    def stop(self) -> None:
        """Abort at a random operation; the tokens that the context still has are compared."""
        self.flag.left = self.random.choice([1, self.random.randint(1, 60), self.random.randint(1, 600)])
        seq_id = self.random.randrange(N_SEQ)
        wanted = self.prompt(seq_id)
        if self.random.random() < 0.3 and 0 < len(self.held[seq_id]) < LONGEST:
            wanted = [*self.held[seq_id], 5]
        with suppress(AbortedError):
            if wanted[:-1] == self.held[seq_id] and wanted[-1] == 5:
                self.context.step([(seq_id, 5)])
            else:
                self.context.prefill(seq_id, wanted)
        self.flag.left = -1
        self.held[seq_id] = wanted[: self.context.evaluated(None, seq_id)]


def random_walk(model: Model, seed: int, params: ModelParams = PARAMS, turns: int = 30) -> None:
    context = Context(model, params, N_SEQ)
    steps = Walk(model, Random(seed), context, Countdown(context), params.swa_full)
    for _ in range(turns):
        steps.random.choice([steps.read, steps.read, steps.write, steps.stop])()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_reused_context_gives_the_answers_of_a_fresh_one(tiny: Model, seed: int) -> None:
    random_walk(tiny, seed)


@pytest.mark.slow
def test_an_overwritten_window_is_evaluated_again(tiny: Model) -> None:
    random_walk(tiny, 2, replace(PARAMS, swa_full=False))


@pytest.mark.parametrize("keep", [100, 300, 440])
def test_a_cut_outside_the_window_starts_over(tiny: Model, keep: int) -> None:
    context = Context(tiny, replace(PARAMS, swa_full=False), N_SEQ)
    prompt = [3 + number % 200 for number in range(LONGEST)]
    context.prefill(0, prompt)
    edited = [*prompt[:keep], 7, 8, 9]
    context.prefill(0, edited)
    assert_same(logits(context), fresh_logits(tiny, edited))
    context.close()


@pytest.mark.parametrize("operation", [1, 20, 90, 200])
def test_an_aborted_batch_leaves_nothing_in_the_memory(tiny: Model, operation: int) -> None:
    context = Context(tiny, PARAMS, N_SEQ)
    flag = Countdown(context)
    prompt = list(range(10, 200))
    context.prefill(0, prompt[:100])
    flag.left = operation
    with pytest.raises(AbortedError):
        context.prefill(0, prompt)
    flag.left = -1
    assert context.evaluated() in (0, 100, 164)  # the batches that were done, if the rest could be taken away
    context.prefill(0, prompt)
    assert_same(logits(context), fresh_logits(tiny, prompt))
    context.close()


@pytest.mark.parametrize("swa_full", [True, False])
def test_a_longer_prompt_evaluates_only_new_tokens(tiny: Model, swa_full: bool) -> None:
    """The usual case of a chat; it works with every kind of memory."""
    context = Context(tiny, replace(PARAMS, swa_full=swa_full), N_SEQ)
    prompt = list(range(10, 200))
    assert context.prefill(0, prompt) == 190
    for token in (7, 8, 9):
        context.step([(0, token)])
    assert context.prefill(0, [*prompt, 7, 8, 9, *range(50, 60)]) == 10
    context.close()


@pytest.mark.parametrize("keep", [0, 1, 100, 104])
def test_an_edited_prompt_evaluates_only_the_changed_part(tiny: Model, keep: int) -> None:
    """A recurrent or hybrid state is evaluated from the start; attention continues from the edit."""
    context = Context(tiny, PARAMS, N_SEQ)
    context.prefill(0, list(range(10, 115)))
    edited = [*range(10, 10 + keep), *range(200, 205)]
    expected = len(edited) - keep if tiny.path.stem in CUTTABLE else len(edited)
    assert context.prefill(0, edited) == expected
    assert_same(logits(context), fresh_logits(tiny, edited))
    context.close()


def test_a_repeated_prompt_evaluates_one_token(tiny: Model) -> None:
    context = Context(tiny, PARAMS, N_SEQ)
    prompt = list(range(10, 115))
    for expected in (105, 1 if tiny.path.stem in CUTTABLE else 105):
        assert context.prefill(0, prompt) == expected
        assert_same(logits(context), fresh_logits(tiny, prompt))
    context.close()
