"""Jobs: steps of answers side by side, outcomes in the order of the jobs, and what ends one job ends no other."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, repeat
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.errors import ConstraintError, LlmcliError, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.json_schema import read_schema
from llmcli.params.settings import Settings
from llmcli.pipelines import job as job_module
from llmcli.pipelines.job import Job, JobRunner, JobSource, Outcome, Step, TimeLimit, run_job, with_cancellation
from tests.inference.fake_engine import FakeEngine, without

ODD = read_schema('{"type": "integer", "not": {"multipleOf": 2}}')  # only a finished answer shows it


def request(text: str, **settings: Any) -> Request:
    tokens = [ord(char) for char in text]
    return Request(Prompt.of_tokens(text, tokens, text), Settings(**{"seed": 1, **settings}))


def one_answer(text: str, **settings: Any) -> Job:
    (answer,) = yield Step([request(text, **settings)])
    return {"text": answer.text, "reason": answer.finish_reason}


def source_of(jobs: Sequence[Job]) -> JobSource:
    left = iter(jobs)
    return lambda _is_idle: next(left, None)


def outcomes(engine: FakeEngine, jobs: Sequence[Job], n_parallel: int = 0) -> list[Outcome]:
    found: list[Outcome] = []
    JobRunner(engine, source_of(jobs), n_parallel).run(found.append)
    return found


def echo(asked: Request) -> Sequence[str]:
    """As many pieces as the prompt has letters: a longer prompt takes longer."""
    return list(asked.prompt.text)


def test_outcomes_come_in_the_order_of_the_jobs() -> None:
    texts = ["a long first one", "b", "cc", "d"]
    found = outcomes(FakeEngine(reply=echo), [one_answer(text) for text in texts])
    assert [(one.index, (one.result or {})["text"]) for one in found] == list(enumerate(texts))


def test_at_most_so_many_answers_run_at_a_time() -> None:
    engine = FakeEngine(reply=echo)
    outcomes(engine, [one_answer(f"text {number}") for number in range(9)], 3)
    assert engine.n_running == 3


def test_an_outcome_is_emitted_before_the_next_job_is_waited_for() -> None:
    log: list[str] = []
    jobs = iter([one_answer("a"), one_answer("b")])

    def wait_for(is_idle: bool) -> Job | None:
        log.append(f"wait for {is_idle}")
        return next(jobs, None) if is_idle else None

    JobRunner(FakeEngine(reply=echo), wait_for).run(lambda one: log.append(f"outcome {one.index}"))
    assert [entry for entry in log if entry != "wait for False"] == [
        *("wait for True", "outcome 0"),
        *("wait for True", "outcome 1", "wait for True"),
    ]


def test_a_wait_for_a_job_does_not_end_the_batch_of_the_engine() -> None:
    """A context that is made again has to evaluate the common beginning again."""
    engine = FakeEngine(reply=echo)
    batches, generate = count(), engine.generate_batch

    def generate_batch(*given: Any) -> Any:
        next(batches)
        return generate(*given)

    engine.generate_batch = generate_batch  # type: ignore[method-assign, assignment]
    jobs = iter([one_answer("a"), one_answer("b")])
    JobRunner(engine, lambda is_idle: next(jobs, None) if is_idle else None).run(lambda _one: None)
    assert next(batches) == 1


def test_a_job_gets_the_answers_of_a_step_in_their_order() -> None:
    def two_steps() -> Job:
        first = yield Step([request("long one"), request("b")], is_last=False)
        (last,) = yield Step([request("".join(answer.text for answer in first))])
        return {"text": last.text}

    (found,) = outcomes(FakeEngine(reply=echo), [two_steps()])
    assert found.result == {"text": "long oneb"}


def test_a_step_without_requests_goes_on_at_once() -> None:
    def empty_step() -> Job:
        answers = yield Step([], is_last=False)
        assert answers == ()
        (last,) = yield Step([request("a")])
        return {"text": last.text}

    (found,) = outcomes(FakeEngine(reply=echo), [empty_step()])
    assert found.result == {"text": "a"}
    assert run_job(FakeEngine(reply=echo), empty_step(), generate_to_its_end) == {"text": "a"}


def generate_to_its_end(_step: Step, answer: Answer) -> None:
    assert list(answer.parts())


def failing(error: Exception) -> Job:
    yield from ()
    raise error


def test_a_job_that_fails_ends_alone() -> None:
    error = UsageError("no such variable")
    found = outcomes(FakeEngine(reply=echo), [one_answer("a"), failing(error), one_answer("b")])
    assert [one.error for one in found] == [None, error, None]
    assert [one.result and one.result["text"] for one in found] == ["a", None, "b"]


def test_a_fault_of_the_program_ends_one_job_only() -> None:
    found = outcomes(FakeEngine(reply=echo), [failing(ZeroDivisionError("by zero")), one_answer("b")])
    assert str(found[0].error) == "ZeroDivisionError: by zero"
    assert found[0].error
    assert found[0].error.hint == "this is a bug; report it"
    assert found[1].result


def test_an_answer_that_fails_is_given_to_its_job() -> None:
    def careful() -> Job:
        (answer,) = yield Step([request("a")])
        return {"failure": str(answer.record.failure)}

    (found,) = outcomes(FakeEngine(("x", LlmcliError("out of order"))), [careful()])
    assert found.result == {"failure": "out of order"}


def test_the_end_of_the_process_of_an_engine_ends_all_and_fails_none() -> None:
    def reply(asked: Request) -> Sequence[str | BaseException]:
        engine.has_ended = asked.prompt.text == "bb"
        return [LlmcliError("it has ended")] if engine.has_ended else ["x"]

    engine, found = FakeEngine(reply=reply), list[Outcome]()
    with pytest.raises(LlmcliError, match="it has ended") as raised:
        JobRunner(engine, source_of([one_answer("b" * n) for n in (1, 2, 3)]), 1).run(found.append)
    assert [one.index for one in found] == [0]
    assert raised.value.hint == "try again; for a batch with --output, add --resume"


def test_what_the_engine_cannot_do_is_the_error_of_the_job() -> None:
    engine = FakeEngine(reply=echo, capabilities=without(logprobs=False))
    found = outcomes(engine, [one_answer("a", logprobs=2), one_answer("b")])
    assert str(found[0].error) == "fake does not support logprobs"
    assert found[1].result


def test_no_more_jobs_begin_than_the_window_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is long: those after it end, and wait for it in memory."""
    monkeypatch.setattr(job_module, "_WINDOW", 5)
    begun: list[int] = []
    most = 0

    def jobs() -> Iterator[Job]:
        for number in range(30):
            begun.append(number)
            yield one_answer("x" * (100 if number == 0 else 1))

    def emit(_outcome: Outcome) -> None:
        nonlocal most
        most = most or len(begun)

    left = jobs()
    JobRunner(FakeEngine(reply=echo), lambda _is_idle: next(left, None)).run(emit)
    assert most == 5
    assert len(begun) == 30


