"""Decisions in a batch: lines with choices, next to lines with texts."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.errors import TimeLimitError
from llmcli.pipelines.tasks import Task
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, make_batch, run_batch

GOOD = {"prompt": "It was great.", "choices": ["good", "evil"]}


def prefers_g(_before: Sequence[int], token: int) -> float:
    return -0.1 if token == ord("g") else -1.0


def lines_of(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in values)


def test_a_line_with_choices_is_decided() -> None:
    text, first, last = run_batch(
        FakeEngine(reply=echo, logprob=prefers_g), lines_of({"prompt": "abc"}, GOOD, {"prompt": "x", "predicate": True})
    )
    assert text["text"] == "abc"
    assert (first["id"], first["text"], first["choice"]) == (2, "good", "good")
    assert sum(first["choices"].values()) == pytest.approx(1)
    assert last["choices"].keys() == {"yes", "no"}
    assert "messages" not in first


def test_a_full_decision_has_what_was_asked() -> None:
    (line,) = run_batch(FakeEngine(logprob=prefers_g), lines_of(GOOD), is_full=True)
    assert line["messages"][-1]["content"].endswith("It was great.")


def test_choices_of_the_command_count_for_all_lines() -> None:
    lines = run_batch(FakeEngine(logprob=prefers_g), "one\ntwo\n", "in.txt", values={"choices": ("good", "evil")})
    assert [line["choice"] for line in lines] == ["good", "good"]


def test_a_prior_is_scored_once_for_all_lines() -> None:
    engine = FakeEngine(logprob=prefers_g)
    run_batch(engine, "one\ntwo\nthree\n", "in.txt", values={"choices": ("good", "evil"), "choice_prior": "auto"})
    assert len(engine.scored) == 4
    task = Task(name="judge", prompt="{{input}}", constraint={"choices": "good,evil"})
    run_batch(engine, "one\ntwo\nthree\n", "in.txt", task=task, values={"choice_prior": "auto"})
    assert len(engine.scored) == 8


def test_a_task_decides_its_lines() -> None:
    task = Task(name="judge", prompt="{{input}}", constraint={"choices": "good,evil"})
    lines = lines_of({"input": "It was great."}, {"input": "x", "choices": ["dog", "cat"]})
    plain, own = run_batch(FakeEngine(logprob=prefers_g), lines, task=task)
    assert (plain["choice"], plain["task"], "messages" in plain) == ("good", "judge", False)
    assert own["choices"].keys() == {"dog", "cat"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a", "choices": ["x"]}, "choices needs two choices or more, got 1"),
        ({"prompt": "a", "choices": ["@/etc/passwd"]}, "choices of a line cannot be a file"),
        ({"prompt": "a", "choices": ["x", "y"], "regex": "x"}, "choices and regex cannot be used together"),
        ({"messages": [{"role": "user", "content": "a"}], "predicate": True}, "a decision and messages cannot"),
        ({"prompt": "a", "rating": "5"}, "rating must be LOW..HIGH"),
    ],
)
def test_a_decision_that_is_not_valid_fails_alone(line: dict[str, Any], message: str) -> None:
    bad, good = run_batch(FakeEngine(logprob=prefers_g), lines_of(line, GOOD))
    assert bad["error"]["type"] == "usage"
    assert bad["error"]["message"].startswith(message)
    assert good["choice"] == "good"


class Endless(FakeEngine):
    """Scores until the time is over."""

    def score(
        self,
        prefix: Sequence[int],  # noqa: ARG002
        continuations: Sequence[Sequence[int]],  # noqa: ARG002
        cancellation: Cancellation | None = None,
    ) -> list[list[float]]:
        assert cancellation
        for _ in range(6000):
            time.sleep(0.01)
            if cancellation.is_set():
                raise TimeLimitError("stopped")
        raise AssertionError


@pytest.mark.parametrize("task", [None, Task(name="judge", prompt="{{input}}", constraint={"choices": "good,evil"})])
def test_a_decision_has_the_time_limit_of_its_line(task: Task | None) -> None:
    line = {"input": "x", "timeout": 0.05} if task else GOOD | {"timeout": 0.05}
    written = run_batch(Endless(), lines_of(line, {"prompt": "", "input": ""}), task=task)
    assert [line["error"]["type"] for line in written] == ["timeout", "usage"]
    assert written[0]["error"]["message"] == "stopped by timeout after 0.05 s"


def test_decisions_alone_end_with_a_cancellation() -> None:
    """There is no answer that the engine could end."""
    cancellation, output = Cancellation(), Lines()

    class Stopping(Lines):
        def write(self, line: bytes) -> None:
            output.write(line)
            if len(output.written) == 3:
                cancellation.set()

    batch = make_batch(FakeEngine(logprob=prefers_g), lines_of(*[GOOD] * 9), Stopping(), cancellation=cancellation)
    batch.run()
    assert len(output.written) == 3


def test_a_decision_of_an_openai_line_is_a_chat_completion() -> None:
    body = {"prompt": "It was", "choices": ["good", "evil"]}
    line = {"custom_id": "a", "url": "/v1/completions", "body": body}
    (written,) = run_batch(FakeEngine(logprob=prefers_g), lines_of(line))
    assert written["error"] is None
    assert written["response"]["body"]["choices"][0]["text"].strip() == "good"
