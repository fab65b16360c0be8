"""A worker answers lines of a batch on one engine: the job of each line, and its line of the output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import ConstraintError, LlmcliError, NetworkError, TimeLimitError, UsageError
from llmcli.files import encode
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data, decision_data
from llmcli.inference.constraints import CONSTRAINT_KEYS, read_constraint
from llmcli.inference.decision import DecisionRequest, read_choice_set
from llmcli.inference.engine import Engine, dropped_settings
from llmcli.inference.request import build_prompt, template_options, with_plain_stop
from llmcli.params.decision import DECISION_KEYS
from llmcli.params.result import BEST_RULES
from llmcli.params.sampler_chain import is_random
from llmcli.params.settings import Layer, Settings
from llmcli.pipelines.batch_input import BatchLine, Format
from llmcli.pipelines.batch_line import LineParser, LineRequest
from llmcli.pipelines.job import Job, Outcome, Result, Step, TimeLimit
from llmcli.pipelines.openai_batch import output_line
from llmcli.pipelines.samples import Judge, result_job
from llmcli.pipelines.tasks import Task, task_job
from llmcli.text import escape_json

_DECISION_SETTINGS = (*DECISION_KEYS, "choice_prior", "raw")
_MOST_KEPT = 64  # constraints that are kept, when lines have their own
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What the command line says of a batch."""

    template: str | None = None  # of the prompts, with places such as {{word}}
    task: Task | None = None
    variables: Mapping[str, str] = field(default_factory=dict)  # of the task, for all lines
    judge: Task | None = None  # that the setting `best` names
    retries: int = 0  # new tries of a line that may succeed with another seed
    retries_failed: bool = False  # answer those lines again that failed in an earlier run
    shard: tuple[int, int] = (1, 1)  # this part, from 1, of so many
    is_full: bool = False  # all fields of `generate --json`
    n_parallel: int = 0  # 0 = measured


class FailedAnswerError(LlmcliError):
    """Why an answer is not what was asked for; `result` is what there is of it."""

    def __init__(self, cause: LlmcliError, result: Result) -> None:
        super().__init__(str(cause), cause.hint)
        self.cause, self.result = cause, result


@dataclass(frozen=True)
class LineAnswer:
    """The line of the output for a line of the input, and the error that is in it."""

    data: bytes
    error: LlmcliError | None = None


