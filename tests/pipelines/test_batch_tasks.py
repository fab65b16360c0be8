"""A task for each line of a batch: variables of the line and of the command, settings below those of both."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from llmcli.engine.events import Request
from llmcli.errors import UsageError
from llmcli.params.settings import Layer
from llmcli.pipelines.batch import OneEngine
from llmcli.pipelines.batch_line import check_columns
from llmcli.pipelines.tasks import Task, Variable
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, errors, make_batch, question_of

TASK = Task(
    name="turn",
    prompt="Into {{to}}: {{input}}",
    system="You know {{to}}.",
    variables={"to": Variable("to", None, "the language"), "tone": Variable("tone", "plain")},
    settings=Layer("task", {"max_tokens": 40, "top_k": 5}),
    constraint={"regex": "[a-z]+"},
)


def run_task(
    text: str,
    name: str = "in.jsonl",
    task: Task = TASK,
    flags: Mapping[str, Any] | None = None,
    template: str | None = None,
    **variables: str,
) -> tuple[list[dict[str, Any]], list[Request]]:
    """The lines of the output, and the requests in the order of the lines."""
    asked: list[Request] = []

    def note(one: Request) -> list[str]:
        asked.append(one)
        return ["ok"]

    output = Lines()
    batch = make_batch(FakeEngine(reply=note), text, output, name, task=task, template=template, variables=variables)
    assert isinstance(batch.backend, OneEngine)
    batch.backend.worker.parser._layers = [task.settings, Layer("flag", {"seed": 7, **(flags or {})})]
    batch.run()
    return [json.loads(line) for line in output.written], sorted(asked, key=lambda one: one.settings.seed or 0)


def test_variables_come_from_the_line_and_the_command() -> None:
    lines, asked = run_task('{"id": "a", "input": "hi", "to": "fr"}\n{"text": "ho"}\n', to="de")
    assert [question_of(one) for one in asked] == ["Into fr: hi", "Into de: ho"]
    assert asked[0].prompt.text.startswith("system: You know fr.\n")
    assert [(line["id"], line["text"], line["task"]) for line in lines] == [("a", "ok", "turn"), (2, "ok", "turn")]
    assert "replay" not in lines[0]


def test_columns_are_variables_of_the_task() -> None:
    lines, asked = run_task("id;prompt;to;other\nx;hi;fr;5\n", "in.csv")
    assert question_of(asked[0]) == "Into fr: hi"
    assert lines[0]["id"] == "x"


def test_a_template_makes_the_input_of_a_task() -> None:
    _, asked = run_task("id,title,body,to\n1,A,B,fr\n", "in.csv", template="{{title}}: {{body}} ({{to}})")
    assert question_of(asked[0]) == "Into fr: A: B (fr)"
    lines = '{"body": "B", "top_k": 3, "to": "fr"}\n{"input": "hi", "to": "fr"}\n'
    answered, asked = run_task(lines, template="Say {{body}}!")
    assert (question_of(asked[0]), asked[0].settings.top_k) == ("Into fr: Say B!", 3)
    assert errors(answered) == [("usage", "the line has no 'body', which --prompt names")]
    _, asked = run_task("one\n", "in.txt", template="Dear {{input}},", to="de")
    assert question_of(asked[0]) == "Into de: Dear one,"


def test_each_line_of_text_is_an_input() -> None:
    _, asked = run_task("one\ntwo\n", "in.txt", to="de")
    assert [question_of(one) for one in asked] == ["Into de: one", "Into de: two"]


def test_settings_of_the_task_are_below_those_of_flags_and_lines() -> None:
    text = (
        '{"input": "a", "to": "x", "max_tokens": 3, "system": "@other"}\n{"input": "b", "to": "x", "regex": "[0-9]k"}\n'
    )
    _, asked = run_task(text, flags={"top_k": 9})
    assert [(one.settings.max_tokens, one.settings.top_k) for one in asked] == [(3, 9), (40, 9)]
    assert [one.constraint and one.constraint.text for one in asked] == ["[a-z]+", "[0-9]k"]
    assert asked[0].prompt.text.startswith("system:  @other\n")


def test_a_constraint_of_a_flag_replaces_that_of_the_task() -> None:
    _, asked = run_task('{"input": "a", "to": "x"}\n', flags={"json_schema": '{"type": "integer"}'})
    assert asked[0].constraint
    assert asked[0].constraint.kind == "json_schema"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"input": "a"}, "the task turn needs to (the language)"),
        ({"to": "fr"}, "input is missing"),
        ({"input": "a", "to": "fr", "ton": "x"}, "unknown setting 'ton'"),
        ({"messages": [], "to": "fr"}, "messages and --task cannot be used together"),
        ({"input": " ", "to": "fr"}, "the prompt is empty"),
    ],
)
def test_a_line_that_does_not_fit_the_task_fails_alone(line: dict[str, Any], message: str) -> None:
    lines, _ = run_task(json.dumps(line) + '\n{"input": "b", "to": "fr"}\n')
    assert errors(lines) == [("usage", message)]
    assert lines[1]["text"] == "ok"


def test_an_answer_that_breaks_the_constraint_of_the_task_fails() -> None:
    output = Lines()
    make_batch(FakeEngine(("NO",)), '{"input": "a", "to": "x"}\n', output, task=TASK, values={"regex": "[a-z]+"}).run()
    assert json.loads(output.written[0])["error"]["type"] == "constraint_unmet"


def test_openai_lines_cannot_be_inputs_of_a_task() -> None:
    lines, _ = run_task('{"custom_id": "a", "url": "/v1/chat/completions", "body": {}}\n')
    assert lines[0]["error"]["message"] == "a task cannot answer an OpenAI Batch line"


def test_columns_that_a_task_needs_are_missed_at_once() -> None:
    check_columns(["input", "to"], None, TASK)
    check_columns(["input"], None, TASK, {"to": "de"})
    with pytest.raises(UsageError, match="the task turn needs to"):
        check_columns(["input"], None, TASK)
    with pytest.raises(UsageError, match="none of the columns input, text, prompt") as caught:
        check_columns(["id", "body", "to"], None, TASK)
    assert caught.value.hint == "name a column in a template, such as --prompt '{{body}}'"
    check_columns(["id", "body", "to"], "{{body}}", TASK)


def test_a_long_input_is_answered_in_parts() -> None:
    task = Task(name="short", prompt="{{input}}", long_input="windows")
    output = Lines()
    text = "\n\n".join(f"paragraph {number}" for number in range(40))
    engine = FakeEngine(reply=echo, n_ctx=300)
    lines = json.dumps({"input": text}) + "\n" + json.dumps({"input": "short"}) + "\n"
    make_batch(engine, lines, output, task=task).run()
    first, second = (json.loads(line) for line in output.written)
    assert first["n_parts"] > 2
    assert first["text"].replace("\n", "") == text.replace("\n", "")
    assert second["text"] == "short"
