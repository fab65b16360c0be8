"""The batches of a prompt are recorded, and the same batches give identical logits again."""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from random import Random

import pytest

from llmcli.engine.events import Batches
from llmcli.engine.llama.batches import check_layout
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.params.model import ModelParams
from tests.engine.conftest import MakeContext
from tests.engine.test_reuse import Countdown
from tests.models import tiny_models

# Batches of 64 rows and more are computed by other kernels than small ones.
CONTEXT = ModelParams(n_ctx=512, n_threads=1, n_batch=256, n_ubatch=128)


def expand_batches(layout: Batches) -> list[tuple[int, int]]:
    """A list with one entry per batch."""
    return [(rows, kept) for rows, kept, times in layout for _ in range(times)]


def logit_bytes(context: Context) -> bytes:
    """The logits of the last row."""
    pointer = context._api.llama_get_logits_ith(context.handle, -1)
    return ctypes.string_at(pointer, 4 * context.model.vocab.n_tokens)


# The bookkeeping


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ([(20, 20, 1), (1, 1, 3)], ""),
        ([(40, 20, 1), (3, 3, 1)], ""),
        ([], "have 0 tokens, expected 23"),
        ([(20, 20, 1)], "have 20 tokens, expected 23"),
        ([(20, 20, 1), (1, 1, 4)], "have more than 23 tokens"),
        ([(1, 1, 10**9)], "have more than 23 tokens"),
        ([(0, 0, 1), (23, 23, 1)], "invalid batch"),
        ([(23, 0, 1)], "invalid batch"),
        ([(5, 23, 1)], "invalid batch"),
        ([(23, 23, 0)], "invalid batch"),
        ([(-23, -23, -1)], "invalid batch"),
        ([(10**9, 23, 1)], "invalid batch"),
        ([(65, 23, 1)], "invalid batch"),
        ([(22, 22, 1), (63, 1, 1)], "have more than"),
    ],
)
def test_an_impossible_layout_is_an_error(layout: Batches, fault: str) -> None:
    if not fault:
        check_layout(layout, 23, n_batch=64, n_ctx=64)
        return
    with pytest.raises(ValueError, match=fault):
        check_layout(layout, 23, n_batch=64, n_ctx=64)


# In a context


def test_a_context_records_the_batches_of_an_answer(fresh: MakeContext, model: Model) -> None:
    context = fresh(n_batch=16)
    tokens = model.vocab.tokenize("one two three four five six seven eight nine ten " * 4)[:37]
    context.prefill(0, tokens)
    for token in (5, 6, 7):
        context.step([(0, token)])
    assert context.layout() == [(16, 16, 2), (5, 5, 1), (1, 1, 3)]
    context.prefill(0, tokens)  # the last one again, for its logits
    assert context.layout() == [(16, 16, 2), (5, 4, 1), (1, 1, 1)]
    context.prefill(0, [*tokens[:20], 8, 9])
    assert context.layout() == [(16, 16, 1), (16, 4, 1), (2, 2, 1)]


def test_tokens_of_several_sequences_share_their_batches(fresh: MakeContext) -> None:
    context = fresh(n_seq_max=2)
    context.prefill(0, [5, 6, 7])
    context.prefill(1, [5, 6])
    for token in (8, 9):
        context.step([(0, token), (1, token)])
    context.step([(1, 10)])
    assert context.layout(0) == [(3, 3, 1), (2, 1, 2)]
    assert context.layout(1) == [(2, 2, 1), (2, 1, 2), (1, 1, 1)]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (23, [(20, 20, 1), (1, 1, 3)]),
        (21, [(20, 20, 1), (1, 1, 1)]),
        (20, [(20, 20, 1)]),
        (12, [(20, 12, 1)]),
        (0, []),
    ],
)
def test_a_cut_keeps_the_first_rows_of_a_batch(fresh: MakeContext, keep: int, left: Batches) -> None:
    context = fresh()
    context.prefill(0, list(range(3, 23)))
    for token in (5, 6, 7):
        context.step([(0, token)])
    context.cut(0, keep)
    assert context.layout() == left


def test_a_copied_sequence_has_batches_of_its_own(fresh: MakeContext) -> None:
    context = fresh(n_seq_max=2)
    context.prefill(0, list(range(3, 23)))
    context.share(0, 1)
    context.prefill(1, [*range(3, 6), 50, 51])
    assert context.layout(0) == [(20, 20, 1)]
    assert context.layout(1) == [(20, 3, 1), (2, 2, 1)]


def test_an_aborted_batch_is_not_recorded(fresh: MakeContext) -> None:
    context = fresh(n_batch=16)
    flag = Countdown(context)
    context.prefill(0, list(range(3, 13)))
    flag.left = 5
    with pytest.raises(AbortedError):
        context.prefill(0, list(range(3, 40)))
    flag.left = -1
    assert context.layout() == [(10, 10, 1)]


@pytest.fixture
def model(short_model: Model) -> Model:
    return short_model


