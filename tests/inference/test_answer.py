"""One answer of the starter: its parts, how it ends, and the record that `--json` prints."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.events import Constraint, Request
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.params.settings import Layer, Settings, fields, parse_data, resolve
from tests.inference.fake_engine import FakeEngine

KEYS = ["text", "model", "finish_reason", "prompt_tokens", "completion_tokens", "seed", "params", "timings"]
KEYS += ["messages", "replay"]
TIMINGS = ["prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"]


def ask(local: LocalEngine, settings: Settings, text: str = "Say hi.", grammar: str | None = None) -> Answer:
    constraint = Constraint("grammar", grammar) if grammar else None
    return Answer(local, Request(build_prompt(local, settings, text, None), settings, constraint))


def read(answer: Answer) -> list[tuple[str, str]]:
    return list(answer.parts())


def test_the_text_is_the_parts_joined_and_all_of_it_is_answer(local: LocalEngine, settings: Settings) -> None:
    answer = ask(local, settings)
    parts = read(answer)
    assert [kind for kind, _ in parts] == ["answer"] * len(parts)
    assert "".join(text for _, text in parts) == answer.text
    assert answer.text.strip()
    assert all(text for _, text in parts)
    assert answer.reasoning == ""


def test_the_same_question_and_seed_give_the_same_answer(local: LocalEngine, settings: Settings) -> None:
    warm = replace(settings, top_k=40, samplers=("top_k", "temperature"))
    first, second = ask(local, warm), ask(local, warm)
    assert (read(first), first.text) == (read(second), second.text)


def test_the_json_of_an_answer_has_exactly_its_keys(local: LocalEngine, settings: Settings) -> None:
    answer = ask(local, settings)
    read(answer)
    data = json.loads(json.dumps(answer_data(answer), allow_nan=False))
    assert list(data) == KEYS
    assert list(data["timings"]) == [*TIMINGS, "ttft_ms", "load_ms"]
    assert (data["text"], data["model"], data["seed"]) == (answer.text, "starter", 1)
    assert data["finish_reason"] == answer.finish_reason
    assert (
        data["prompt_tokens"]
        == len(answer.prompt.tokens)
        == local.count_tokens("Say hi.")
        + len(build_prompt(local, settings, "x", None).tokens)
        - local.count_tokens("x")
    )
    assert data["completion_tokens"] == data["timings"]["predicted_n"] == 8
    assert data["timings"]["ttft_ms"] > 0 < data["timings"]["load_ms"]
    assert list(data["params"]) == [key for key in fields() if key in data["params"]]
    assert resolve([Layer("test", parse_data(data["params"], ""))]).settings == settings


def test_values_that_json_lacks_are_still_json(local: LocalEngine, settings: Settings) -> None:
    odd = replace(settings, logit_bias=((5, float("-inf")),), stop=("\x00",))
    odd = replace(odd, samplers=("dry", "top_k"), dry_multiplier=0.8, dry_sequence_breakers=("\n", '"'))
    answer = ask(local, odd)
    read(answer)
    data = json.loads(json.dumps(answer_data(answer), allow_nan=False))
    assert resolve([Layer("test", parse_data(data["params"], ""))]).settings == odd


@pytest.mark.parametrize("raw", [False, True])
def test_a_prefill_is_read_as_the_beginning_of_the_answer(local: LocalEngine, settings: Settings, raw: bool) -> None:
    answer = ask(local, replace(settings, prefill="1, 2, 3,", raw=raw), "Count to ten: ")
    parts = read(answer)
    assert answer.prompt.text.endswith("1, 2, 3,")
    assert answer.text.startswith("1, 2, 3, 4")
    assert "".join(text for _, text in parts) == answer.text
    assert answer_data(answer)["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("given", "text", "reason", "complete"),
    [
        ({"max_tokens": 1}, None, "length", True),
        ({"max_tokens": 0}, "", "length", True),
        ({"max_tokens": 50, "grammar": 'root ::= "yes"'}, "yes", "stop", True),
        ({"max_tokens": 1, "grammar": 'root ::= "yesterday evening"'}, None, "length", False),
        ({"max_tokens": 50, "stop": ("ay",), "grammar": 'root ::= "yesterday"'}, "yesterd", "stop", True),
    ],
)
def test_an_answer_has_its_finish_reason(
    local: LocalEngine, settings: Settings, given: dict[str, Any], text: str | None, reason: str, complete: bool
) -> None:
    answer = ask(local, replace(settings, **given), grammar=given.get("grammar"))
    read(answer)
    assert answer.finish_reason == reason
    assert answer.record.is_complete is complete
    assert text is None or answer.text == text


def test_an_interrupted_answer_keeps_its_text(local: LocalEngine, settings: Settings) -> None:
    answer = ask(local, replace(settings, max_tokens=50))
    parts = answer.parts()
    _, first = next(parts)
    answer.request.cancellation.set("timeout")
    rest = "".join(text for _, text in parts)
    assert answer.finish_reason == "timeout"
    assert answer.text == first + rest
    assert 0 < answer.record.timings.predicted_n < 50


def test_the_progress_of_the_prompt_is_reported(local: LocalEngine, settings: Settings) -> None:
    seen: list[tuple[int, int]] = []
    answer = ask(local, settings, "A question that was never asked before.")
    answer.request.progress = lambda done, total: seen.append((done, total))
    read(answer)
    n = len(answer.prompt.tokens)
    assert seen[-1] == (n, n)


@pytest.mark.parametrize(
    ("given", "reasoning", "text"),
    [
        ({}, "hm", "Yes"),
        ({"raw": True}, "", "<think>\nhm\n</think>\n\nYes"),
        ({"prefill": "So: "}, "", "So: <think>\nhm\n</think>\n\nYes"),
    ],
)
def test_reasoning_is_separate_only_under_a_chat_template(
    settings: Settings, given: dict[str, Any], reasoning: str, text: str
) -> None:
    engine = FakeEngine(("<thi", "nk>", "\nhm", "\n</", "think>\n\n", "Y", "es"))
    settings = replace(settings, **given)
    answer = Answer(engine, Request(build_prompt(engine, settings, "Q", None), settings))
    parts = read(answer)
    assert (answer.reasoning, answer.text) == (reasoning, text)
    assert "".join(part for kind, part in parts if kind == "think") == reasoning
    data = answer_data(answer)
    assert data.get("reasoning_content", "") == reasoning
    assert ("reasoning_content" in data) is bool(reasoning)


def test_a_grammar_that_does_not_parse_is_a_usage_error(local: LocalEngine, settings: Settings) -> None:
    with pytest.raises(UsageError, match="grammar"):
        read(ask(local, settings, grammar="root ::= ("))