class LineWorker:
    """Answers lines on one engine."""

    def __init__(
        self, engine: Engine, layers: Sequence[Layer], options: BatchOptions, cancellation: Cancellation
    ) -> None:
        """`layers` are the settings that all lines share, lowest first."""
        self.engine, self._options, self.cancellation = engine, options, cancellation
        self.parser = LineParser(engine, layers, options.template, options.task, options.variables)
        self._constraints = _OfSettings(read_constraint, CONSTRAINT_KEYS)
        self._choice_sets = _OfSettings(read_choice_set, (*_DECISION_SETTINGS, *CONSTRAINT_KEYS))
        self._dropped: dict[str, None] = {}  # settings of lines that the engine does not have

    @property
    def seed(self) -> int:
        """That of the first line."""
        return self.parser.common.settings.seed or 0

    def job(self, line: BatchLine, form: Format | None) -> Job:
        """Answer a line, and answer it again with other seeds where that may help."""
        if line.error:
            raise line.error
        for attempt in range(self._options.retries + 1):
            asked = self.parser.parse(line, form, attempt)
            try:
                return (yield from self._answer(asked))
            except LlmcliError as error:
                cause = error.cause if isinstance(error, FailedAnswerError) else error
                if attempt == self._options.retries or not _may_pass(cause, asked.settings):
                    raise
        raise AssertionError

    def _answer(self, asked: LineRequest) -> Job:
        if asked.settings.is_decision:
            with self._time_limit(asked.settings) as cancellation:
                if self.parser.task:
                    return (yield from self._do_task(self.parser.task, asked, cancellation))
                return self._decide(asked, cancellation)
        if asked.settings.samples > 1 and asked.settings.best is None:
            raise UsageError("samples needs best in a batch: a line has one answer", "choose it with best: vote")
        judge = self._judge(asked)
        return (yield from result_job(asked.settings, lambda own: self._generate(replace(asked, settings=own)), judge))

    def _judge(self, asked: LineRequest) -> Judge | None:
        """The judge of the samples of a line. Raises UsageError for one that the command does not name."""
        best, task = asked.settings.best, self._options.judge
        if asked.settings.samples == 1 or best in (None, *BEST_RULES):
            return None
        if task is None or best != self.parser.common.settings.best:
            raise UsageError(f"best of a line must be logprob or vote, got {str(best)[:60]!r}", "give a task as a flag")
        if not isinstance(asked.question, str):
            raise UsageError("a task cannot judge the answers to messages", "use prompt")
        return Judge(self.engine, task, asked.question, self.cancellation)

    def _generate(self, asked: LineRequest) -> Job:
        """One answer to a line."""
        if self.parser.task:
            return (yield from self._do_task(self.parser.task, asked, self.cancellation))
        self._dropped |= dict.fromkeys(dropped_settings(self.engine, asked.settings))
        settings = with_plain_stop(asked.settings, template_options(self.engine, asked.settings).source)
        constraint = self._constraints(settings)
        prompt = build_prompt(self.engine, settings, asked.question, asked.system, self.cancellation)
        (answer,) = yield Step([Request(prompt, settings, constraint)])
        error = _failure(answer)
        data = {} if error and not answer.record.tokens else answer_data(answer, self._options.is_full)
        if error:
            raise FailedAnswerError(error, data)
        return data

    def _do_task(self, task: Task, asked: LineRequest, cancellation: Cancellation) -> Job:
        settings, choice_set = asked.settings, self._choice_sets(asked.settings) if asked.settings.is_decision else None
        posed = self.engine, settings, task, asked.variables, cancellation, self._options.is_full, choice_set
        data = yield from task_job(*posed)
        if data["finish_reason"] == "timeout":
            raise FailedAnswerError(_timeout(asked.settings), data)
        return data

    @contextmanager
    def _time_limit(self, settings: Settings) -> Iterator[Cancellation]:
        """What ends a decision: it has no step of answers whose time is watched."""
        if not settings.timeout:
            yield self.cancellation
            return
        limit = TimeLimit(self.cancellation, settings.timeout)
        try:
            yield limit.cancellation
        except TimeLimitError:
            raise _timeout(settings) from None
        finally:
            limit.end()

    def _decide(self, asked: LineRequest, cancellation: Cancellation) -> Result:
        """Score the choices of a line; that takes less time than a step of answers."""
        choice_set = self._choice_sets(asked.settings)
        if choice_set is None or not isinstance(asked.question, str):
            raise UsageError("a decision and messages cannot be used together", "use prompt")
        posed = self.engine, asked.settings, choice_set, asked.question, asked.system, cancellation
        return decision_data(self.engine, DecisionRequest(*posed).decide(), self._options.is_full)

    def answer(self, line: BatchLine, form: Format | None, outcome: Outcome) -> LineAnswer:
        """What is written for a line whose job has ended."""
        error, data = outcome.error, outcome.result or {}
        if isinstance(error, FailedAnswerError):
            data, error = error.result, error.cause
        if form == "openai":
            made = output_line(line.values, line.number, data, error)
        else:
            made = {"id": line.id, **({"error": error.data()} if error else {}), **data}
        return LineAnswer(escape_json(encode(made).decode()).encode(), error)

    def notes(self) -> list[str]:
        """What the user should know of the lines: settings that were left out, and models that did not answer."""
        name, common = self.engine.name, dropped_settings(self.engine, self.parser.common.settings)
        own = [one for one in self._dropped if one not in common]
        notes = [f"some lines: {', '.join(own)} is left out: {name} does not support it"] if own else []
        if self.parser.other_models:
            notes.append(f"the lines ask for {', '.join(sorted(self.parser.other_models))}: {name} answered them")
        return notes


class _OfSettings(Generic[_Made]):
    """What is made of some of the settings, kept for the next lines with the same values of them."""

    def __init__(self, make: Callable[[Settings], _Made], keys: Sequence[str]) -> None:
        self._make, self._keys = make, keys
        self._kept: dict[tuple[object, ...], _Made] = {}

    def __call__(self, settings: Settings) -> _Made:
        key = tuple(getattr(settings, name) for name in self._keys)
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = self._make(settings)
        return self._kept[key]


def _failure(answer: Answer) -> LlmcliError | None:
    """Why an ended answer is not what was asked for."""
    if answer.record.failure:
        return answer.record.failure
    if answer.finish_reason == "timeout":
        return _timeout(answer.settings)
    return answer.constraint_failure()


def _timeout(settings: Settings) -> TimeLimitError:
    return TimeLimitError(f"stopped by timeout after {settings.timeout:g} s", "raise --timeout")


def _may_pass(error: LlmcliError, settings: Settings) -> bool:
    """Whether a new try with another seed may succeed: a constraint is not met, or the engine fails."""
    if isinstance(error, ConstraintError):
        return is_random(settings)
    return type(error) in (LlmcliError, NetworkError)
