"""Decisions: what is scored, what the model is told, and how log-probabilities become probabilities."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.llama.context import Context
from llmcli.errors import ContextOverflowError, DiskError, UsageError
from llmcli.inference.decision import Decision, DecisionRequest, read_choice_set
from llmcli.inference.engine import Engine
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.model import ModelParams
from llmcli.params.settings import Settings, fields
from tests.inference.fake_engine import FakeEngine, without
from tests.inference.fake_vocab import FakeVocab
from tests.models.tiny_models import full_attention

EXACT: dict[str, Any] = {"n_threads": 1, "cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant{{ '\n' }}"
)


def settings(choices: str | Sequence[str], **values: Any) -> Settings:
    given: Any = fields()["choices"].parse_data(choices)
    return Settings(choices=given, **values)


def request(
    engine: Engine,
    asked: Settings,
    text: str = "It rains.",
    system: str | None = None,
    stop: Cancellation | None = None,
) -> DecisionRequest:
    choice_set = read_choice_set(asked)
    assert choice_set
    return DecisionRequest(engine, asked, choice_set, text, system, stop)


def decided(engine: Engine, asked: Settings, text: str = "It rains.", system: str | None = None) -> Decision:
    return request(engine, asked, text, system).decide()


def letters(**logprobs: float) -> Callable[[Sequence[int], int], float]:
    """The log-probability of each letter, -1 for others."""
    return lambda _before, token: logprobs.get(chr(token) if token < 0x110000 else "end", -1.0)


def scored(engine: FakeEngine) -> list[str]:
    """The texts that were scored in the last call."""
    return ["".join(map(engine.tokenizer.label, tokens)) for tokens in engine.scored[-1][1]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}a: "
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf", template)
    engine = LocalEngine(ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True)), Settings(**EXACT))
    yield engine
    engine.close()


# Probabilities


def test_a_probability_is_the_softmax_of_the_sums() -> None:
    engine = FakeEngine(logprob=letters(a=math.log(0.5), b=math.log(0.1), c=math.log(0.2)))
    decision = decided(engine, settings("ab,c"))  # 0.05 and 0.2
    assert [one.probability for one in decision.choices] == pytest.approx([0.2, 0.8])
    assert [one.logprob for one in decision.choices] == pytest.approx([math.log(0.05), math.log(0.2)])
    assert [one.n_tokens for one in decision.choices] == [2, 1]
    assert decision.text == decision.choice.value == "c"


def test_probabilities_equal_those_computed_from_logits(tiny: LocalEngine) -> None:
    asked = settings("the,an,her", **EXACT)
    decision = decided(tiny, asked, "a text")
    prefix, tails = request(tiny, asked, "a text").tokens()
    context = Context(tiny.model, ModelParams(n_ctx=512, **EXACT))
    sums = []
    for tokens in tails:
        total = 0.0
        for at, token in enumerate(tokens):
            context.prefill(0, [*prefix, *tokens[:at]])
            logits = context.logits(tiny.tokenizer.n_tokens)
            total += logits[token] - math.log(math.fsum(map(math.exp, logits)))
        sums.append(total)
    context.close()
    whole = math.fsum(map(math.exp, sums))
    assert [one.probability for one in decision.choices] == pytest.approx([math.exp(one) / whole for one in sums])
    assert [one.logprob for one in decision.choices] == pytest.approx(sums, abs=1e-5)


def test_probabilities_sum_to_one(tiny: LocalEngine) -> None:
    decision = decided(tiny, settings([f"choice {number}" for number in range(70)], **EXACT))
    assert math.fsum(one.probability for one in decision.choices) == pytest.approx(1, abs=1e-12)


def test_order_of_raw_choices_does_not_matter(tiny: LocalEngine) -> None:
    names = ["the", "an", "a long choice of many tokens", "\u65e5\u672c", "\u00fc"]
    forward = decided(tiny, settings(names, raw=True, **EXACT)).choices
    backward = decided(tiny, settings(names[::-1], raw=True, **EXACT)).choices
    assert [one.value for one in forward] == [one.value for one in backward[::-1]]
    assert [one.probability for one in forward] == pytest.approx([one.probability for one in backward[::-1]], abs=1e-5)


def test_very_improbable_choices_still_have_probabilities() -> None:
    decision = decided(FakeEngine(logprob=lambda *_: -1000.0), settings("aaa,bbb"))
    assert [one.probability for one in decision.choices] == [0.5, 0.5]


def test_a_prior_is_subtracted() -> None:
    def logprob(before: Sequence[int], token: int) -> float:
        has_text = "rain" in "".join(map(chr, before))
        return math.log({"a": 0.6 if has_text else 0.9, "b": 0.4 if has_text else 0.1}[chr(token)])

    decision = decided(FakeEngine(logprob=logprob), settings("a,b", choice_prior="auto"))
    assert [one.probability for one in decision.choices] == pytest.approx([1 / 7, 6 / 7])  # 0.6 / 0.9 and 0.4 / 0.1
    assert [one.prior_logprob for one in decision.choices] == pytest.approx([math.log(0.9), math.log(0.1)])
    assert decided(FakeEngine(logprob=logprob), settings("a,b")).text == "a"


def test_the_prior_of_a_question_is_computed_once() -> None:
    engine, asked = FakeEngine(), settings("a,b", choice_prior="N/A")
    choice_set = read_choice_set(asked)
    assert choice_set
    for text in ("one", "two", "three"):
        DecisionRequest(engine, asked, choice_set, text).decide()
    assert len(engine.scored) == 4
    assert "N/A" in "".join(map(chr, engine.scored[1][0]))


def test_each_prompt_has_a_prior_of_its_own() -> None:
    engine, asked = FakeEngine(), settings("a,b", choice_prior="N/A")
    one = request(engine, asked, "x")
    for prefill, system in (("It is", None), ("It was", None), ("It was", "Be fair."), ("It is", None)):
        replace(one, settings=replace(asked, prefill=prefill), system=system).decide()
    priors = [text for prefix, _ in engine.scored if "N/A" in (text := "".join(map(chr, prefix)))]
    assert [text.rpartition(": ")[2] for text in priors] == ["It is", "It was", "It was"]
    assert ["Be fair." in text for text in priors] == [False, False, True]


def test_a_rating_is_the_expected_level() -> None:
    engine = FakeEngine(logprob=letters(**{"1": math.log(0.1), "2": math.log(0.2), "3": math.log(0.7)}))
    decision = decided(engine, Settings(rating="1..3"))
    assert decision.rating == pytest.approx(2.6)
    assert (decision.text, decision.choice.value) == ("2.60", "3")
    assert list(decision.data()["choices"]) == ["1", "2", "3"]  # type: ignore[call-overload]


def test_a_predicate_has_the_probability_of_yes() -> None:
    engine = FakeEngine(logprob=lambda _, token: {"y": math.log(0.3), "n": math.log(0.1)}.get(chr(token), 0.0))
    decision = decided(engine, Settings(predicate=True))
    assert decision.text == "yes"
    assert decision.data()["probability"] == pytest.approx(0.75)


# What is scored


def test_a_choice_that_begins_another_one_ends_its_turn() -> None:
    vocab = FakeVocab(control=("<|im_start|>", "<|im_end|>"), ends=("<|im_end|>",))
    engine = FakeEngine(chat_template=CHATML, tokenizer=vocab)
    decided(engine, settings("good,goods,bad"))
    assert scored(engine) == ["good<|im_end|>", "goods<|im_end|>", "bad<|im_end|>"]
    decided(engine, settings("good,well,bad"))
    assert scored(engine) == ["good", "well", "bad"]


def test_such_choices_need_a_token_that_ends_a_turn() -> None:
    with pytest.raises(UsageError, match="no token that ends an answer"):
        decided(FakeEngine(), settings("good,goods"))


def test_levels_of_two_digits_exclude_those_of_one(tiny: LocalEngine) -> None:
    decision = decided(tiny, Settings(rating="1..10", **EXACT))
    assert all(one.n_tokens == len(one.value) + 1 for one in decision.choices)  # and the token that ends a turn


@pytest.mark.parametrize(
    ("prompt", "choices", "texts"),
    [
        ("The sky is", "blue,red", [" blue", " red"]),
        ("The sky is ", "blue,red", ["blue", "red"]),
        ("Answer: (", "a,b", ["a", "b"]),
        ('{"mood": "', "good,bad", ["good", "bad"]),
        ("\u5929\u7a7a\u662f", "\u84dd\u8272,\u7ea2\u8272", ["\u84dd\u8272", "\u7ea2\u8272"]),
        ("The sky is", '["  blue", "red"]', ["  blue", "red"]),
    ],
)
def test_a_raw_choice_follows_a_space_where_one_is_due(prompt: str, choices: str, texts: list[str]) -> None:
    engine = FakeEngine()
    decision = decided(engine, settings(choices, raw=True), prompt)
    assert scored(engine) == texts
    assert [one.value for one in decision.choices] == [text.strip() for text in texts]


def test_a_raw_choice_is_tokenized_with_its_prompt(tiny: LocalEngine) -> None:
    """`<|` is one token: where it crosses the end of the prompt, it is scored, and so is `<` for the other choice."""
    asked, vocab = settings("|a,qa", raw=True), tiny.tokenizer
    made = request(tiny, asked, "x<")
    prefix, tails = made.tokens()
    assert (vocab.detokenize([*made.prompt.tokens]), vocab.detokenize([*prefix])) == (" x<", " x")
    assert [list(map(vocab.label, tail)) for tail in tails] == [["<|", "a"], ["<", "q", "a"]]


def test_a_plain_template_gets_a_space_before_the_choice() -> None:
    engine = FakeEngine(chat_template="")
    decided(engine, settings("good,bad"))
    assert scored(engine) == [" good", " bad"]


def test_a_prefill_stands_before_the_choice() -> None:
    engine = FakeEngine()
    decided(engine, settings("good,bad", prefill="It is"))
    assert "".join(map(chr, engine.scored[-1][0])).endswith("assistant: It is")
    assert scored(engine) == [" good", " bad"]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{{ messages[-1].content }}<think>{{ '\n' }}", "<think>\n\n</think>\n\n"),
        ("{{ messages[-1].content }}[THINK]", "[THINK][/THINK]"),
        ("{{ messages[-1].content }}<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>"),
        ("{{ messages[-1].content }}{% if enable_thinking %}<think>{% endif %}A:{{ '\n' }}", "A:\n"),
    ],
)
def test_reasoning_is_off_or_ended_before_the_choice(template: str, end: str) -> None:
    engine = FakeEngine(chat_template=template)
    decided(engine, settings("good,bad"))
    assert "".join(map(chr, engine.scored[-1][0])).endswith(end)
    assert scored(engine) == ["good", "bad"]


# What the model is told


def told(asked: Settings, text: str = "It rains.", system: str | None = None) -> str:
    return request(FakeEngine(), asked, text, system).prompt.text


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (settings("good, bad"), "Answer with one of these, and nothing else: good, bad."),
        (
            settings("good=sun;bad"),
            "Answer with one of these, and nothing else:\n- good: sun\n- bad",
        ),
        (Settings(predicate=True), "Answer with yes or no, and nothing else."),
        (Settings(rating="-1..3"), "Answer with a whole number from -1 to 3, and nothing else."),
    ],
)
def test_the_prompt_names_the_possible_answers(asked: Settings, sentence: str) -> None:
    assert told(asked, system="Be fair.") == f"system: Be fair.\nuser: {sentence}\n\nIt rains.\nassistant: "


def test_a_raw_prompt_stays_as_it_is() -> None:
    assert told(settings("good,bad", raw=True)) == "It rains."


def test_a_description_is_neither_scored_nor_printed() -> None:
    engine = FakeEngine()
    assert decided(engine, settings("good=the sun shines;bad=it rains")).text == "bad"  # it is shorter
    assert scored(engine) == ["good", "bad"]


# The settings


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("a, or b; c", ["a, or b", "c"]),
        ('["a, b", "c;d"]', ["a, b", "c;d"]),
        ('{"x=1": "first", "y": "", "z": null}', ["x=1", "y", "z"]),
        (r"x\=1,y\=2", ["x=1", "y=2"]),
        ("\u00fc,\u65e5\u672c", ["\u00fc", "\u65e5\u672c"]),
    ],
)
def test_choices_are_written_in_several_forms(given: str, values: list[str]) -> None:
    choice_set = read_choice_set(settings(given))
    assert choice_set
    assert [one.value for one in choice_set.choices] == values


def test_choices_in_a_file_are_one_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("one, two\n\nthree=a number; or not\r\n@home\n", encoding="utf-8")
    choice_set = read_choice_set(settings(f"@{file}"))
    assert choice_set
    pairs = [(one.value, one.description) for one in choice_set.choices]
    assert pairs == [("one, two", ""), ("three", "a number; or not"), ("@home", "")]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (settings("a"), "needs two choices or more, got 1"),
        (settings("a,b,a"), "'a' twice"),
        (settings("a,a=again"), "'a' twice"),
        (settings("a,,b"), "a choice is empty"),
        (settings("a,=b"), "a choice is empty"),
        (settings("a,b", predicate=True), "choices and predicate cannot be used together"),
        (settings("a,b", regex="x"), "choices and regex cannot be used together"),
        (Settings(rating="1..3", json_schema="{}"), "rating and json_schema cannot be used together"),
    ],
)
def test_choices_that_cannot_be_decided_are_refused(asked: Settings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_choice_set(asked)


@pytest.mark.parametrize("value", ["", " ", "{}", '{"a": 1, "b": 2}', {"a": {"b": "c"}, "d": ""}, '["a", 1]', [1], 5])
def test_what_holds_no_choices_is_refused(value: Any) -> None:
    """A decision was meant: without an error, the model would write a text."""
    with pytest.raises(UsageError, match="choices must be two choices or more"):
        fields()["choices"].parse_data(value)
    if isinstance(value, str):
        with pytest.raises(UsageError, match="choices must be two choices or more"):
            fields()["choices"].parse_texts([value])


def test_the_lowest_level_is_below_the_highest() -> None:
    with pytest.raises(UsageError, match=r"got '5\.\.1': 5 is not below 1"):
        fields()["rating"].parse_text("5..1")


@pytest.mark.parametrize("text", ["5..1", "1..1", "1-5", "a..b", "1..2000", "1.5..3", "1..10000000000"])
def test_a_rating_is_a_range_of_integers(text: str) -> None:
    with pytest.raises(UsageError, match=r"rating must be LOW\.\.HIGH with two integers"):
        fields()["rating"].parse_text(text)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="labels"):
        read_choice_set(settings(f"@{tmp_path / 'labels.txt'}"))


def test_what_does_not_fit_is_an_error() -> None:
    engine = FakeEngine(n_ctx=200)
    with pytest.raises(ContextOverflowError, match=r"the prompt has 3\d+ tokens.*the context has 200") as prompt:
        decided(engine, settings("a,b"), "x" * 300)
    assert prompt.value.hint == "shorten the prompt"
    with pytest.raises(ContextOverflowError, match="the longest choice 250,") as choice:
        decided(engine, settings(["a", "b" * 250], raw=True), "x ")
    assert choice.value.hint == "shorten the choices"


def test_a_raw_prompt_without_a_token_is_an_error() -> None:
    with pytest.raises(UsageError, match="no token before the choices"):
        decided(FakeEngine(), settings("a,b", raw=True, choice_prior="auto"))


def test_an_engine_without_scores_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="fake does not support choices"):
        decided(FakeEngine(capabilities=without(scores=False)), settings("a,b"))


def test_a_cancelled_decision_ends(tiny: LocalEngine) -> None:
    asked, stop = settings("a,b", **EXACT), Cancellation()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        request(tiny, asked, "text", stop=stop).decide()
    assert request(tiny, asked, "text", stop=Cancellation()).decide().choices
