"""Several servers share a batch: each takes the next line when it has room, and one that fails loses none of them."""

import threading
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from llmcli.engine.events import Cancellation
from llmcli.errors import (
    ContextOverflowError,
    LlmcliError,
    ModelNotFoundError,
    NetworkError,
    NotAllowedError,
    TimeLimitError,
)
from llmcli.inference.endpoint_errors import RefusedError
from llmcli.inference.engine import Engine, UnsupportedError
from llmcli.pipelines.batch import LineFeed
from llmcli.pipelines.batch_input import BatchLine
from llmcli.pipelines.batch_output import WrittenLine
from llmcli.pipelines.job import Job, JobRunner, Outcome, as_failure, with_cancellation
from llmcli.pipelines.line_worker import FailedAnswerError, LineAnswer, LineWorker
from llmcli.text import plural

PATIENCE = 10.0  # seconds without any server, until the batch ends
COPY_SECONDS = 10.0  # after which a server that has nothing else to do answers a line that another one has
_TICK = 0.05  # seconds
_WINDOW = 256  # lines for each server that have begun before the oldest has ended, at most
_FAILURES = 2  # in a row, after which a server is asked whether it is there
_TRIES = 3  # of a line at least, before it is the line that cannot be answered
_ROUNDS = 3  # of such failures without an answer between them: a server that is there, and cannot do it
_MAX_PAUSE = 60.0  # seconds until a server is tried again
_SERVER_ERRORS = (NetworkError, NotAllowedError, ModelNotFoundError)  # say nothing of the line
_OWN_LIMITS = (UnsupportedError, ContextOverflowError, RefusedError)  # those of another server may be wider


@dataclass(frozen=True)
class _Try:
    """A line at a server."""

    begin: float
    cancellation: Cancellation = field(default_factory=Cancellation)  # that ends this one only


@dataclass(eq=False)
class _Ticket:
    """A line on its way."""

    line: BatchLine | WrittenLine
    place: int  # in the order of the input
    answer: LineAnswer | WrittenLine | None = None
    server: "PoolServer | None" = None  # that gave the answer
    running: dict["PoolServer", _Try] = field(default_factory=dict)  # where it is answered
    failures: dict["PoolServer", tuple[float, LlmcliError]] = field(default_factory=dict)  # when, and why
    n_failed: int = 0  # tries


