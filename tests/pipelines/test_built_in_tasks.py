"""The built-in tasks: each is read and filled, its constraint is valid, and its trial checks the promised form."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmcli.engine.events import Request
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.constraints import CONSTRAINT_KEYS, read_constraint
from llmcli.inference.decision import read_choice_set
from llmcli.params.decision import DECISION_KEYS
from llmcli.params.settings import Layer, resolve
from llmcli.pipelines.job import Result, Step, run_job
from llmcli.pipelines.task_files import find_task, task_files
from llmcli.pipelines.task_trials import form_problem, trials
from llmcli.pipelines.tasks import PLACE, Task, task_job
from tests.inference.fake_engine import FakeEngine

NAMES = [path.stem for path, source in task_files() if source == "built-in"]
ASKED_FOR = [
    "summarize",
    "translate",
    "classify",
    "sentiment",
    "extract",
    "annotate",
    "proofread",
    "rewrite",
    "keywords",
    "title",
    "outline",
    "draft",
    "expand",
    "explain",
    "code",
    "commit-message",
    "shell",
    "compare",
    "recommend",
    "describe-data",
]
# An answer in the form that each task promises, where it is not a line of text, and one that is not.
ANSWERS = {
    "classify": "complaint",
    "sentiment": "positive",
    "extract": '{"name": "Maria Lopez", "age": 34, "city": "Lima"}',
    "annotate": '[{"text": "Ada Moss", "label": "person"}]',
    "keywords": "lighthouse\nstorm",
    "outline": "- the winter\n- the boat",
    "compare": "same meaning",
    "recommend": "[2, 1, 3]",
    "describe-data": json.dumps(
        {"description": "People.", "columns": dict.fromkeys(["id", "name", "born", "height"], "A fact.")}
    ),
}
BAD = {"title": "a\nb", "shell": "ls\npwd", "keywords": "one", "outline": "one", "summarize": "word " * 1000}


def test_the_tasks_are_those_that_people_ask_for() -> None:
    assert sorted(NAMES) == sorted(ASKED_FOR)


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_task_explains_itself(name: str) -> None:
    task = find_task(name)
    assert task.description.endswith(".")
    assert len(task.description) <= 100
    assert task.size > 0
    for variable in task.variables.values():
        assert variable.help, variable.name
        assert variable.default is not None or f"{variable.name}=" in task.description or name == "compare"
    used = {place[1] for text in (task.prompt, *task.constraint.values()) for place in PLACE.finditer(text)}
    assert task.variables.keys() <= used, "each variable is used"
    assert "temperature" in task.settings.values


def first_trial(task: Task) -> Mapping[str, str]:
    return next(trials(task, FakeEngine(), 400, {})).variables


@pytest.mark.parametrize("name", NAMES)
def test_the_constraint_of_a_built_in_task_is_valid(name: str) -> None:
    task = find_task(name)
    layer = task.layer(first_trial(task))
    settings = resolve([layer]).settings
    found = [one for one in (read_constraint(settings), read_choice_set(settings)) if one]
    assert len(found) == len(task.constraint)
    assert len(layer.values.keys() & {*CONSTRAINT_KEYS, *DECISION_KEYS}) == len(task.constraint)


def tried(task: Task, variables: Mapping[str, str], answer: str) -> Result:
    def reply(request: Request) -> list[str]:
        return [answer]

    engine = FakeEngine(reply=reply, n_ctx=100_000)
    settings = resolve([task.layer(variables), Layer("flag", {"seed": 1})]).settings
    return run_job(engine, task_job(engine, settings, task, variables), generate_all)


def generate_all(_step: Step, answer: Answer) -> None:
    for _ in answer.parts():
        pass


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_the_promised_form_passes(name: str) -> None:
    task = find_task(name)
    variables = first_trial(task)
    result = tried(task, variables, ANSWERS.get(name, "A short line."))
    assert form_problem(task, str(result["text"]), variables["input"]) == ""


@pytest.mark.parametrize("name", BAD)
def test_an_answer_of_another_form_is_found(name: str) -> None:
    task = find_task(name)
    assert form_problem(task, BAD[name], first_trial(task)["input"])


def test_an_answer_that_is_not_json_or_empty_is_found() -> None:
    task = find_task("extract")
    assert form_problem(task, "{", "") == "it is not JSON"
    assert form_problem(find_task("draft"), " \n", "") == "it has no words"
    assert form_problem(find_task("commit-message"), "```\n```", "") == "it has no words"
    assert form_problem(find_task("annotate"), "[]", "") == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_long_trial_is_longer_than_the_context_where_parts_are_made(name: str) -> None:
    task = find_task(name)
    *_, long = trials(task, FakeEngine(), 3000, {})
    n_tokens = len(long.variables["input"])
    assert long.label == "long"
    assert 400 < n_tokens < 1500 if task.long_input == "error" else n_tokens > 3000


def test_given_variables_count_more_than_those_of_an_example() -> None:
    task = find_task("translate")
    assert first_trial(task)["to"] == "French"
    assert next(trials(task, FakeEngine(), 400, {"to": "Latin"})).variables["to"] == "Latin"


def test_the_input_is_the_only_thing_that_a_place_in_an_input_cannot_reach() -> None:
    task = find_task("translate")
    _, prompt = task.messages({"to": "{{input}}", "input": "{{to}}"})
    assert "into {{input}}." in prompt
    assert prompt.endswith("{{to}}")


def test_every_built_in_task_is_a_file_of_its_own() -> None:
    for name in NAMES:
        assert find_task(name).path == Path(find_task(name).path.parent, f"{name}.md")
    with pytest.raises(UsageError, match="needs to"):
        find_task("translate").complete({})
