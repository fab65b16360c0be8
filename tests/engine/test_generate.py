"""Generations with the starter: prefix reuse, limits, aborts, parallel sequences, timings."""

import random
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from llmcli.engine.events import Cancellation, FinishReason, Prompt, Request, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model, Vocab
from llmcli.engine.sampling.chain import resolve_biases
from llmcli.engine.scheduler import generate
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.params.generation import Bias
from llmcli.params.model import ModelParams
from llmcli.params.settings import Settings
from tests.engine.conftest import MakeContext
from tests.engine.drive import GREEDY, run, start

PROMPT = "The capital of France is"
STORY = "Once upon a time there was a king who had three sons and no gold. "


def greedy_tokens(context: Context, prompt: str | Sequence[int], count: int = 12) -> list[int]:
    return run(context, prompt, **GREEDY, max_tokens=count).ids


def test_a_repeated_prompt_evaluates_one_token(fresh: MakeContext) -> None:
    context = fresh()
    n = len(context.model.vocab.tokenize(STORY))
    counts = [run(context, STORY, max_tokens=3, seed=9).timings.prompt_n for _ in range(3)]
    assert counts == [n, 1, 1]


def test_a_longer_prompt_evaluates_only_what_is_new(fresh: MakeContext) -> None:
    context = fresh()
    tokens = context.model.vocab.tokenize(STORY)
    first = run(context, tokens, **GREEDY, max_tokens=5)
    again = run(context, [*tokens, *first.ids[:4], 260, 28], **GREEDY, max_tokens=1)
    assert again.timings.prompt_n == 2


def test_shared_prefixes_do_not_change_the_answers(fresh: MakeContext) -> None:
    rng, context = random.Random(3), fresh()
    sentences = [context.model.vocab.tokenize(text) for text in (STORY, "The king said: ", PROMPT, "One day, ")]
    for _ in range(4):
        prompt = [token for sentence in rng.choices(sentences, k=rng.randint(1, 3)) for token in sentence]
        assert greedy_tokens(context, prompt, 6) == greedy_tokens(fresh(), prompt, 6)


def test_a_prompt_longer_than_a_batch_gives_the_same_answer(fresh: MakeContext) -> None:
    assert greedy_tokens(fresh(n_batch=7), STORY, 6) == greedy_tokens(fresh(), STORY, 6)


def test_progress_counts_all_tokens_of_the_prompt(fresh: MakeContext) -> None:
    context, seen = fresh(), list[tuple[int, int]]()
    generation = start(context, STORY, max_tokens=1)
    generation.request.progress = lambda done, total: seen.append((done, total))
    list(generate(context, [generation]))
    n = len(generation.request.prompt.tokens)
    assert seen == [(0, n), (n, n)]


def test_parallel_sequences_give_the_same_answers_as_alone(fresh: MakeContext) -> None:
    context = fresh(n_ctx=768, n_seq_max=3)
    assert context.n_ctx == 256
    prompts = [PROMPT, STORY, "def add(a, b):\n"]
    counts = (12, 5, 9)
    generations = [
        start(context, prompt, **GREEDY, max_tokens=count, index=index)
        for index, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
    ]
    texts = ["", "", ""]
    for record in generate(context, generations):
        texts[record.index] += record.text
    for index, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        alone = run(fresh(), prompt, **GREEDY, max_tokens=count)
        assert generations[index].tokens[len(generations[index].request.prompt.tokens) :] == alone.ids
        assert texts[index] == alone.text
        assert generations[index].finish_reason == "length"


def test_a_sequence_continues_alone_after_a_shared_step(fresh: MakeContext) -> None:
    context = fresh(n_ctx=512, n_seq_max=2)
    both = [start(context, PROMPT, **GREEDY, max_tokens=count, ignore_eos=True) for count in (4, 12)]
    list(generate(context, both))
    assert [len(one.tokens) - len(one.request.prompt.tokens) for one in both] == [4, 12]
    assert both[1].tokens[: len(both[0].tokens)] == both[0].tokens
    for _ in range(3):
        assert greedy_tokens(context, STORY, 5) == greedy_tokens(fresh(), STORY, 5)


def test_a_ban_in_one_sequence_does_not_affect_another(fresh: MakeContext) -> None:
    context = fresh(n_ctx=512, n_seq_max=2)
    alone = run(fresh(), STORY, **GREEDY, max_tokens=10)
    phrase = alone.text.split()[3]
    banned = start(context, STORY, **GREEDY, max_tokens=10, banned_strings=(phrase,), index=0)
    free = start(context, STORY, **GREEDY, max_tokens=10, index=1)
    texts = ["", ""]
    for record in generate(context, [banned, free]):
        texts[record.index] += record.text
    assert texts[1] == alone.text
    assert phrase not in texts[0]