class PoolServer:
    """One of the servers, and what is known of it."""

    def __init__(self, name: str, connect: Callable[[], Engine], make_worker: Callable[[Engine], LineWorker]) -> None:
        """`connect` gives its engine if it answers, the same one each time; it raises LlmcliError, also for one that
        has another model now.
        """
        self.name, self._connect, self._make_worker = name, connect, make_worker
        self.worker: LineWorker | None = None
        self.runner: JobRunner | None = None
        self.n_lines = self._n_earlier_tokens = 0
        self.must_answer = False  # it is asked whether it is there, before it gets more lines
        self.is_down = False
        self.error: LlmcliError | None = None  # the last one
        self.n_failed = self.n_rounds = 0  # since the last answer
        self.answered_at = self.checked_at = 0.0  # its last answer, and its last word

    @property
    def n_tokens(self) -> int:
        return self._n_earlier_tokens + (self.runner.n_tokens if self.runner else 0)

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be hoped for at the moment."""
        return self.is_down or self.n_rounds >= _ROUNDS

    def check(self) -> None:
        """Ask whether it is there. Raises LlmcliError."""
        engine = self._connect()
        self.worker = self.worker or self._make_worker(engine)

    def use(self, runner: JobRunner) -> None:
        self._n_earlier_tokens, self.runner = self.n_tokens, runner


class ServerPool:
    """The backend that is several servers. Each has a thread, and takes lines from one queue."""

    def __init__(
        self,
        servers: Sequence[PoolServer],
        n_parallel: int,
        cancellation: Cancellation,
        patience: float = PATIENCE,
        copy_seconds: float = COPY_SECONDS,
    ) -> None:
        """At most `n_parallel` answers of each server are generated at a time; 0 lets its engine choose.

        `cancellation` ends the batch, which then ends the workers of the servers. A server without a worker is asked
        first whether it is there.
        """
        self.servers, self._n_parallel, self._cancellation = servers, n_parallel, cancellation
        self._patience, self._copy_seconds = patience, copy_seconds
        self._changed = threading.Condition()  # for all below, and the state of servers and tickets
        self._open: deque[_Ticket] = deque()  # in the order of the input, until they are written
        self._ready: deque[_Ticket] = deque()  # those that no server has
        self._inbox: SimpleQueue[tuple[PoolServer, _Ticket, Outcome] | str | BaseException] = SimpleQueue()
        self._is_over = self._is_at_end = False
        self._n_taken, self._is_dry = 0, False  # lines of the input; whether it has none at the moment
        self._lost_since: float | None = None
        self._n_answered, self._seconds, self._begin = 0, 0.0, 0.0  # lines, what they took, and when the batch began
        self._refused: dict[str, None] = {}  # what some server does not support of some lines
        self._feed: LineFeed

    @property
    def seed(self) -> int:
        return next(one.worker.seed for one in self.servers if one.worker)

    @property
    def n_tokens(self) -> int:
        return sum(one.n_tokens for one in self.servers)

    def notes(self) -> list[str]:
        own = [f"{one.name}: {note}" for one in self.servers if one.worker for note in one.worker.notes()]
        return [*own, *self._refused]

    def totals(self) -> list[str]:
        seconds = max(time.monotonic() - self._begin, 1e-3)
        return [
            f"{one.name}: {plural(one.n_lines, 'line')}, {plural(one.n_tokens, 'token')}, "
            f"{one.n_tokens / seconds:.1f} tokens/s"
            for one in self.servers
        ]

    def run(self, feed: LineFeed) -> None:
        """See `Backend`. Raises NetworkError when no server is left."""
        self._feed, self._begin = feed, time.monotonic()
        for one in self.servers:
            one.must_answer = one.worker is None
        threads = [threading.Thread(target=self._serve, args=[one], daemon=True) for one in self.servers]
        for thread in threads:
            thread.start()
        try:
            while not self._cancellation.is_set() and self._take_lines():
                self._take_outcomes()
                with self._changed:
                    self._judge()
                self._write()
                feed.on_event()
        finally:
            with self._changed:
                self._is_over = True
                for ticket in self._open:
                    for running in ticket.running.values():
                        running.cancellation.set()
                self._changed.notify_all()
            for worker in filter(None, [one.worker for one in self.servers]):
                worker.cancellation.set()
            for thread in threads:
                thread.join(2.0)  # what a server still says to a thread goes nowhere

    # In the thread of the batch

    def _take_lines(self) -> bool:
        """Take lines of the input, so that no server waits; returns whether there is something to do."""
        window, ahead = _WINDOW * len(self.servers), 2 * (self._n_parallel or 8) * len(self.servers)
        with self._changed:
            n_new = sum(not one.failures for one in self._ready)
        while not self._is_at_end and len(self._open) < window and n_new < ahead:
            line = self._feed.take(not self._open)
            self._is_dry = line is None
            if line is None:
                self._is_at_end = not self._open
                break
            ticket = _Ticket(line, self._n_taken)
            self._n_taken += 1
            with self._changed:
                self._open.append(ticket)
                if isinstance(line, WrittenLine):
                    ticket.answer = line
                else:
                    self._ready.append(ticket)
                    n_new += 1
                    self._changed.notify()
        return bool(self._open)

    def _take_outcomes(self) -> None:
        """Wait a moment for what the servers did."""
        with suppress(Empty):
            found = self._inbox.get(timeout=0.0 if self._open[0].answer else _TICK)
            while True:
                if isinstance(found, BaseException):
                    raise found
                if isinstance(found, str):
                    self._feed.notify(found)
                else:
                    with self._changed:
                        self._take_outcome(*found)
                found = self._inbox.get_nowait()

    def _take_outcome(self, server: PoolServer, ticket: _Ticket, outcome: Outcome) -> None:
        now = time.monotonic()
        running = ticket.running.pop(server, None)
        failed = outcome.error if isinstance(outcome.error, FailedAnswerError) else None
        error = failed.cause if failed else outcome.error
        is_silent = isinstance(error, TimeLimitError) and not (failed and failed.result)
        if is_silent and running and running.cancellation.is_set():  # it has not begun, and another server was faster
            server.must_answer = True
            return
        is_failure = isinstance(error, _SERVER_ERRORS) or is_silent
        if is_failure:
            assert error
            server.error = server.error if server.is_down else error
            server.n_failed += 1
            server.must_answer |= server.n_failed >= _FAILURES
        elif error is None:
            server.n_failed = server.n_rounds = 0
            server.answered_at = now
            self._n_answered += 1
            self._seconds += now - running.begin if running else 0.0
        if ticket.answer:  # another server was faster
            return
        if error is not None and self._can_help(ticket, server, error, is_failure):
            assert outcome.error
            ticket.failures[server], ticket.n_failed = (now, outcome.error), ticket.n_failed + 1
            if not ticket.running:
                # The first line that is not answered comes first: all after it wait to be written.
                self._ready.insert(bisect(self._ready, ticket.place, key=lambda one: one.place), ticket)
                self._changed.notify_all()
            return
        self._end(ticket, server, outcome)

    def _can_help(self, ticket: _Ticket, server: PoolServer, error: LlmcliError, is_failure: bool) -> bool:
        """Whether another server may answer a line: one that did not try it, where the server or its settings fail."""
        others = [one for one in self.servers if one is not server and one not in ticket.failures and not one.is_lost]
        if isinstance(error, UnsupportedError) and others:
            self._refused |= {f"{server.name}: some lines went to other servers: {error}": None}
        return is_failure or (bool(others) and isinstance(error, _OWN_LIMITS))

    def _end(self, ticket: _Ticket, server: PoolServer, outcome: Outcome) -> None:
        assert server.worker
        assert isinstance(ticket.line, BatchLine)
        ticket.answer, ticket.server = server.worker.answer(ticket.line, self._feed.format, outcome), server
        for other in ticket.running.values():  # or one that never ends would keep its server from further lines
            other.cancellation.set("timeout")

    def _judge(self) -> None:
        """Decide what no server can: lines that failed everywhere, and a batch whose servers are gone."""
        now, alive = time.monotonic(), [one for one in self.servers if not one.is_down]
        if not all(one.is_lost for one in self.servers):
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since > self._patience:
            raise self._gone()
        if not self._ready or not alive:
            return
        doubtful = [one for one in self._ready if all(server in one.failures for server in alive)]
        is_idle = len(doubtful) == len(self._ready) and not any(one.running and not one.answer for one in self._open)
        is_last = is_idle and self._is_dry and len(doubtful) <= self._n_answered
        for ticket in doubtful:
            failed = {server: ticket.failures[server][0] for server in alive}
            is_fit = any(server.answered_at > when for server, when in failed.items())
            if is_fit or (is_last and all(one.checked_at > when for one, when in failed.items())):
                # The servers answer other lines, or would if there were any: it is the line that they cannot answer.
                if ticket.n_failed < _TRIES:
                    ticket.failures.clear()
                    continue
                self._ready.remove(ticket)
                server = max(failed, key=lambda one: failed[one])
                self._end(ticket, server, Outcome(0, error=ticket.failures[server][1]))
            elif is_idle:
                for server, when in failed.items():
                    if server.checked_at <= when:
                        server.must_answer = True
                    elif not is_last:  # else all that are there try it again, once it is known which these are
                        del ticket.failures[server]
                self._changed.notify_all()

    def _gone(self) -> NetworkError:
        reasons = "; ".join(str(one.error) for one in self.servers if one.error)
        is_short = all(isinstance(one.error, TimeLimitError) for one in self.servers)
        hint = "raise --timeout" if is_short else "start one; with --output, --resume goes on"
        return NetworkError(f"no server answers any more: {reasons}", hint)

    def _write(self) -> None:
        while self._open and (answer := self._open[0].answer):
            with self._changed:
                ticket = self._open.popleft()
            self._feed.emit(answer)
            if ticket.server:
                ticket.server.n_lines += 1

    # In the threads of the servers

    def _serve(self, server: PoolServer) -> None:
        try:
            while not self._has_ended():
                if server.must_answer or server.worker is None:
                    self._check(server)
                    continue
                runner = JobRunner(
                    server.worker.engine,
                    partial(self._next_job, server),
                    self._n_parallel,
                    server.worker.cancellation,
                )
                server.use(runner)
                try:
                    runner.run(lambda _outcome: None)
                except LlmcliError as error:  # of all its answers
                    with self._changed:
                        for ticket in [one for one in self._open if server in one.running]:
                            self._inbox.put((server, ticket, Outcome(0, error=error)))
        except BaseException as error:
            if not (isinstance(error, KeyboardInterrupt) and self._has_ended()):
                self._inbox.put(error)

    def _has_ended(self) -> bool:
        return self._is_over or self._cancellation.is_set()

    def _check(self, server: PoolServer) -> None:
        """Ask a server whether it is there, and wait before it gets lines again, or is asked again."""
        try:
            server.check()
            error = None
        except LlmcliError as found:
            error = found
        with self._changed:
            was_down, server.is_down = server.is_down, error is not None
            server.n_rounds = 1 if was_down and error is None else server.n_rounds + 1
            if error is None:
                server.checked_at, server.n_failed = time.monotonic(), 0
                pause = min(2.0 ** (server.n_rounds - 2), _MAX_PAUSE) if server.n_rounds > 1 else 0.0
            else:
                server.error = error
                pause = min(2.0 ** (server.n_rounds - 1), _MAX_PAUSE)
                for ticket in self._open:
                    ticket.failures.pop(server, None)  # it may answer them when it is back
            reason = error or (server.error if server.n_rounds == _ROUNDS else None)  # it is there, and answers no line
            if was_down and not error:
                self._inbox.put(f"{server.name} answers again")
            elif reason and not was_down:
                others = any(not one.is_lost for one in self.servers)
                end = "the other servers get its lines" if others else "no other server answers"
                self._inbox.put(f"{reason}; {end}")
            self._changed.wait_for(self._has_ended, pause)
            server.must_answer = error is not None

    def _next_job(self, server: PoolServer, is_idle: bool) -> Job | None:
        with self._changed:
            while not self._has_ended() and not server.must_answer:
                if ticket := self._choose(server):
                    ticket.running[server] = own = _Try(time.monotonic())
                    return self._job(server, ticket, own.cancellation)
                if not is_idle:
                    return None
                self._changed.wait(2 * _TICK)
        return None

    def _choose(self, server: PoolServer) -> _Ticket | None:
        """The next line that it did not try; without one, the first that another server has for too long."""
        for ticket in self._ready:
            if server not in ticket.failures:
                self._ready.remove(ticket)
                return ticket
        if self._ready:
            return None
        mean = self._seconds / self._n_answered if self._n_answered else 0.0
        latest = time.monotonic() - max(self._copy_seconds, 2 * mean)
        for ticket in self._open:
            begins = [one.begin for one in ticket.running.values()]
            if begins and max(begins) < latest and not {server} & {*ticket.running, *ticket.failures}:
                return ticket
        return None

    def _job(self, server: PoolServer, ticket: _Ticket, cancellation: Cancellation) -> Job:
        """The job of a line; whatever becomes of it, the thread of the batch is told."""
        assert server.worker
        assert isinstance(ticket.line, BatchLine)
        try:
            job = with_cancellation(server.worker.job(ticket.line, self._feed.format), cancellation)
            outcome = Outcome(0, result=(yield from job))
        except Exception as error:
            outcome = Outcome(0, error=as_failure(error))
        self._inbox.put((server, ticket, outcome))
        return {}
