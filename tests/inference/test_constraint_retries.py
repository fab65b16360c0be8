"""An answer that only its end can show to match: it is generated again, and what is kept is the last try."""

from typing import Any

import pytest

from llmcli.engine.events import Request, TokenTrace
from llmcli.inference.answer import Answer
from llmcli.inference.json_schema import read_schema
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.inference.fake_engine import FakeEngine

SCHEMA = read_schema('{"type": "integer", "not": {"multipleOf": 2}}')


def ask(engine: FakeEngine, **settings: Any) -> Answer:
    prompt = engine.render("A number:", options_of())
    return Answer(engine, Request(prompt, Settings(**{"seed": 7, **settings}), SCHEMA, trace=0))


def options_of() -> Any:
    from llmcli.inference.engine import TemplateOptions

    return TemplateOptions("")


def test_an_answer_that_does_not_match_is_generated_again() -> None:
    engine = FakeEngine(("2",), ("4",), ("1", "3"))
    answer, sent = ask(engine), list[TokenTrace]()
    answer.on_token = sent.append
    assert list(answer.parts()) == [("answer", "1"), ("answer", "3")]
    assert (answer.text, answer.problem, answer.constraint_failure()) == ("13", None, None)
    assert [request.settings.seed for request in engine.requests] == [7, 8, 9]
    assert answer.settings.seed == 9
    assert "".join(trace.text for trace in sent) == "13"


def test_the_last_try_is_kept_with_its_fault() -> None:
    engine = FakeEngine(("2",))
    answer = ask(engine, constraint_retries=1)
    assert list(answer.parts()) == [("answer", "2")]
    assert len(engine.requests) == 2
    failure = answer.constraint_failure()
    assert failure
    assert str(failure).startswith("the answer does not match json_schema: ")
    assert "--constraint-retries" in failure.hint


@pytest.mark.parametrize("settings", [{"temperature": Fixed(0.0)}, {"top_k": 1}])
def test_a_greedy_answer_is_not_generated_again(settings: dict[str, Any]) -> None:
    engine = FakeEngine(("2",), ("3",))
    assert list(ask(engine, **settings).parts()) == [("answer", "2")]
    assert len(engine.requests) == 1


def test_an_interrupted_try_keeps_its_text() -> None:
    engine = FakeEngine(("2", "4", "6"))
    answer = ask(engine)
    answer.request.cancellation.set()
    assert list(answer.parts()) == []
    assert answer.finish_reason == "interrupt"
    assert answer.constraint_failure() is None
    assert len(engine.requests) == 1