def test_a_small_batch_size_still_fits_all_sequences(fresh: MakeContext) -> None:
    context = fresh(n_ctx=768, n_seq_max=3, n_batch=1)
    trio = [start(context, PROMPT, **GREEDY, max_tokens=3) for _ in range(3)]
    list(generate(context, trio))
    assert len({tuple(generation.tokens) for generation in trio}) == 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_max_tokens_is_exact(context: Context, count: int) -> None:
    answer = run(context, STORY, **GREEDY, max_tokens=count, ignore_eos=True)
    assert (len(answer.ids), answer.reason, answer.timings.predicted_n) == (count, "length", count)
    assert len(answer.records) == max(1, count)
    assert (answer.text != "") == (count > 0)


def test_a_full_context_ends_the_answer_and_keeps_the_text(fresh: MakeContext) -> None:
    context = fresh(n_ctx=256)
    prompt = (context.model.vocab.tokenize(STORY) * 20)[: context.n_ctx - 4]
    answer = run(context, prompt, **GREEDY, ignore_eos=True)
    assert (len(answer.ids), answer.reason) == (5, "length")
    assert context.evaluated() == context.n_ctx
    assert greedy_tokens(context, PROMPT, 4) == greedy_tokens(fresh(), PROMPT, 4)


def test_a_small_context_is_not_rounded_up(fresh: MakeContext) -> None:
    context = fresh(n_ctx=40)
    assert context.n_ctx == 40
    prompt = context.model.vocab.tokenize(STORY)
    assert len(prompt) + len(run(context, STORY, **GREEDY, ignore_eos=True).ids) == 41


def test_a_cache_of_bf16_gives_an_answer(model: Model) -> None:
    params = ModelParams(n_ctx=256, n_threads=1, cache_type_k="bf16", cache_type_v="bf16")
    context = Context(model, params)
    assert len(greedy_tokens(context, PROMPT, 4)) == 4
    context.close()


