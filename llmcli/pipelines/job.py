"""A job is what one input asks of the engine: steps of answers that are generated side by side, and a result."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from threading import TIMEOUT_MAX, Lock, Timer

from llmcli.engine.events import Cancellation, Request, TokenEvent
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer
from llmcli.inference.engine import Engine, check_request

STOPPED = ("interrupt", "timeout")  # reasons of an answer that the user ended

_FEW = 8  # answers of one job that all run at a time
_WINDOW = 256  # jobs that have begun before the oldest has ended, at most; their results wait for it in memory


@dataclass(frozen=True)
class Step:
    """Requests that do not depend on each other."""

    requests: Sequence[Request]
    label: str = ""  # what it does, for a progress line: "part 3 of 7"
    is_last: bool = True  # its only answer is the text of the result, and can be shown while it is generated
    cancellation: Cancellation | None = None  # that ends its answers, in place of that of all jobs


Result = dict[str, object]  # JSON data
# Yields a step and gets its ended answers in the order of the requests, until it returns its result. A request that
# failed is an answer with `record.failure`. Whatever LlmcliError it raises is its result.
Job = Generator[Step, Sequence[Answer], Result]
# Called for the next job, with True if nothing else is running: it may wait then, and None ends the batch. Otherwise
# None says only that there is none at the moment.
JobSource = Callable[[bool], Job | None]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or the error that ended it."""

    index: int  # of the job, from 0
    result: Result | None = None
    error: LlmcliError | None = None


@dataclass(eq=False)
class _Running:
    """A job with the answers of its present step, those that were asked first."""

    index: int
    job: Job
    answers: list[Answer] = field(default_factory=list)
    n_open: int = 0  # answers that have not ended
    cancellation: Cancellation | None = None  # of the step


class JobRunner:
    """Runs jobs side by side in one engine."""

    def __init__(
        self,
        engine: Engine,
        jobs: JobSource,
        n_parallel: int = 0,
        cancellation: Cancellation | None = None,
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        """At most `n_parallel` answers are generated at a time; 0 lets the engine choose.

        `cancellation` ends all answers; each also ends at its own `timeout`. `on_event` is called after each event.
        """
        self._engine, self._jobs, self._n_parallel = engine, jobs, n_parallel
        self._cancellation, self._on_event = cancellation or Cancellation(), on_event
        self._emit: Callable[[Outcome], None] = lambda _outcome: None
        self._is_ended = False  # no more jobs come
        self._n_begun = self._n_emitted = 0
        self._waiting: deque[tuple[_Running, Answer]] = deque()  # answers that are not asked for yet
        self._asked: dict[int, tuple[_Running, Answer, TimeLimit | None]] = {}  # not ended, by index of the request
        self._n_asked = 0
        self._outcomes: dict[int, Outcome] = {}  # of ended jobs, while an earlier one has not ended
        self.n_tokens = 0  # generated so far

    def run(self, emit: Callable[[Outcome], None]) -> None:
        """Run all jobs. `emit` gets the outcomes in the order of the jobs, each once those before it are there.

        Raises the error of an engine whose process has ended: those that it has not answered have no outcome.
        After a cancellation it returns at once; jobs that have not ended by then have no outcome.
        """
        self._emit = emit
        try:
            with closing(self._engine.generate_batch(self._next_request, self._n_parallel)) as events:
                for event in events:
                    if event.finish_reason == "interrupt":
                        return
                    self._push(event)
                    self._on_event()
        finally:
            for _, _, limit in self._asked.values():
                if limit:
                    limit.end()

    def _push(self, event: TokenEvent) -> None:
        running, answer, limit = self._asked[event.index]
        deque(answer.push(event), maxlen=0)
        self.n_tokens += event.id is not None
        if not event.finish_reason:
            return
        if limit:
            limit.end()
        del self._asked[event.index]
        if event.finish_reason == "error":
            self._check_engine(answer.record.failure)
        if answer.try_again():
            self._waiting.appendleft((running, answer))
            return
        running.n_open -= 1
        if not running.n_open:
            self._advance(running, running.answers)

    def _next_request(self, is_idle: bool) -> Request | None:
        """The next request of any job. Jobs that end without one, such as with an error, are passed over."""
        while not self._waiting:
            is_full = self._n_begun - self._n_emitted >= _WINDOW
            job = None if is_full or self._is_ended else self._jobs(is_idle)
            if job is None:
                self._is_ended |= is_idle
                return None
            self._n_begun += 1
            self._advance(_Running(self._n_begun - 1, job), None)
        running, answer = self._waiting.popleft()
        seconds, cancellation = answer.settings.timeout, running.cancellation or self._cancellation
        limit = TimeLimit(cancellation, seconds) if seconds else None
        answer.request.cancellation = limit.cancellation if limit else cancellation
        self._asked[self._n_asked] = running, answer, limit
        self._n_asked += 1
        return answer.request

    def _advance(self, running: _Running, answers: Sequence[Answer] | None) -> None:
        """Begin the next step of a job, or emit its outcome."""
        try:
            step = _next_step(self._engine, running.job, answers)
        except StopIteration as end:
            self._end(Outcome(running.index, result=end.value))
        except LlmcliError as error:
            self._check_engine(error)
            self._end(Outcome(running.index, error=error))
        except Exception as error:
            self._end(Outcome(running.index, error=as_failure(error)))
        else:
            running.answers = [Answer(self._engine, request) for request in step.requests]
            running.n_open, running.cancellation = len(running.answers), step.cancellation
            self._waiting.extend((running, answer) for answer in running.answers)

    def _check_engine(self, error: LlmcliError | None) -> None:
        """Raise the error if the process of the engine has ended: every later job would have it too."""
        if error and self._engine.has_ended:
            error.hint = "try again; for a batch with --output, add --resume"
            raise error

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.index] = outcome
        while self._n_emitted in self._outcomes:
            self._n_emitted += 1
            self._emit(self._outcomes.pop(self._n_emitted - 1))
        self._on_event()


