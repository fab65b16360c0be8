"""Several answers to one input, side by side, and the choice of one: by vote or by a task that judges."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.errors import ConstraintError, LlmcliError, UsageError
from llmcli.inference.answer import Answer
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from llmcli.pipelines.job import Job, Result, Step, run_job
from llmcli.pipelines.samples import Judge, check_judge, check_samples, most_frequent, request_job, result_job
from llmcli.pipelines.task_files import find_task
from llmcli.pipelines.tasks import Task, Variable
from tests.inference.fake_engine import FakeEngine, Script

BY_SEED = ["It is 7.", "it is 7. ", "It is 8.", "no idea", "It is 8."]


def by_seed(texts: Sequence[Any]) -> Callable[[Request], Script]:
    """The n-th text for the n-th seed, from 10."""
    return lambda request: [texts[(request.settings.seed or 0) - 10]]


def result_of(engine: FakeEngine, judge: Judge | None = None, **changes: Any) -> Result:
    settings = replace(Settings(seed=10, samples=5), **changes)

    def job_of(own: Settings) -> Job:
        return request_job(Request(Prompt.of_tokens("a", [1]), own))

    def show(_step: Step, answer: Answer) -> None:
        assert settings.samples == 1, "only one answer is shown while it comes"
        for _ in answer.parts():
            pass

    return run_job(engine, result_job(settings, job_of, judge), show)


def test_samples_have_seeds_in_succession_and_run_together() -> None:
    engine = FakeEngine(reply=by_seed(BY_SEED))
    result = result_of(engine)
    samples: Any = result["samples"]
    assert [one["seed"] for one in samples] == [10, 11, 12, 13, 14]
    assert [one["text"] for one in samples] == BY_SEED
    assert engine.n_running == 5
    assert result["completion_tokens"] == 5


def test_one_answer_is_as_without_samples() -> None:
    result = result_of(FakeEngine(reply=by_seed(BY_SEED)), samples=1)
    assert (result["text"], result["seed"]) == ("It is 7.", 10)
    assert "samples" not in result


def test_a_vote_ignores_case_and_white_space_at_the_ends() -> None:
    assert most_frequent(BY_SEED) == (0, 2)
    assert most_frequent(["b", "a", "A", "b"]) == (0, 2)
    assert most_frequent([None, "b", " STRASSE", "stra\u00dfe "]) == (2, 2)


def test_the_earliest_of_equal_votes_wins() -> None:
    result = result_of(FakeEngine(reply=by_seed(BY_SEED)), best="vote")
    assert (result["text"], result["seed"]) == ("It is 7.", 10)
    assert result["best"] == {"rule": "vote", "votes": 2, "sample": 1}


def test_the_chosen_answer_keeps_its_own_finish_reason() -> None:
    engine = FakeEngine(reply=lambda request: ["a", "b"] if request.settings.seed == 12 else ["a"])
    assert result_of(engine, best="vote", max_tokens=1)["finish_reason"] == "stop"
    assert result_of(engine, max_tokens=1)["finish_reason"] == "length"


def test_the_extracted_parts_vote() -> None:
    texts = ["7", "So 8", "It is 8, or 9.", "no idea", "7 or 8"]
    result = result_of(FakeEngine(reply=by_seed(texts)), best="vote", extract=r"[89]|idea")
    assert result["extracted"] == "8"
    assert result["best"] == {"rule": "vote", "votes": 3, "sample": 2}
    samples: Any = result["samples"]
    assert [one["extracted"] for one in samples] == [None, "8", "8", "idea", "8"]


def test_it_is_an_error_if_no_answer_has_the_part() -> None:
    with pytest.raises(ConstraintError, match=r"does not match 'zz': 'It is 7\.'"):
        result_of(FakeEngine(reply=by_seed(BY_SEED)), best="vote", extract="zz")


def test_a_sample_that_fails_leaves_the_others() -> None:
    texts = ["a", LlmcliError("broken"), "b", "b", LlmcliError("broken")]
    result = result_of(FakeEngine(reply=by_seed(texts)), best="vote")
    assert result["text"] == "b"
    assert result["errors"] == ["broken", "broken"]
    with pytest.raises(LlmcliError, match="broken"):
        result_of(FakeEngine(reply=by_seed([LlmcliError("broken")] * 5)), best="vote")


def test_a_judge_reads_the_numbered_answers_and_chooses() -> None:
    judged: list[Request] = []

    def reply(request: Request) -> Script:
        if "Answer 1:" in request.prompt.text:
            judged.append(request)
            return ["2"]
        return by_seed(BY_SEED)(request)

    engine = FakeEngine(reply=reply)
    task = Task(
        name="j",
        prompt="Task:\n{{input}}\n\n{{answers}}\n",
        variables={"answers": Variable("answers")},
        constraint={"regex": "[1-4]"},
    )
    result = result_of(
        engine, Judge(engine, task, "How many?", Cancellation()), best="j", extract=r"\d", max_tokens=1, stop=("x",)
    )
    assert (result["extracted"], result["seed"]) == ("7", 11)
    assert result["best"] == {"rule": "j", "judgment": "2", "sample": 2}
    (request,) = judged
    assert "Task:\nHow many?\n\nAnswer 1:\n7\n\nAnswer 2:\n7\n\nAnswer 3:\n8\n\nAnswer 4:\n8\n" in request.prompt.text
    assert request.constraint
    assert request.constraint.text == "[1-4]"
    assert (request.settings.max_tokens, request.settings.stop) == (-1, ())


def test_the_judge_that_is_built_in_decides_by_scores() -> None:
    third = FakeEngine().tokenizer.tokenize("3")[-1]
    engine = FakeEngine(reply=by_seed(BY_SEED), logprob=lambda _before, token: -1.0 if token == third else -2.0)
    result = result_of(engine, Judge(engine, find_task("best-answer"), "How many?", Cancellation()), best="best-answer")
    assert result["text"] == "It is 8."
    assert result["best"] == {"rule": "best-answer", "judgment": "3", "sample": 3}


def test_a_decision_has_no_samples_and_no_parts() -> None:
    settings = Settings(seed=1, samples=3, best="vote", extract="zz", predicate=True)

    def job_of(own: Settings) -> Job:
        assert own == settings
        yield from ()
        return {"text": "yes", "finish_reason": "stop"}

    result = run_job(FakeEngine(), result_job(settings, job_of), lambda _step, _answer: None)
    assert result == {"text": "yes", "finish_reason": "stop"}


def test_a_judgment_that_is_not_a_number_is_an_error() -> None:
    judge_task = Task(name="j", prompt="{{input}} {{answers}}", variables={"answers": Variable("answers")})
    engine = FakeEngine(reply=lambda request: ["6" if "Answer 1:" in request.prompt.text else "x"])
    judge = Judge(engine, judge_task, "How many?", Cancellation())
    with pytest.raises(ConstraintError, match="the judge must answer with a number from 1 to 5, got '6'"):
        result_of(engine, judge, best="j")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(name="j", prompt="{{input}}"), "cannot choose the best answer: it does not read {{answers}}"),
        (
            Task(name="j", prompt="{{answers}}{{x}}", variables={"answers": Variable("answers"), "x": Variable("x")}),
            "the task j needs x",
        ),
    ],
)
def test_a_task_that_cannot_judge_is_refused(task: Task, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_judge(task)
    assert message in str(caught.value)


def test_interrupted_samples_are_not_compared() -> None:
    cancellation = Cancellation()
    cancellation.set()
    settings = Settings(seed=10, samples=2, best="vote", extract="a")

    def job_of(own: Settings) -> Job:
        return request_job(Request(Prompt.of_tokens("a", [1]), own, cancellation=cancellation))

    result = run_job(FakeEngine(("a",)), result_job(settings, job_of), lambda _step, _answer: None)
    assert result["finish_reason"] == "interrupt"
    assert "best" not in result


def test_samples_of_a_greedy_model_are_refused() -> None:
    with pytest.raises(UsageError, match="3 samples at temperature 0 would all be the same answer"):
        check_samples(Settings(samples=3, temperature=Fixed(0.0)))
    check_samples(Settings(samples=3))
    check_samples(Settings(temperature=Fixed(0.0)))