class Reader:
    """Evaluates random prompts like a chat, and aborts some of them if it `aborts`."""

    def __init__(self, model: Model, seed: int, n_vocab: int, aborts: bool = False) -> None:
        self.context = Context(model, CONTEXT)
        self.flag = Countdown(self.context) if aborts else None
        self.random = Random(seed)
        self.n_vocab = n_vocab

    def tokens(self, count: int) -> list[int]:
        return [self.random.randrange(3, self.n_vocab) for _ in range(count)]

    def prompt(self) -> list[int]:
        held = self.context._evaluated[0]
        keep = self.random.choice([len(held), len(held) - 1, len(held) - 9, len(held) // 2, len(held)])
        return (held[: max(keep, 0)] + self.tokens(self.random.choice([1, 5, 40, 150])))[:400]

    def read(self) -> list[int]:
        """Evaluate a prompt, after some aborted ones."""
        for _ in range(self.random.randrange(3) if self.flag else 0):
            assert self.flag
            self.flag.left = self.random.randint(1, 4000)
            with suppress(AbortedError):
                self.context.prefill(0, self.prompt())
            self.flag.left = -1
        prompt = self.prompt()
        self.context.prefill(0, prompt, self.random.choice([None, lambda _done, _total: None]))
        return prompt


def replayed_context(model: Model, prompt: list[int], layout: Batches) -> Context:
    context = Context(model, CONTEXT)
    list(context.prefill_as(0, prompt, layout))
    context.prefill(0, prompt)
    return context


def assert_identical_replay(model: Model, reader: Reader, turns: int) -> int:
    """Check that the same batches give identical logits; returns how many prompts differ in one batch."""
    others = 0
    for _ in range(turns):
        prompt = reader.read()
        layout = reader.context.layout()
        context = replayed_context(model, prompt, layout)
        assert context.layout() == layout
        assert logit_bytes(context) == logit_bytes(reader.context), layout
        for token in reader.tokens(reader.random.randrange(8)):
            for one in (context, reader.context):
                one.step([(0, token)])
            assert logit_bytes(context) == logit_bytes(reader.context), layout
        context.close()
        plain = Context(model, CONTEXT)
        plain.prefill(0, reader.context._evaluated[0])
        others += logit_bytes(plain) != logit_bytes(reader.context)
        plain.close()
    reader.context.close()
    return others


def test_the_starter_gives_identical_logits_again(model: Model) -> None:
    """In one batch the same prompts give other logits: otherwise the test would prove nothing."""
    assert assert_identical_replay(model, Reader(model, 0, 49000), 6) > 2


@pytest.fixture(scope="module", params=("full_attention", "sliding_window", "recurrent", "hybrid"))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield model
    model.close()


@pytest.mark.slow
def test_every_kind_of_memory_gives_identical_logits_again(tiny: Model) -> None:
    assert_identical_replay(tiny, Reader(tiny, 1, tiny_models.N_VOCAB, aborts=True), 15)


def test_a_memory_that_restarts_has_no_old_batches(tiny: Model) -> None:
    context = Context(tiny, CONTEXT)
    context.prefill(0, list(range(3, 43)))
    context.prefill(0, list(range(3, 23)))
    whole = tiny.path.stem in ("recurrent", "hybrid")
    assert context.layout() == ([(20, 20, 1)] if whole else [(40, 19, 1), (1, 1, 1)])
    context.close()


def test_a_partial_batch_is_an_error_for_recurrent_memory(tiny: Model) -> None:
    context = Context(tiny, CONTEXT)
    cut: Batches = [(40, 20, 1)]
    if tiny.path.stem in ("recurrent", "hybrid"):
        with pytest.raises(ValueError, match="cannot keep a part of a batch"):
            list(context.prefill_as(0, list(range(3, 24)), [*cut, (1, 1, 1)]))
    else:
        list(context.prefill_as(0, list(range(3, 24)), [*cut, (1, 1, 1)]))
        assert context.layout() == cut
    context.close()


def test_batches_are_in_the_order_of_their_tokens(fresh: MakeContext) -> None:
    """After any evaluations and cuts, each token is in exactly one batch."""
    random, context, tokens = Random(4), fresh(n_ctx=128), list[int]()
    model: list[tuple[int, int]] = []  # number of the batch and its rows, of each token
    for number in range(60):
        if random.random() < 0.3 or len(tokens) > 100:
            n_tokens = random.randint(0, len(tokens))
            context.cut(0, n_tokens)
            del model[n_tokens:], tokens[n_tokens:]
            continue
        rows = random.choice([1, 1, 1, 2, 7])
        model += [(number, rows)] * rows
        tokens += [5 + number] * rows
        context.prefill(0, tokens)
        starts = [at for at, pair in enumerate(pairwise([(-1, 0), *model])) if pair[0][0] != pair[1][0]]
        lengths = [end - start for start, end in pairwise([*starts, len(tokens)])]
        assert expand_batches(context.layout()) == [(model[s][1], n) for s, n in zip(starts, lengths, strict=True)]
