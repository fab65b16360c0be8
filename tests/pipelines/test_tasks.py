"""Tasks: places are filled once, variables are checked, and the settings of a task are a layer of their own."""

from collections.abc import Mapping
from typing import Any

import pytest

from llmcli.errors import ConstraintError, UsageError
from llmcli.params.settings import Layer, Settings, resolve
from llmcli.pipelines.job import Result, Step, run_job
from llmcli.pipelines.tasks import Task, Variable, fill, task_job
from tests.inference.fake_engine import FakeEngine

LETTER = Task(
    name="letter",
    prompt="To {{to}}, {{tone}}:\n{{input}}",
    system="You write {{tone}} letters.",
    variables={"to": Variable("to", help="who gets it"), "tone": Variable("tone", "kind")},
)


def result_of(engine: FakeEngine, task: Task, variables: Mapping[str, str], shown: list[str] | None = None) -> Result:
    settings = resolve([task.layer(variables), Layer("flag", {"seed": 1})]).settings

    def show(_step: Step, answer: Any) -> None:
        texts = "".join(text for _, text in answer.parts())
        if shown is not None:
            shown.append(texts)

    return run_job(engine, task_job(engine, settings, task, variables), show)


def test_places_are_filled_in_one_pass() -> None:
    values = {"a": "{{b}}", "b": "{{a}} {{ input }}", "input": "x"}
    assert fill("{{a}} {{ b }} {{c}} {{ input }}", values) == "{{b}} {{a}} {{ input }} {{c}} x"


def test_what_is_not_a_place_stays() -> None:
    text = "{a} {{}} {{a b}} {{{ {{1}} $a %s \\1 {{a"
    assert fill(text, {"a": "x", "b": "y"}) == text


def test_the_messages_of_a_task_are_filled() -> None:
    assert LETTER.messages({"to": "Ann", "input": "Hi {{tone}}"}) == (
        "You write kind letters.",
        "To Ann, kind:\nHi {{tone}}",
    )


def test_a_missing_variable_is_named_with_its_help() -> None:
    with pytest.raises(UsageError) as caught:
        LETTER.messages({"input": "Hi"})
    assert str(caught.value) == "the task letter needs to (who gets it)"
    assert caught.value.hint == "give --var to=..."


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(UsageError, match="the task letter has no variable 'tune'") as caught:
        LETTER.messages({"tune": "x"})
    assert caught.value.hint == "did you mean 'tone'?"
    with pytest.raises(UsageError) as caught:
        LETTER.messages({"zzz": "x"})
    assert caught.value.hint == "it has to (who gets it), tone"


def test_the_settings_of_a_task_are_below_flags() -> None:
    task = Task(name="t", prompt="{{input}}", settings=Layer("task", {"top_k": 5, "top_p": 0.5}), system="Be brief.")
    resolved = resolve([Layer("config", {"top_k": 1}), task.layer({"input": ""}), Layer("flag", {"top_p": 0.7})])
    assert (resolved.settings.top_k, resolved.settings.top_p, resolved.settings.system) == (5, 0.7, "Be brief.")
    assert (resolved.origins["top_k"], resolved.origins["top_p"]) == ("task", "flag")


@pytest.mark.parametrize("value", ["-", "@/etc/hostname"])
def test_a_variable_cannot_make_the_system_prompt_a_file(value: str) -> None:
    task = Task(name="t", prompt="{{input}}", system="{{who}}", variables={"who": Variable("who")})
    engine = FakeEngine(("ok",))
    result_of(engine, task, {"input": "hi", "who": value})
    request: Any = engine.requests[0].prompt.request
    assert request[0] == {"role": "system", "content": f" {value}"}


@pytest.mark.parametrize(
    ("labels", "choices"),
    [
        ("good, bad", (" good", " bad")),
        ("a, b; c.d", (" a, b", " c.d")),
        ("yes;no;", (" yes", " no")),
        ('["a, b", "c;d"]', (" a, b", " c;d")),
    ],
)
def test_choices_are_separated_by_commas_or_semicolons(labels: str, choices: tuple[str, ...]) -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"choices": "{{l}}"}, variables={"l": Variable("l")})
    assert task.layer({"l": labels, "input": ""}).values == {"choices": choices}


