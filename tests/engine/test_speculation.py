"""Drafts: the text and the distribution stay the same, and drafts end where they do not pay."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.drafting import DraftModel, PromptLookup, check_vocabulary
from llmcli.engine.events import Cancellation, Constraint, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler, generate
from llmcli.engine.speculation import WIDTHS, Speculation, StepCosts
from llmcli.errors import UsageError
from llmcli.params.model import ModelParams
from llmcli.params.policies.policy import parse_policy
from tests.engine.conftest import MakeContext
from tests.engine.drive import GREEDY, start
from tests.models import tiny_models

PROMPT = "Tom has a red hat. Ann has a blue hat. Tom has a red hat. Ann has a"
# With three tokens to choose from, even the first layers of a model repeat themselves.
REFRAIN: dict[str, Any] = GREEDY | {"logit_bias": ((" red", 60.0), (" hat", 60.0), (" blue", 60.0)), "max_tokens": 60}
EXACT = {f"exact {width} {kernel}": 1.0 for width in WIDTHS for kernel in ("short", "long")}


class FixedCosts(StepCosts):
    """Each step costs the same, whatever it takes here: by default as much as a single one, so that each draft pays."""

    def __init__(self, kept: dict[str, float], each: float = 1.0) -> None:
        super().__init__(kept)
        self.each = each

    def observe(self, width: int, kernel: str, seconds: float) -> None: ...

    def cost(self, width: int, kernel: str) -> float:  # noqa: ARG002
        return self.each


class Oracle:
    """Drafts the tokens of an answer that is known, some of them wrong; it has no doubts."""

    def __init__(self, answer: Sequence[int], n_prompt: int, wrong_every: int = 0) -> None:
        self._answer = [one + (wrong_every and n % wrong_every == wrong_every - 1) for n, one in enumerate(answer)]
        self._n_prompt, self._at = n_prompt, 0
        self.learned: list[tuple[int, int]] = []

    def follow(self, tokens: Sequence[int]) -> None:
        self._at = len(tokens) - self._n_prompt

    def expect(self, count: int) -> Sequence[float]:
        return [float(n) for n in range(1, min(count, len(self._answer) - self._at) + 1)]

    def cost(self, *_args: float) -> float:
        return 0.0

    def propose(self, count: int) -> list[int]:
        return self._answer[self._at : self._at + count]

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        self.learned.append((n_drafted, n_accepted))


@pytest.fixture
def fresh(short_fresh: MakeContext) -> MakeContext:
    return short_fresh


def finish(context: Context, generation: Generation) -> tuple[str, list[int], Any, Any, Any]:
    """Everything that an answer says."""
    text = "".join(event.text for event in generate(context, [generation]))
    traces = [one._replace(time=0.0, drafted=False) for one in generation.traces]
    return text, generation.tokens, generation.finish_reason, traces, generation.logprobs


CASES: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "greedy with log-probabilities": GREEDY | {"logprobs": 3},
    "sampled": {"seed": 5},
    "penalties": GREEDY | {"repeat_penalty": 1.3, "dry_multiplier": 0.8, "presence_penalty": 0.2},
    "mirostat": {"mirostat": 2, "seed": 4},
    "banned strings": GREEDY | {"banned_strings": ("hat", "red")},
    "banned strings, sampled": {"banned_strings": ("a", "the"), "seed": 8},
    "a stop string": GREEDY | {"stop": (" has a", "zzz")},
    "grammar": GREEDY | {"grammar": 'root ::= (" " [a-z]{1,6} "."?){5,12}'},
    "regular expression": GREEDY | {"constraint": Constraint("regex", r"( [A-Za-z]{1,5}[.,]?){4,9}")},
    "a policy": {"temperature": parse_policy("0.3..1.3"), "seed": 6},
    "a policy by the sentence": {"temperature": parse_policy("sentence:1.1,0.2"), "seed": 6},
    "xtc": {"xtc_probability": 0.9, "xtc_threshold": 0.05, "seed": 3},
    "no limit": GREEDY | {"max_tokens": -1},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrong_every", [0, 3])
def test_an_answer_is_the_same_with_drafts(fresh: MakeContext, name: str, wrong_every: int) -> None:
    values = {"max_tokens": 30} | CASES[name]
    grammar = values.pop("grammar", None) or values.pop("constraint", None)

    def made() -> Generation:
        one = start(context, PROMPT, grammar, **values)
        one.request.trace = 2 if "policy" in name else None
        return Generation(one.vocab, one.request)

    context = fresh(n_ctx=80 if values["max_tokens"] < 0 else 256)
    expected = finish(context, made())
    n_prompt = len(context.model.vocab.tokenize(PROMPT))
    context.cut(0)
    oracle, drafted = Oracle(expected[1][n_prompt:], n_prompt, wrong_every), made()
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [oracle])
    assert finish(context, drafted) == expected
    assert drafted.timings.draft_n_accepted > 0
    assert (drafted.timings.draft_n_accepted < drafted.timings.draft_n) or not wrong_every
    assert context.evaluated(drafted.tokens) == context.evaluated()  # nothing of a wrong draft is left in the memory


def test_a_copied_text_is_drafted_from_the_prompt(fresh: MakeContext) -> None:
    context = fresh(n_ctx=256)
    expected = finish(context, start(context, PROMPT, **REFRAIN))
    drafted = start(context, PROMPT, **REFRAIN)
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    assert finish(context, drafted) == expected
    assert drafted.timings.draft_n >= drafted.timings.draft_n_accepted > 20


@pytest.mark.parametrize("n_tokens", range(7))
def test_a_prompt_can_be_shorter_than_what_is_looked_up(n_tokens: int) -> None:
    lookup = PromptLookup()
    lookup.follow([1, 2, 1, 2, 1, 2][:n_tokens] or [1])
    assert lookup.propose(1) == ([] if n_tokens < 4 else [1 + n_tokens % 2])


def test_the_trace_says_what_was_drafted(fresh: MakeContext) -> None:
    context = fresh(n_ctx=256)
    one = start(context, PROMPT, **REFRAIN)
    one.request.trace = 0
    drafted = Generation(one.vocab, one.request)
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    finish(context, drafted)
    assert sum(trace.drafted for trace in drafted.traces) == drafted.timings.draft_n_accepted > 0


def test_steps_are_compared_before_they_count(fresh: MakeContext) -> None:
    """The first step of a width only tells whether it is exact: a drafted row must have the logits of a single step."""
    context, kept = fresh(n_ctx=256), dict[str, float]()
    expected = finish(context, start(context, PROMPT, **REFRAIN))
    context.cut(0)
    drafted = start(context, PROMPT, **REFRAIN)
    drafted.speculation = Speculation(FixedCosts(kept), [PromptLookup()])
    assert finish(context, drafted) == expected
    assert {value for key, value in kept.items() if key.startswith("exact")} == {1.0}
    assert drafted.timings.draft_n_accepted > 0


def test_a_process_that_begins_tries_nothing_that_an_earlier_one_still_owes() -> None:
    """An answer can be too short to compare a step: each would pay for a trial again."""
    tokens, owing = [*range(1, 6)], FixedCosts({"debt": 4.0})

    def draft(costs: StepCosts) -> list[int]:
        return Speculation(costs, [Oracle(range(6, 40), 5)]).draft(tokens, 16)

    assert draft(FixedCosts({}))
    assert not draft(owing)
    owing.forgive(400)
    assert draft(owing)


def test_a_step_that_rounds_otherwise_is_not_used(tiny: Path) -> None:
    """Weights of 32 bits have another kernel for several rows."""
    model = Model.load([tiny], n_gpu_layers=0)
    context, kept = Context(model, ModelParams(n_ctx=256, n_threads=1)), dict[str, float]()
    prompt = [5, 9, 5, 9, 5, 9, 5, 9, 5, 9]
    plain = finish(context, start(context, prompt, max_tokens=60, **GREEDY))
    assert len(set(plain[1][-12:])) < 12  # it repeats itself: drafts are right
    context.cut(0)
    drafted = start(context, prompt, max_tokens=60, **GREEDY)
    drafted.speculation = Speculation(FixedCosts(kept), [PromptLookup()])
    assert finish(context, drafted) == plain
    assert 0.0 in [value for key, value in kept.items() if key.startswith("exact")]
    assert drafted.timings.draft_n == 0
    context.close()
    model.close()


def test_tokens_that_only_rounding_keeps_from_drafts_are_counted() -> None:
    speculation = Speculation(FixedCosts({"exact 2 short": 0.0}), [PromptLookup()])
    tokens = [1, 2, 3, 4, 5] * 4
    for token in (1, 2, 3, 9, 9):
        assert speculation.draft(tokens, 50) == []
        speculation.observe_token(token)
        tokens = [*tokens, token]
    assert speculation.n_held == 3


# What ends drafts


def test_drafts_end_while_they_cost_more_than_they_gain(fresh: MakeContext) -> None:
    context = fresh(n_ctx=256)
    expected = finish(context, start(context, PROMPT, max_tokens=60, **GREEDY))
    context.cut(0)
    n_prompt = len(context.model.vocab.tokenize(PROMPT))
    oracle = Oracle(expected[1][n_prompt:], n_prompt, wrong_every=1)  # never right, and sure of itself
    drafted = start(context, PROMPT, max_tokens=60, **GREEDY)
    costs = FixedCosts(dict(EXACT), 2.0)
    costs.single = lambda kernel: 1e-9  # type: ignore[method-assign] # noqa: ARG005
    drafted.speculation = Speculation(costs, [oracle])
    assert finish(context, drafted) == expected
    assert 1 <= len(oracle.learned) <= 4
    assert drafted.timings.draft_gain < 1


def test_a_step_that_costs_too_much_is_not_drafted() -> None:
    costs = StepCosts({f"exact {WIDTHS[-1]} short": 1.0} | {f"cost {one} short": float(one) for one in WIDTHS})
    oracle = Oracle(range(50), n_prompt=1)
    assert Speculation(costs, [oracle]).draft([1], 30) == []


@pytest.mark.parametrize(("cost", "width"), [(0.2, 16), (0.8, 2), (0.9, 0)])
def test_the_width_with_the_best_gain_is_drafted(cost: float, width: int) -> None:
    """Each further token costs so much. Two tokens for 1.8 steps gain 1.11, and 16 for 14.5 steps 1.10."""
    kept = {f"exact {WIDTHS[-1]} short": 1.0} | {f"cost {one} short": 1 + cost * (one - 1) for one in WIDTHS}
    oracle = Oracle(range(50), n_prompt=1)
    costs = StepCosts(kept)
    costs.loss = -16.0
    speculation = Speculation(costs, [oracle])
    if cost > 0.5:
        oracle.expect = lambda count: [1.0] * min(count, 1)  # type: ignore[method-assign]
    assert len(speculation.draft([1], 30)) == max(width - 1, 0)


@pytest.mark.parametrize("n_batch", [1, 3])
def test_a_draft_is_no_longer_than_a_batch(fresh: MakeContext, n_batch: int) -> None:
    context = fresh(n_ctx=256, n_batch=n_batch)
    drafted = start(context, PROMPT, **REFRAIN)
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    finish(context, drafted)
    assert (drafted.finish_reason, drafted.failure) == ("length", None)
    assert (drafted.timings.draft_n > 0) == (n_batch > 1)


def test_a_cost_that_was_measured_too_high_is_forgotten() -> None:
    costs = StepCosts({"cost 8 short": 30.0})
    for _ in range(2000):
        costs.observe(1, "short", 0.01)
    assert 3.7 <= costs.cost(8, "short") <= 3.9


def test_a_cost_is_a_mean_in_single_steps_of_the_same_kernel() -> None:
    costs = StepCosts()
    for seconds in (0.01, 0.02):
        costs.observe(1, "short", seconds)
    for seconds in (0.03, 0.04, 9.0):
        costs.observe(4, "short", seconds)
    mean = 0.03 + 0.3 * 0.01
    assert math.isclose(costs.cost(4, "short"), (mean + 0.3 * 2 * mean) / 0.011)  # the last one counts three times it
    assert math.isclose(costs.cost(4, "long"), 2.2)  # not measured


def test_several_answers_are_not_drafted(fresh: MakeContext) -> None:
    context = fresh(n_ctx=512, n_seq_max=2)
    both = [start(context, PROMPT, max_tokens=30, index=index, **GREEDY) for index in range(2)]
    for one in both:
        one.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    list(generate(context, both))
    assert [one.timings.draft_n for one in both] == [0, 0]
    assert both[0].tokens == both[1].tokens


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_memory_that_cannot_forget_is_not_drafted(kind: str, tmp_path: Path) -> None:
    model = Model.load([getattr(tiny_models, kind)(tmp_path / "tiny.gguf")], n_gpu_layers=0)
    context = Context(model, ModelParams(n_ctx=128, n_threads=1))
    assert not context.keeps_all()
    drafted = start(context, [5, 9, 5, 9, 5, 9, 5, 9], max_tokens=30, **GREEDY)
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()], is_auto=False)
    list(generate(context, [drafted]))
    assert (drafted.finish_reason, drafted.timings.draft_n) == ("length", 0)
    context.close()
    model.close()


def test_a_full_context_ends_a_drafted_answer_as_any(fresh: MakeContext) -> None:
    context = fresh(n_ctx=64)
    expected = finish(context, start(context, PROMPT, **REFRAIN | {"max_tokens": -1}))
    context.cut(0)
    drafted = start(context, PROMPT, **REFRAIN | {"max_tokens": -1})
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    assert finish(context, drafted) == expected
    assert (drafted.finish_reason, len(drafted.tokens)) == ("length", 65)
    assert drafted.timings.draft_n_accepted > 0


def test_a_cancelled_draft_leaves_the_text_so_far(fresh: MakeContext) -> None:
    context, cancellation = fresh(n_ctx=256), Cancellation()
    expected = finish(context, start(context, PROMPT, **REFRAIN))
    context.cut(0)
    drafted = start(context, PROMPT, cancellation=cancellation, **REFRAIN)
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [PromptLookup()])
    scheduler, events = Scheduler(context), list[TokenEvent]()
    scheduler.add(drafted)
    extend = context.extend

    def cancel_first(rows: Any, shared: Any = (), is_draft: bool = False) -> None:
        if len(drafted.tokens) > 40:
            cancellation.set()  # llama.cpp sees the flag in the middle of the step
        extend(rows, shared, is_draft)

    context.extend = cancel_first  # type: ignore[method-assign]
    while scheduler.generations:
        events += scheduler.step()
    text = "".join(event.text for event in events)
    assert drafted.finish_reason == "interrupt"
    assert expected[0].startswith(text)
    assert len(drafted.tokens) > 40
    assert drafted.tokens == expected[1][: len(drafted.tokens)]
    assert context.evaluated(drafted.tokens) == context.evaluated()


# Prompt lookup


def test_a_look_up_copies_what_stood_after_the_longest_match() -> None:
    lookup = PromptLookup()
    lookup.follow([1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 1, 2, 3, 4])
    assert lookup.propose(2) == [50, 51]  # not 60, after the nearer 3, 4
    lookup.follow([1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 1, 2, 3, 4, 50])
    assert lookup.propose(3) == [51, 9, 3]


def test_a_look_up_knows_its_chances_without_drafts() -> None:
    sure, unsure = PromptLookup(), PromptLookup()
    cycle, noise = [1, 2, 3, 4, 5] * 12, [1, 2, 9, 1, 2, 8, 1, 2, 7, 1, 2, 6, 1, 2, 5] * 4
    noise = [one + 10 * (n // 15) if one > 4 else one for n, one in enumerate(noise)]
    for lookup, tokens in ((sure, cycle), (unsure, noise)):
        for n in range(6, len(tokens)):
            lookup.follow(tokens[:n])
    assert sure.expect(4)[-1] > 3.5
    assert sum(unsure.expect(4)[-1:]) < 0.5  # nothing is expected where nothing was found


def test_a_look_up_goes_on_behind_a_replaced_token() -> None:
    text = list(range(100, 130))
    lookup, copied = PromptLookup(), text[:9]
    for n in range(2, 9):
        lookup.follow([*text, 1, *copied[:n]])
    lookup.follow([*text, 1, *copied, 7])
    assert lookup.propose(3) == [110, 111, 112]  # 109 was replaced by 7


def test_a_look_up_follows_removed_tokens() -> None:
    lookup = PromptLookup()
    tokens = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    lookup.follow(tokens)
    lookup.follow([*tokens, 4, 5, 9, 9, 9])
    lookup.follow([*tokens, 4])
    lookup.follow([*tokens, 4, 5])
    assert 9 not in lookup.propose(2)
    lookup.follow([*tokens, 4, 5, 6, 1, 2, 3, 4])
    assert lookup.propose(2) == [5, 6]


# The draft model


def test_a_draft_model_drafts_what_it_would_say(model: Model, short_model: Model) -> None:
    context, draft_context = (Context(model, ModelParams(n_ctx=256, n_threads=1)) for _ in range(2))
    expected = finish(context, start(context, PROMPT, max_tokens=24, **GREEDY))
    context.cut(0)
    drafted = start(context, PROMPT, max_tokens=24, **GREEDY)
    drafter = DraftModel(lambda _n_tokens: draft_context, Cancellation())
    drafted.speculation = Speculation(FixedCosts(dict(EXACT)), [drafter])
    drafter.cost = lambda *_args: 0.0  # type: ignore[method-assign]
    assert finish(context, drafted) == expected
    assert drafted.timings.draft_n_accepted > 10  # it is the same model
    assert drafted.timings.draft_n - drafted.timings.draft_n_accepted <= 2  # behind the end
    draft_context.close()
    context.close()
    check_vocabulary(model.vocab, short_model.vocab, "short")


def test_a_draft_model_reads_a_long_prompt_once_the_answer_is_worth_it() -> None:
    def never(_n_tokens: int) -> Context:
        raise AssertionError

    prompt = list(range(900))
    drafter = DraftModel(never, Cancellation(), share=0.1)
    drafter.follow(prompt)
    assert not drafter.expect(4)
    drafter.follow([*prompt, *range(80)])
    assert not drafter.expect(4)
    drafter.follow([*prompt, *range(100)])
    assert len(drafter.expect(4)) == 4
    has_read = DraftModel(never, Cancellation(), share=0.1, n_read=lambda tokens: len(tokens) - 1)
    has_read.follow(prompt)
    has_read.follow([*prompt, 1])
    assert has_read.expect(1)


def test_a_draft_model_that_is_nearly_as_large_is_not_asked(fresh: MakeContext) -> None:
    """Each drafted token costs six tenths of a step: four of five right ones do not pay that."""
    context = fresh(n_ctx=256)
    drafter = DraftModel(lambda _n_tokens: context, Cancellation(), share=0.6)
    speculation = Speculation(StepCosts(), [drafter], is_auto=False)
    drafter._chances.rates[0] = 0.8
    speculation.draft([1, 2, 3], 20)
    assert speculation.draft([1, 2, 3, *range(50)], 20) == []


def test_another_vocabulary_is_refused_by_name(model: Model, tiny: Path) -> None:
    other = Model.load([tiny], n_gpu_layers=0)
    with pytest.raises(UsageError, match="the draft model small has another vocabulary"):
        check_vocabulary(model.vocab, other.vocab, "small")
    other.close()


# The distribution


@pytest.fixture(scope="module")
def tiny_context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    model = Model.load([tiny_models.full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")], n_gpu_layers=0)
    context = Context(model, ModelParams(n_ctx=256, n_threads=1))
    yield context
    context.close()
    model.close()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", ["0.5", "1.6", "0.4..1.5", "linear:1.4->0.5@3"])
def test_drafts_do_not_change_the_distribution(tiny_context: Context, temperature: str) -> None:
    """2,000 draws of a second token, half of them behind a draft that is right: chi-square against its probabilities.

    The kernels of this model round otherwise for several rows, which `on` allows.
    """
    context, prompt, n_draws = tiny_context, [5, 9, 7, 30, 11], 2000
    values: dict[str, Any] = {
        "temperature": parse_policy(temperature),
        "top_k": 8,
        "top_p": 1.0,
        "min_p": 0.0,
        "max_tokens": 3,
    }
    plain, drafted, n_accepted = Counter[int](), Counter[int](), 0
    first = start(context, prompt, max_tokens=1, **GREEDY)
    list(generate(context, [first]))
    guess = first.tokens[-1]
    for seed in range(n_draws):
        for counts, is_drafted in ((plain, False), (drafted, True)):
            one = start(context, prompt, **values, seed=seed if is_drafted else seed + n_draws)
            if is_drafted:
                oracle = Oracle([guess, guess, guess], len(prompt))
                one.speculation = Speculation(FixedCosts({}), [oracle], is_auto=False)
            list(generate(context, [one]))
            counts[one.tokens[len(prompt) + 1] if len(one.tokens) > len(prompt) + 1 else -1] += 1
            n_accepted += is_drafted and one.timings.draft_n_accepted > 0
    assert n_accepted > 20
    assert chi_square(plain, drafted) < 60, (plain, drafted)


def chi_square(one: Counter[int], other: Counter[int]) -> float:
    """Of two samples of equal size, over the values that both together have 20 times, and the others together."""
    both, rare, total = one + other, [0, 0], 0.0
    for value, count in both.items():
        if count < 20:
            rare = [rare[0] + one[value], rare[1] + other[value]]
        else:
            total += (one[value] - other[value]) ** 2 / count
    return total + ((rare[0] - rare[1]) ** 2 / sum(rare) if sum(rare) else 0.0)
