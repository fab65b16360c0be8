"""Decisions in OpenAI's form."""

import pytest

from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import ServerMaker

PREDICATE = {"type": "predicate", "instructions": "The text is friendly.", "name": "friendly"}
CHOICE = {"type": "choice", "instructions": "Which color?", "choices": [{"value": "red"}, {"value": "blue"}]}
LEVELS = [{"label": "bad", "description": "nobody likes it"}, {"label": "fair"}, {"label": "good"}]
SCORE = {"type": "score", "instructions": "How good is it?", "levels": LEVELS}


def engine() -> FakeEngine:
    """It finds a token the more probable, the earlier in the alphabet it is."""
    return FakeEngine(logprob=lambda _before, token: -token / 10)


def test_each_question_gets_an_answer_of_its_kind(serve: ServerMaker) -> None:
    body = {"model": "fake", "input": "Hello", "questions": [PREDICATE, CHOICE, SCORE]}
    reply = serve(engine()).post("/v1/decisions", body)
    predicate, choice, score = reply.data["answers"]
    assert (reply.code, predicate["type"], predicate["name"]) == (200, "predicate", "friendly")
    assert 0 < predicate["probability"] < 1
    assert choice["choice"] in ("red", "blue")
    assert sum(one["probability"] for one in choice["probabilities"]) == pytest.approx(1)
    assert [one["value"] for one in score["probabilities"]] == [0, 1, 2]
    assert score["score"] == pytest.approx(sum(one["value"] * one["probability"] for one in score["probabilities"]))
    assert reply.data["usage"]["input_tokens"] > 0


def test_choices_that_are_true_and_false_stay_so(serve: ServerMaker) -> None:
    choices = [{"value": True, "description": "it is"}, {"value": False}]
    body = {"input": "Hello", "questions": [{**CHOICE, "choices": choices}]}
    (answer,) = serve(engine()).post("/v1/decisions", body).data["answers"]
    assert answer["choice"] in (True, False)
    assert [one["value"] for one in answer["probabilities"]] == [True, False]


def test_messages_are_an_input_too(serve: ServerMaker) -> None:
    made = engine()
    messages = [
        {"role": "developer", "content": "Be strict."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    ]
    reply = serve(made).post("/v1/decisions", {"input": messages, "questions": [PREDICATE]})
    prompt = "".join(map(chr, made.scored[-1][0]))
    assert reply.code == 200
    assert prompt.startswith("system: Be strict.")
    assert "The text is friendly." in prompt
    assert "Hello" in prompt


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"input": 5}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"questions": []}, "questions"),
        ({"questions": [{**PREDICATE, "type": "poll"}]}, "questions[0].type"),
        ({"questions": [{**CHOICE, "choices": [{"value": "red"}]}]}, "questions[0].choices"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}, {"value": 5}]}]}, "questions[0].choices[1].value"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}, {"value": " a"}]}]}, "questions[0].choices"),
    ],
)
def test_a_question_that_is_not_valid_is_named(serve: ServerMaker, changed: dict[str, object], place: str) -> None:
    reply = serve(engine()).post("/v1/decisions", {"input": "Hello", "questions": [PREDICATE], **changed})
    assert reply.code == 400
    assert reply.data["error"]["message"].startswith(place)