class TimeLimit:
    """The cancellation of one answer, which is set after so many seconds, and with that of all."""

    _lock = Lock()  # servers of a pool, each in a thread of its own, share the cancellation of all

    def __init__(self, shared: Cancellation, seconds: float) -> None:
        self.cancellation = Cancellation()
        self._shared = shared
        with self._lock:
            shared.followers = (*shared.followers, self.cancellation)
        if shared.is_set():  # before it was followed
            self.cancellation.set(shared.reason)
        self._timer = Timer(min(seconds, TIMEOUT_MAX), self.cancellation.set, ["timeout"])
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._shared.followers = tuple(one for one in self._shared.followers if one is not self.cancellation)


def _next_step(engine: Engine, job: Job, answers: Sequence[Answer] | None) -> Step:
    """The next step of a job that has requests. Raises StopIteration with its result, or what the job raises."""
    step = next(job) if answers is None else job.send(answers)
    while True:
        try:
            for request in step.requests:
                check_request(engine, request)
        except LlmcliError as error:
            step = job.throw(error)  # where the job asked for it
            continue
        if step.requests:
            return step
        step = job.send(())


def with_cancellation(job: Job, cancellation: Cancellation) -> Job:
    """A job whose answers end with a cancellation of their own, which their runner does not set."""
    proceed: Callable[[], Step] = partial(next, job)
    while True:
        try:
            step = proceed()
        except StopIteration as end:
            result: Result = end.value
            return result
        try:
            answers = yield replace(step, cancellation=cancellation)
            proceed = partial(job.send, answers)
        except LlmcliError as error:
            proceed = partial(job.throw, error)


def as_failure(error: Exception) -> LlmcliError:
    """What ended a job, as an outcome: a fault of the program must not end what runs beside it."""
    if isinstance(error, LlmcliError):
        return error
    return LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it")


def run_job(
    engine: Engine,
    job: Job,
    show: Callable[[Step, Answer], None],
    progress: Callable[[Step, int], None] = lambda _step, _n_ended: None,
) -> Result:
    """Run one job to its end. `show` generates the answer of a last step that has one, and shows it as it comes.

    `progress` gets the other steps, with the number of their answers that have ended. Raises the LlmcliError that ends
    the job.
    """
    answers: Sequence[Answer] | None = None
    while True:
        try:
            step = _next_step(engine, job, answers)
        except StopIteration as end:
            result: Result = end.value
            return result
        answers = [Answer(engine, request) for request in step.requests]
        if step.is_last and len(answers) == 1:
            show(step, answers[0])
        else:
            _generate_all(engine, answers, partial(progress, step))


def _generate_all(engine: Engine, answers: Sequence[Answer], progress: Callable[[int], None]) -> None:
    waiting, asked, n_ended = deque(answers), list[Answer](), 0

    def next_request(_is_idle: bool) -> Request | None:
        if not waiting:
            return None
        asked.append(waiting.popleft())
        return asked[-1].request

    # A few answers need no context for the most that could run.
    n_parallel = len(answers) if len(answers) <= _FEW else 0
    with closing(engine.generate_batch(next_request, n_parallel)) as events:
        for event in events:
            answer = asked[event.index]
            deque(answer.push(event), maxlen=0)
            if event.finish_reason and answer.try_again():
                waiting.append(answer)
            else:
                n_ended += event.finish_reason is not None
            progress(n_ended)