def test_a_timeout_ends_one_answer_and_keeps_its_text() -> None:
    engine = FakeEngine(reply=lambda asked: repeat("x") if asked.prompt.text == "a" else ["x"] * 3, delay=0.001)
    for seconds in (0.1, 2.0, 20.0):  # on a busy machine, a short limit may come before the text
        found = outcomes(engine, [one_answer("a", timeout=seconds), one_answer("b"), one_answer("c", timeout=600.0)])
        ended = found[0].result
        assert ended
        assert ended["reason"] == "timeout"
        assert found[1].result == {"text": "xxx", "reason": "stop"}
        if len(str(ended["text"])) > 1:
            break
    assert ended
    assert str(ended["text"]).startswith("xx")
    for timer in [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
        timer.join(60)
        assert not timer.is_alive()  # that of an answer without the time limit would wait for ten minutes


@pytest.mark.parametrize("timeout", [0.0, 600.0])
def test_a_cancellation_ends_the_run_without_further_outcomes(timeout: float) -> None:
    """Also of an answer with a time limit of its own."""
    engine, cancellation, found = FakeEngine(reply=echo, delay=0.001), Cancellation(), list[Outcome]()
    jobs = source_of([one_answer("a"), one_answer("b" * 10**5, timeout=timeout), one_answer("c")])
    runner = JobRunner(engine, jobs, 2, cancellation)

    def emit(outcome: Outcome) -> None:
        found.append(outcome)
        threading.Timer(0.1, cancellation.set).start()

    begin = time.monotonic()
    runner.run(emit)
    assert time.monotonic() - begin < 60  # the second answer would take a hundred seconds
    assert [one.index for one in found] == [0]
    assert cancellation.followers == ()


def test_an_answer_that_does_not_match_is_generated_again_in_a_batch() -> None:
    seeds: list[int | None] = []

    def number_of(asked: Request) -> Sequence[str]:
        seeds.append(asked.settings.seed)
        return [str(asked.settings.seed)]

    def constrained() -> Job:
        asked = request("a number", seed=2)
        asked.constraint = ODD
        (answer,) = yield Step([asked])
        return {"text": answer.text, "seed": answer.settings.seed}

    assert [one.result for one in outcomes(FakeEngine(reply=number_of), [constrained()])] == [{"text": "3", "seed": 3}]
    assert seeds == [2, 3]
    ran = run_job(FakeEngine(reply=number_of), several(constrained), lambda _step, _answer: None)
    assert ran == {"text": "3", "seed": 3}


def several(make: Callable[[], Job]) -> Job:
    """The job with its step as one that is not the last."""
    job = make()
    step = next(job)
    answers = yield Step(step.requests, is_last=False)
    try:
        job.send(answers)
    except StopIteration as end:
        result: dict[str, object] = end.value
        return result
    raise AssertionError


def test_tries_end_at_the_limit_and_the_last_answer_is_kept() -> None:
    def constrained() -> Job:
        asked = request("a number", seed=2, constraint_retries=3)
        asked.constraint = ODD
        (answer,) = yield Step([asked])
        failure = answer.constraint_failure()
        raise failure or AssertionError

    engine = FakeEngine(("2",))
    (found,) = outcomes(engine, [constrained()])
    assert isinstance(found.error, ConstraintError)


def test_run_job_shows_the_answer_of_the_last_step() -> None:
    shown: list[str] = []

    def show(step: Step, answer: Answer) -> None:
        shown.append(step.label)
        shown.extend(text for _, text in answer.parts())

    def two_steps() -> Job:
        first = yield Step([request("a"), request("b")], "parts", is_last=False)
        (last,) = yield Step([request("".join(answer.text for answer in first))], "joined")
        return {"text": last.text}

    assert run_job(FakeEngine(reply=echo), two_steps(), show) == {"text": "ab"}
    assert shown == ["joined", "a", "b"]


def test_run_job_raises_the_error_that_ends_the_job() -> None:
    with pytest.raises(UsageError, match="no such variable"):
        run_job(FakeEngine(reply=echo), failing(UsageError("no such variable")), lambda _step, _answer: None)


def test_a_job_can_have_a_cancellation_that_ends_no_other() -> None:
    cancellation = Cancellation()

    def reply(asked: Request) -> Iterator[str]:
        for n in count():
            if n == 5 and asked.prompt.text == "endless":
                cancellation.set("timeout")
            if asked.prompt.text == "endless" or n < 20:
                yield "x"
            else:
                return

    def job() -> Job:
        with pytest.raises(UsageError):  # an error comes where the job asked for it
            yield Step([request("a", logprobs=3)])
        return (yield from one_answer("endless"))

    engine = FakeEngine(reply=reply, capabilities=without(logprobs=False))
    found = outcomes(engine, [with_cancellation(job(), cancellation), one_answer("short")])
    assert [one.result and one.result["reason"] for one in found] == ["timeout", "stop"]


class _SlowCancellation(Cancellation):
    """Lets other threads run between a look at the followers and their change."""

    @property
    def followers(self) -> tuple[Cancellation, ...]:
        found = self._followers
        time.sleep(0.001)
        return found

    @followers.setter
    def followers(self, value: tuple[Cancellation, ...]) -> None:
        self._followers = value


def test_time_limits_of_several_threads_do_not_lose_each_other() -> None:
    shared, limits = _SlowCancellation(), list[TimeLimit]()
    threads = [threading.Thread(target=lambda: limits.append(TimeLimit(shared, 60.0))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    shared.set()
    assert all(one.cancellation.is_set() for one in limits)
    for limit in limits:
        limit.end()
    assert shared.followers == ()