def test_a_choice_is_scored_and_never_the_name_of_a_file() -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"choices": "{{l}}"}, variables={"l": Variable("l")})
    engine = FakeEngine(logprob=lambda _before, token: 0.0 if chr(token) in "@/etc" else -9.0)
    result = result_of(engine, task, {"l": "good, @/etc", "input": "x"})
    assert (result["text"], result["task"]) == ("@/etc", "t")
    probabilities = result["choices"]
    assert isinstance(probabilities, dict)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert engine.requests == []  # nothing is generated


def test_choices_in_the_flags_replace_those_of_a_task() -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"choices": "a, b"})
    settings = resolve([task.layer({"input": ""}), Layer("flag", {"seed": 1, "choices": ("x", "yy")})]).settings
    engine = FakeEngine()
    result = run_job(engine, task_job(engine, settings, task, {"input": "?"}), lambda _step, _answer: None)
    assert result["text"] == "x"


@pytest.mark.parametrize(("labels", "message"), [("one", "at least two"), (";", "at least two"), ("a, b, a", "twice")])
def test_choices_that_are_not_choices_are_refused(labels: str, message: str) -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"choices": "{{l}}"}, variables={"l": Variable("l")})
    with pytest.raises(UsageError, match=message):
        task.layer({"l": labels, "input": ""})


def test_a_variable_cannot_make_the_schema_a_file() -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"json_schema": "{{s}}"}, variables={"s": Variable("s")})
    assert task.layer({"s": "name: str", "input": ""}).values == {"json_schema": "name: str"}
    with pytest.raises(UsageError, match="'/etc/passwd' is not a JSON schema"):
        task.layer({"s": "/etc/passwd", "input": ""})


def test_a_regex_of_a_task_is_not_filled() -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"regex": "a{2}"})
    assert task.layer({"input": "b"}).values == {"regex": "a{2}"}


def test_the_result_has_the_fields_of_json_output() -> None:
    shown = list[str]()
    result = result_of(FakeEngine(("Dear ", "Ann")), LETTER, {"to": "Ann", "input": "Hi"}, shown)
    assert (result["text"], result["task"], result["finish_reason"]) == ("Dear Ann", "letter", "stop")
    assert {"model", "prompt_tokens", "completion_tokens", "seed", "params", "timings", "replay"} <= result.keys()
    assert shown == ["Dear Ann"]


def test_a_task_with_a_helper_shows_only_its_result() -> None:
    task, shown = Task(name="t", prompt="{{input}}", helper="code"), list[str]()
    result = result_of(FakeEngine(("Here:\n```py\n", "x = 1\n", "```\n")), task, {"input": "code"}, shown)
    assert result["text"] == "x = 1"
    assert shown == []
    assert "replay" not in result  # the text is not what the model wrote


def test_an_answer_that_breaks_its_constraint_is_an_error() -> None:
    task = Task(name="t", prompt="{{input}}", constraint={"regex": "good|bad"})
    with pytest.raises(ConstraintError, match="does not match regex"):
        result_of(FakeEngine(("goo",)), task, {"input": "x"})


def test_a_model_without_a_template_stops_at_the_next_turn() -> None:
    engine = FakeEngine(("ok",), chat_template="")
    result_of(engine, LETTER, {"to": "Ann", "input": "Hi"})
    assert engine.requests[0].settings.stop == ("\nUser:",)


def test_a_raw_task_is_the_prompt_verbatim() -> None:
    engine = FakeEngine(("ok",))
    job = task_job(engine, Settings(seed=1, raw=True), LETTER, {"to": "Ann", "input": "Hi"})
    (request,) = next(job).requests
    assert request.prompt.text == "To Ann, kind:\nHi"
