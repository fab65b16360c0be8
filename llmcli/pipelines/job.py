"""A job is what one input asks of the engine: steps of answers that are generated side by side, and a result."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from llmcli.engine.events import Request, TokenEvent
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer
from llmcli.inference.engine import Engine, check_request

_FEW = 8  # answers of one job that all run at a time
_WINDOW = 256  # jobs that have begun before the oldest has ended, at most; their results wait for it in memory


@dataclass(frozen=True)
class Step:
    """Requests that do not depend on each other."""

    requests: Sequence[Request]
    label: str = ""  # what it does, for a progress line: "part 3 of 7"
    is_last: bool = True  # its only answer is the text of the result, and can be shown while it is generated


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


class JobRunner:
    """Runs jobs side by side in one engine."""

    def __init__(self, engine: Engine, jobs: JobSource, n_parallel: int = 0) -> None:
        """At most `n_parallel` answers are generated at a time; 0 lets the engine choose."""
        self._engine, self._jobs, self._n_parallel = engine, jobs, n_parallel
        self._is_ended = False  # no more jobs come
        self._n_begun = self._n_yielded = 0
        self._waiting: deque[tuple[_Running, Answer]] = deque()  # answers that are not asked for yet
        self._asked: dict[int, tuple[_Running, Answer]] = {}  # answers that have not ended, by the index of the request
        self._n_asked = 0
        self._outcomes: dict[int, Outcome] = {}  # of ended jobs, while an earlier one has not ended
        self.n_tokens = 0  # generated so far

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes in the order of the jobs, each as soon as those before it are there."""
        while not self._is_ended:
            self._n_asked = 0
            with closing(self._engine.generate_batch(self._next_request, self._n_parallel)) as events:
                for event in events:
                    self._push(event)
                    yield from self._ready()
            yield from self._ready()

    def _push(self, event: TokenEvent) -> None:
        running, answer = self._asked[event.index]
        deque(answer.push(event), maxlen=0)
        self.n_tokens += event.id is not None
        if event.finish_reason:
            del self._asked[event.index]
            running.n_open -= 1
            if not running.n_open:
                self._advance(running, running.answers)

    def _ready(self) -> Iterator[Outcome]:
        while self._n_yielded in self._outcomes:
            self._n_yielded += 1
            yield self._outcomes.pop(self._n_yielded - 1)

    def _next_request(self, is_idle: bool) -> Request | None:
        """The next request of any job. Jobs that end without one, such as with an error, are passed over."""
        while not self._waiting:
            is_ready = self._n_yielded in self._outcomes
            if (is_idle and is_ready) or self._n_begun - self._n_yielded >= _WINDOW:
                return None
            job = None if self._is_ended else self._jobs(is_idle)
            if job is None:
                self._is_ended |= is_idle
                return None
            self._n_begun += 1
            self._advance(_Running(self._n_begun - 1, job), None)
        self._asked[self._n_asked] = asked = self._waiting.popleft()
        self._n_asked += 1
        return asked[1].request

    def _advance(self, running: _Running, answers: Sequence[Answer] | None) -> None:
        """Begin the next step of a job, or note its outcome."""
        try:
            step = next(running.job) if answers is None else running.job.send(answers)
            for request in step.requests:
                check_request(self._engine, request)
        except StopIteration as end:
            self._outcomes[running.index] = Outcome(running.index, result=end.value)
        except LlmcliError as error:
            self._outcomes[running.index] = Outcome(running.index, error=error)
        else:
            running.answers = [Answer(self._engine, request) for request in step.requests]
            running.n_open = len(running.answers)
            self._waiting.extend((running, answer) for answer in running.answers)


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
    try:
        step = next(job)
        while True:
            answers = [Answer(engine, request) for request in step.requests]
            if step.is_last and len(answers) == 1:
                show(step, answers[0])
            else:
                _generate_all(engine, answers, partial(progress, step))
            step = job.send(answers)
    except StopIteration as end:
        result: Result = end.value
        return result


def _generate_all(engine: Engine, answers: Sequence[Answer], progress: Callable[[int], None]) -> None:
    requests, n_ended = iter([answer.request for answer in answers]), 0
    # A few answers need no context for the most that could run.
    n_parallel = len(answers) if len(answers) <= _FEW else 0
    with closing(engine.generate_batch(lambda _is_idle: next(requests, None), n_parallel)) as events:
        for event in events:
            deque(answers[event.index].push(event), maxlen=0)
            n_ended += event.finish_reason is not None
            progress(n_ended)