def test_a_prompt_without_space_fails_before_evaluation(fresh: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    context = fresh(n_ctx=256)
    closed = []
    monkeypatch.setattr(Generation, "close", lambda self: closed.append(self))
    generation = start(context, [1] * context.n_ctx)
    with pytest.raises(ContextOverflowError, match=r"the prompt has 256 tokens, the context has 256"):
        list(generate(context, [generation]))
    assert context.evaluated() == 0
    assert closed == [generation]


def test_an_empty_prompt_is_an_error(context: Context) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        start(context, "")


def test_records_end_with_a_reason_and_plausible_timings(fresh: MakeContext) -> None:
    context = fresh()
    begin = time.perf_counter()
    answer = run(context, STORY, **GREEDY, max_tokens=8)
    wall, t = (time.perf_counter() - begin) * 1e3, answer.timings
    assert [record.finish_reason for record in answer.records] == [None] * 7 + ["length"]
    assert (t.prompt_n, t.predicted_n) == (len(context.model.vocab.tokenize(STORY)), 8)
    assert 0 < t.prompt_ms <= t.ttft_ms <= wall
    assert 0 < t.predicted_ms <= wall
    assert t.prompt_ms + t.predicted_ms <= wall
    assert t.prompt_per_second == pytest.approx(1e3 * t.prompt_n / t.prompt_ms)
    assert t.predicted_per_second == pytest.approx(1e3 * 7 / t.predicted_ms)


def test_the_time_of_the_caller_is_not_generation_time(fresh: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]  # it advances only in the caller
    monkeypatch.setattr(sys.modules[generate.__module__], "now_ms", lambda: clock[0])
    context = fresh(n_ctx=512, n_seq_max=2)
    pair = [start(context, PROMPT, **GREEDY, max_tokens=3) for _ in range(2)]
    for _ in generate(context, pair):
        clock[0] += 200
    assert clock[0] > 0
    assert [generation.timings.predicted_ms for generation in pair] == [0, 0]


def set_flag_after(flag: Cancellation, seconds: float, reason: FinishReason = "interrupt") -> threading.Timer:
    timer = threading.Timer(seconds, flag.set, [reason])
    timer.start()
    return timer


def test_an_abort_in_a_long_prompt_takes_effect_at_once(fresh: MakeContext) -> None:
    for _ in range(20):  # a busy machine sets the flag late
        flag, context = Cancellation(), fresh(n_ctx=1024)
        prompt = (context.model.vocab.tokenize(STORY) * 60)[:240]
        timer, begin = set_flag_after(flag, 0.1), time.thread_time()
        cut = run(context, prompt, **GREEDY, cancellation=flag)
        aborted = time.thread_time() - begin - 0.1
        timer.join()
        flag.clear()
        begin = time.thread_time()
        whole = run(context, prompt, **GREEDY, max_tokens=1)
        took = time.thread_time() - begin
        if not cut.ids and aborted < 0.25 * took:
            break
    assert (cut.text, cut.ids, cut.reason) == ("", [], "interrupt")
    assert [record.id for record in cut.records] == [None]
    assert whole.timings.prompt_n == 240  # nothing of the aborted batch is taken for evaluated
    assert aborted < 0.25 * took
    assert greedy_tokens(context, PROMPT, 8) == greedy_tokens(fresh(), PROMPT, 8)


def test_an_abort_between_tokens_keeps_text_and_first_reason(fresh: MakeContext) -> None:
    flag = Cancellation()
    context = fresh()
    records: list[TokenEvent] = []
    for record in generate(context, [start(context, STORY, **GREEDY, ignore_eos=True, cancellation=flag)]):
        records.append(record)
        if len(records) == 5:
            flag.set("timeout")
            flag.set("interrupt")
    assert (len(records), records[-1].finish_reason, records[-1].id) == (6, "timeout", None)
    text = "".join(record.text for record in records)
    assert text == run(fresh(), STORY, **GREEDY, max_tokens=5).text


def test_an_abandoned_generation_frees_its_samplers(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = start(context, PROMPT, "root ::= [a-z ]+", banned_strings=("zzz",))
    records = generate(context, [generation])
    next(records)
    records.close()
    assert generation._sampler.pointer is None
    generation.close()


@pytest.mark.parametrize(
    ("biases", "expected"),
    [
        ([(5, 1.5)], {5: 1.5}),
        ([(5, 1.5), (5, 0.5)], {5: 2.0}),
        ([(5, 1.5), (5, -float("inf"))], {5: -float("inf")}),
        ([], {}),
    ],
)
def test_biases_are_resolved_to_ids(vocab: Vocab, biases: list[Bias], expected: dict[int, float]) -> None:
    assert dict(resolve_biases(vocab, biases, ignore_eos=False)) == expected


def test_a_text_bias_does_not_apply_to_control_tokens(vocab: Vocab) -> None:
    assert vocab.tokenize("<|im_end|>", parse_special=True) == [2]
    assert 2 not in dict(resolve_biases(vocab, [("<|im_end|>", 1.0)], ignore_eos=False))


def test_a_text_bias_applies_to_each_of_its_tokens(vocab: Vocab) -> None:
    tokens = vocab.tokenize("hippopotamus")
    assert len(tokens) > 1
    assert dict(resolve_biases(vocab, [("hippopotamus", -2.0)], ignore_eos=False)) == dict.fromkeys(tokens, -2.0)


@pytest.mark.parametrize("token", [-1, 49152, 2**31 - 1])
def test_a_bias_for_an_unknown_token_id_is_an_error(vocab: Vocab, token: int) -> None:
    with pytest.raises(UsageError, match=rf"token id {token} is out of range \(0 to 49151\)"):
        resolve_biases(vocab, [(token, 1.0)], ignore_eos=False)


def test_ignore_eos_masks_every_token_that_ends_an_answer(vocab: Vocab) -> None:
    assert dict(resolve_biases(vocab, [(2, 5.0)], ignore_eos=True)) == dict.fromkeys(vocab.end_tokens, -float("inf"))
    assert {vocab.eos} < set(vocab.end_tokens)


def test_a_bias_forces_or_forbids_a_token(context: Context) -> None:
    vocab = context.model.vocab
    zebra = vocab.tokenize(" zebra")[0]
    free = run(context, PROMPT, **GREEDY, max_tokens=1)
    assert run(context, PROMPT, **GREEDY, max_tokens=1, logit_bias=((zebra, 100.0),)).ids == [zebra]
    assert run(context, PROMPT, **GREEDY, max_tokens=1, logit_bias=((free.ids[0], -float("inf")),)).ids != free.ids


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_any_seed_is_reproducible(context: Context, seed: int) -> None:
    assert run(context, STORY, seed=seed, max_tokens=6).ids == run(context, STORY, seed=seed, max_tokens=6).ids


@pytest.mark.parametrize(
    "values",
    [
        {"samplers": ("top_k", "infill", "temperature")},
        {"repeat_penalty": 1.5, "repeat_last_n": 2**31 - 1},
        {"dry_multiplier": 1.0, "dry_penalty_last_n": 2**31 - 1, "dry_allowed_length": 2**31 - 1},
        {"top_k": 2**31 - 1, "min_keep": 2**31 - 1},
        {"mirostat": 1, "mirostat_tau": 1e38, "mirostat_eta": 1e38},
        {"mirostat": 2, "mirostat_tau": 0.0, "mirostat_eta": 1e38},
        {"samplers": ()},
        {"logit_bias": ((5, -3.4e38),), "presence_penalty": 3e38},
    ],
)
def test_settings_at_their_bounds_neither_crash_nor_hang(context: Context, values: dict[str, object]) -> None:
    settings = Settings(seed=1, max_tokens=3, ignore_eos=True, **values)  # type: ignore[arg-type]
    vocab = context.model.vocab
    generation = Generation(vocab, Request(Prompt.of_tokens("", vocab.tokenize(PROMPT)), settings))
    list(generate(context, [generation]))
    assert generation.timings.predicted_n == 3


def test_an_impossible_context_is_an_error_with_the_reason(model: Model) -> None:
    params = ModelParams(n_ctx=256, n_threads=1, flash_attn="off", cache_type_v="q8_0")
    with pytest.raises(
        LlmcliError, match="cannot create a context of 256 tokens: quantized V cache requires flash_attn"
    ):
        Context(model, params)
