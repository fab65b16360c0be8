"""A batch: each line of an input is answered, and is a line of the output, in the order of the input."""

from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, UsageError
from llmcli.pipelines.batch_input import BatchLine, BatchReader, Format, IdTable, LineSource
from llmcli.pipelines.batch_output import BatchOutput, WrittenLine
from llmcli.pipelines.job import Job, JobRunner, Outcome
from llmcli.pipelines.line_worker import BatchOptions, LineAnswer, LineWorker


@dataclass
class BatchCounts:
    """The lines so far. Those of earlier runs count as failed or answered, and as `earlier` too."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by the type of the error
    earlier: int = 0
    seconds: float = 0.0
    first_error: LlmcliError | None = None

    @property
    def done(self) -> int:
        return self.answered + self.failed.total()


class LineFeed(Protocol):
    """The lines that are to be answered, and where their answers go."""

    @property
    def format(self) -> Format | None: ...  # of the input; known from the first line on

    def take(self, may_wait: bool) -> BatchLine | WrittenLine | None:
        """The next line, or one of an earlier run that is written again in its place.

        With `may_wait`, None is the end; else it says only that there is none at the moment. Raises LlmcliError for an
        input that cannot be read, and for an output that is not that of this input.
        """

    def emit(self, answer: LineAnswer | WrittenLine) -> None:
        """Write the next line, in the order of `take`. Raises DiskError or OutputClosedError."""

    def on_event(self) -> None:
        """Called from time to time, to show how far it is."""

    def notify(self, text: str) -> None:
        """Called with what the user should know at once."""


class Backend(Protocol):
    """Where the lines of a batch are answered."""

    @property
    def seed(self) -> int: ...  # of the first line

    @property
    def n_tokens(self) -> int: ...  # generated so far

    def run(self, feed: LineFeed) -> None:
        """Answer all lines, or those up to a cancellation. Raises what ends the batch."""

    def notes(self) -> list[str]:
        """What the user should know of the lines: settings that were left out, and models that did not answer."""

    def totals(self) -> list[str]:
        """What each of several servers did, in words."""


class OneEngine:
    """The backend that is one engine, in this thread."""

    def __init__(self, worker: LineWorker, n_parallel: int, cancellation: Cancellation) -> None:
        self.worker, self._n_parallel, self._cancellation = worker, n_parallel, cancellation
        self._runner: JobRunner | None = None

    @property
    def seed(self) -> int:
        return self.worker.seed

    @property
    def n_tokens(self) -> int:
        return self._runner.n_tokens if self._runner else 0

    def run(self, feed: LineFeed) -> None:
        pending: deque[BatchLine | WrittenLine] = deque()  # jobs without an outcome

        def next_job(may_wait: bool) -> Job | None:
            line = feed.take(may_wait)
            if line is None:
                return None
            pending.append(line)
            return _ended_job() if isinstance(line, WrittenLine) else self.worker.job(line, feed.format)

        def end(outcome: Outcome) -> None:
            line = pending.popleft()
            feed.emit(line if isinstance(line, WrittenLine) else self.worker.answer(line, feed.format, outcome))

        runner = JobRunner(self.worker.engine, next_job, self._n_parallel, self._cancellation, feed.on_event)
        self._runner = runner
        runner.run(end)

    def notes(self) -> list[str]:
        return self.worker.notes()

    def totals(self) -> list[str]:
        return []


class Batch:
    """The lines of one input, and what was written for them."""

    def __init__(
        self,
        backend: Backend,
        source: LineSource,
        reader: BatchReader,
        output: BatchOutput,
        options: BatchOptions,
        cancellation: Cancellation,
        on_event: Callable[["Batch"], None] = lambda _batch: None,
        notify: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`on_event` is called after each token, or from time to time; `notify` with what the user should know."""
        self.backend, self._options, self._cancellation = backend, options, cancellation
        self._source, self._reader, self._output = source, reader, output
        self._earlier: Generator[WrittenLine, None, None] | None = output.earlier()
        self._ids = IdTable()
        self._n_read = 0  # lines of the input, of all shards
        self._on_event, self._notify = on_event, notify
        self.counts = BatchCounts()

    @property
    def n_tokens(self) -> int:
        """Tokens that were generated."""
        return self.backend.n_tokens

    @property
    def format(self) -> Format | None:
        return self._reader.format

    def run(self) -> None:
        """Answer all lines, or those up to a cancellation. Raises what ends the batch: an error of input or output."""
        begin = perf_counter()
        try:
            self.backend.run(self)
        except KeyboardInterrupt:
            if not self._cancellation.is_set():
                raise
        finally:
            if self._earlier:
                self._earlier.close()  # Windows does not replace an open file
            self.counts.seconds = perf_counter() - begin

    def take(self, may_wait: bool) -> BatchLine | WrittenLine | None:
        while line := self._source.take(may_wait):
            self._n_read += 1
            line = self._checked(line)
            part, parts = self._options.shard
            if (self._n_read - part) % parts:
                continue
            written = self._written(line)
            if written and not (written.is_failed and self._options.retries_failed):
                self._count_earlier(written)
                if not self._output.is_rewritten:
                    continue
                return written
            return line
        if may_wait and not self._cancellation.is_set() and self._earlier and next(self._earlier, None):
            raise _foreign_output("the output has more lines than the input")
        return None

    def _checked(self, line: BatchLine) -> BatchLine:
        """The line, as one with an error if its id is not its own. Without an id, its number is one."""
        if line.own_id is None and (line.error or self._reader.format == "text"):  # a text has numbers only
            return line
        earlier = self._ids.add(line.id, line.number)
        if earlier is None or line.error:
            return line
        return replace(line, error=UsageError(f"line {earlier} has the same id", "give each line an id of its own"))

    def _written(self, line: BatchLine) -> WrittenLine | None:
        """The line of an earlier run for this line. Raises UsageError if that run had another input."""
        if not self._earlier:
            return None
        written = next(self._earlier, None)
        if written is None:
            self._earlier = None
        elif written.id != line.id:
            raise _foreign_output(f"it has {written.id!r} where line {line.number} of the input has {line.id!r}")
        return written

    def emit(self, answer: LineAnswer | WrittenLine) -> None:
        self._output.write(answer.data)
        if isinstance(answer, WrittenLine):
            return
        if answer.error:
            self.counts.failed[answer.error.kind] += 1
            self.counts.first_error = self.counts.first_error or answer.error
        else:
            self.counts.answered += 1

    def on_event(self) -> None:
        self._on_event(self)

    def notify(self, text: str) -> None:
        self._notify(text)

    def _count_earlier(self, written: WrittenLine) -> None:
        self.counts.earlier += 1
        if written.is_failed:
            self.counts.failed["earlier"] += 1
        else:
            self.counts.answered += 1


def _ended_job() -> Job:
    yield from ()
    return {}


def _foreign_output(reason: str) -> UsageError:
    hint = "resume with the same input, --shard and --format, or choose another file"
    return UsageError(f"the output is not that of this input: {reason}", hint)
