"""Parallel generations: each gives the same answer as alone, and common prefixes are evaluated once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import generate
from llmcli.errors import ConstraintError, ContextOverflowError, PolicyError
from llmcli.params.model import ModelParams
from llmcli.params.policies.policy import Fixed, PolicyCall
from llmcli.params.policies.user_functions import PolicySource
from tests.engine.conftest import MakeContext
from tests.engine.drive import GREEDY, start
from tests.models import tiny_models

KINDS = ("full_attention", "sliding_window", "recurrent", "hybrid")
CUTTABLE = ("full_attention", "sliding_window")
PARAMS = ModelParams(
    n_ctx=1024,
    n_threads=1,
    n_batch=64,
    n_ubatch=16,
    cache_type_k="f32",
    cache_type_v="f32",
    flash_attn="off",
)
PROMPT = list(range(10, 95))  # more than a batch
VARIED: Sequence[dict[str, Any]] = (
    {"temperature": Fixed(0.2), "max_tokens": 30},
    {"temperature": Fixed(1.0), "max_tokens": 7},
    {"temperature": Fixed(1.0), "seed": 2, "max_tokens": 24},
    {"temperature": Fixed(0.8), "top_k": 3, "max_tokens": 15},
)


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield model
    model.close()


@pytest.fixture
def shared_context(tiny: Model) -> Iterator[Context]:
    context = Context(tiny, PARAMS, 4, 10**6)
    yield context
    context.close()


def tokens_alone(model: Model, prompt: Sequence[int], **values: Any) -> list[int]:
    """The tokens of a generation in its own context."""
    context = Context(model, PARAMS, 1, 10**6)
    generation = start(context, prompt, ignore_eos=True, **values)
    list(generate(context, [generation]))
    context.close()
    return generated_tokens(generation)


def generated_tokens(generation: Generation) -> list[int]:
    return generation.tokens[len(generation.request.prompt.tokens) :]


def start_all(context: Context, *prompts: Sequence[int]) -> list[Generation]:
    """One generation with different settings for each prompt."""
    return [
        start(context, prompt, index=number, ignore_eos=True, **VARIED[number]) for number, prompt in enumerate(prompts)
    ]


def test_variants_of_a_prompt_give_the_same_answers_as_alone(shared_context: Context) -> None:
    variants = start_all(shared_context, *[PROMPT] * 4)
    list(generate(shared_context, variants))
    for variant, values in zip(variants, VARIED, strict=True):
        assert generated_tokens(variant) == tokens_alone(shared_context.model, PROMPT, **values)
        assert variant.finish_reason == "length"


def test_a_shared_prompt_is_evaluated_once(shared_context: Context) -> None:
    variants = start_all(shared_context, *[PROMPT] * 4)
    list(generate(shared_context, variants))
    assert [variant.timings.prompt_n for variant in variants] == [len(PROMPT), 0, 0, 0]
    assert all(variant.timings.ttft_ms >= variants[0].timings.prompt_ms > 0 for variant in variants)
    assert [variant.beside for variant in variants] == [3] * 4


def test_a_second_round_reuses_the_prompt(shared_context: Context) -> None:
    """One token for its logits, where the memory can remove a part."""
    first, again = [start_all(shared_context, *[PROMPT] * 4) for _ in range(2)]
    list(generate(shared_context, first))
    list(generate(shared_context, again))
    assert [generated_tokens(one) for one in again] == [generated_tokens(one) for one in first]
    assert again[0].timings.prompt_n == (1 if shared_context.model.path.stem in CUTTABLE else len(PROMPT))
    assert [variant.timings.prompt_n for variant in again[1:]] == [0, 0, 0]


def test_each_different_prompt_is_evaluated_once(shared_context: Context) -> None:
    other = [*PROMPT[:80], 7, 8, 9]
    variants = start_all(shared_context, PROMPT, other, PROMPT, other)
    list(generate(shared_context, variants))
    for variant, values in zip(variants, VARIED, strict=True):
        assert generated_tokens(variant) == tokens_alone(shared_context.model, variant.request.prompt.tokens, **values)
    cuttable = shared_context.model.path.stem in CUTTABLE
    assert [variant.timings.prompt_n for variant in variants] == [len(PROMPT), 3 if cuttable else len(other), 0, 0]


def test_a_sequence_with_the_longest_prefix_is_not_overwritten(shared_context: Context) -> None:
    longer = [*PROMPT, 7, 8, 9]
    shared_context.prefill(1, longer)
    variants = start_all(shared_context, PROMPT, [*longer, 5])
    list(generate(shared_context, variants))
    assert variants[1].timings.prompt_n == 1
    assert generated_tokens(variants[1]) == tokens_alone(shared_context.model, [*longer, 5], **VARIED[1])


def test_a_ban_in_one_variant_does_not_affect_the_others(shared_context: Context) -> None:
    free = tokens_alone(shared_context.model, PROMPT, **VARIED[0])
    vocab = shared_context.model.vocab
    phrase = next(text for token in free[3:] if (text := vocab.piece(token).decode("utf-8", "replace")).isalpha())
    values = {**VARIED[0], "banned_strings": (phrase,)}
    variants = start_all(shared_context, *[PROMPT] * 4)
    variants[0] = start(shared_context, PROMPT, index=0, ignore_eos=True, **values)
    texts = ["", "", "", ""]
    for record in generate(shared_context, variants):
        texts[record.index] += record.text
    assert phrase.lower() not in texts[0].lower()
    assert generated_tokens(variants[0]) == tokens_alone(shared_context.model, PROMPT, **values) != free
    for variant, own in zip(variants[1:], VARIED[1:], strict=True):
        assert generated_tokens(variant) == tokens_alone(shared_context.model, PROMPT, **own)


def test_a_ban_of_the_first_token_adds_no_prompt_time(shared_context: Context) -> None:
    letter = shared_context.model.vocab.tokenize("t")[-1]
    values = {**GREEDY, "max_tokens": 2, "logit_bias": ((letter, 50.0),)}
    pair = [
        start(shared_context, PROMPT, **values),
        start(shared_context, PROMPT, index=1, banned_strings=("t",), **values),
    ]
    list(generate(shared_context, pair))
    assert generated_tokens(pair[0]) == [letter] * 2
    assert letter not in generated_tokens(pair[1])
    assert [one.timings.prompt_n for one in pair] == [len(PROMPT), 0]


def test_a_failing_generation_ends_alone_with_its_error(shared_context: Context) -> None:
    def failing(step: Any) -> float:
        return 1.0 if step.index < 4 else float("nan")

    policy = PolicyCall("failing", source=PolicySource("failing", "a test", lambda: failing))
    variants = start_all(shared_context, *[PROMPT] * 4)
    variants[2] = start(shared_context, PROMPT, index=2, ignore_eos=True, max_tokens=24, temperature=policy)
    records = list(generate(shared_context, variants))
    assert [variant.finish_reason for variant in variants] == ["length", "length", "error", "length"]
    assert isinstance(variants[2].failure, PolicyError)
    assert len(generated_tokens(variants[2])) == 4
    assert [record.finish_reason for record in records if record.index == 2][-1] == "error"
    for number in (0, 1, 3):
        assert generated_tokens(variants[number]) == tokens_alone(shared_context.model, PROMPT, **VARIED[number])
        assert variants[number].failure is None


def test_a_failure_at_the_first_token_does_not_stop_the_others(shared_context: Context) -> None:
    n = shared_context.model.vocab.n_tokens
    nothing = tuple((token, -float("inf")) for token in range(n))
    variants = start_all(shared_context, *[PROMPT] * 4)
    variants[0] = start(shared_context, PROMPT, "root ::= [a-z]+", logit_bias=nothing)
    list(generate(shared_context, variants))
    assert isinstance(variants[0].failure, ConstraintError)
    assert (generated_tokens(variants[0]), variants[0].finish_reason) == ([], "error")
    assert generated_tokens(variants[3]) == tokens_alone(shared_context.model, PROMPT, **VARIED[3])


@pytest.mark.parametrize("after", [0, 1, 3, 9])
def test_an_abort_ends_all_and_the_next_round_is_complete(tiny: Model, after: int) -> None:
    flag = Cancellation()
    context = Context(tiny, PARAMS, 4, 10**6)
    variants = start_all(context, *[PROMPT] * 4)
    for variant in variants:
        variant.request.cancellation = flag
    if not after:
        flag.set("interrupt")
    for number, _ in enumerate(generate(context, variants), 1):
        if number == after:
            flag.set("interrupt")
    assert {variant.finish_reason for variant in variants} == {"interrupt"}
    assert sum(len(generated_tokens(variant)) for variant in variants) <= 12
    flag.clear()
    again = start_all(context, *[PROMPT] * 4)
    list(generate(context, again))
    for variant, values in zip(again, VARIED, strict=True):
        assert generated_tokens(variant) == tokens_alone(tiny, PROMPT, **values)
    context.close()


def test_a_full_shared_context_lets_each_fill_it_in_turn(tiny: Model) -> None:
    if tiny.path.stem == "recurrent":
        pytest.skip("its memory does not grow")
    context = Context(tiny, replace(PARAMS, n_ctx=256), 4, 10**6)
    variants = [start(context, PROMPT, index=number, seed=number, ignore_eos=True) for number in range(4)]
    list(generate(context, variants))
    assert [variant.finish_reason for variant in variants] == ["length"] * 4
    assert [len(variant.tokens) for variant in variants] == [257] * 4  # the last was drawn and not evaluated
    context.close()


def test_no_sequence_exceeds_its_limit(tiny: Model) -> None:
    context = Context(tiny, PARAMS, 4, 100)
    assert context.n_ctx == 100
    variants = [start(context, PROMPT, index=number, seed=number, ignore_eos=True) for number in range(4)]
    list(generate(context, variants))
    assert [len(variant.tokens) for variant in variants] == [101] * 4  # as with one: the last is not evaluated
    with pytest.raises(ContextOverflowError, match="the context has 100"):
        list(generate(context, [start(context, [5] * 100)]))
    context.close()


def test_a_context_continues_the_sequence_of_another(tiny: Model, shared_context: Context) -> None:
    chat = Context(tiny, PARAMS, 1, 10**6)
    chat.prefill(0, PROMPT)
    shared_context.receive(chat)
    assert shared_context.evaluated(PROMPT) == len(PROMPT)
    assert shared_context.layout() == chat.layout()
    longer = [*PROMPT, 7, 8]
    variants = start_all(shared_context, *[longer] * 4)
    list(generate(shared_context, variants))
    assert variants[0].timings.prompt_n == 2
    for variant, values in zip(variants, VARIED, strict=True):
        assert generated_tokens(variant) == tokens_alone(tiny, longer, **values)
    assert chat.evaluated() == len(PROMPT)
    chat.close()


def test_a_sequence_that_does_not_fit_is_not_copied(tiny: Model) -> None:
    if tiny.path.stem == "recurrent":
        pytest.skip("it is one state, whatever was read")
    chat, small = Context(tiny, PARAMS, 1, 10**6), Context(tiny, replace(PARAMS, n_ctx=256), 4, 10**6)
    chat.prefill(0, PROMPT * 4)
    small.receive(chat)
    assert small.evaluated() == 0
    variants = start_all(small, PROMPT)
    list(generate(small, variants))
    assert generated_tokens(variants[0]) == tokens_alone(tiny, PROMPT, **VARIED[0])
    chat.close()
    small.close()


def test_a_comparison_is_reproducible_on_a_quantized_model(fresh: MakeContext) -> None:
    def compared() -> list[list[int]]:
        context = fresh(n_ctx=512, n_seq_max=3)
        values: list[dict[str, Any]] = [
            {"temperature": Fixed(0.3)},
            {"temperature": Fixed(1.2)},
            {"temperature": Fixed(1.2), "seed": 2},
        ]
        variants = [
            start(context, "Once upon a time", index=number, max_tokens=10 + 5 * number, **one)
            for number, one in enumerate(values)
        ]
        list(generate(context, variants))
        return [generated_tokens(variant) for variant in variants]

    assert compared() == compared()
