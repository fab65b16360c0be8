"""The thread in which a model computes: answers side by side, and other work between two of their steps."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TypeVar

from llmcli.engine.events import Cancellation, FinishReason, Request, TokenEvent, TokenTrace, now_ms
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer, Part
from llmcli.inference.engine import Engine
from llmcli.server.errors import BusyError
from llmcli.server.metrics import Metrics

_T = TypeVar("_T")
_LAST_STEP = 5.0  # seconds, at the end
_MOST_AT_A_TIME = 32  # answers, where the engine chooses how many


@dataclass(frozen=True)
class PromptProgress:
    """How much of a prompt is read: tokens in all, those that were known before, those by now, and the time."""

    total: int
    cache: int
    processed: int
    time_ms: float


@dataclass(frozen=True)
class Update:
    """What has been added to an answer; the last update has `is_last`, and may have the error that ended it."""

    index: int  # of the answer in its group
    parts: Sequence[Part]
    n_tokens: int = 0  # of the answer so far
    traces: Sequence[TokenTrace] = ()  # of tokens that became certain, if the request asks for a trace
    is_last: bool = False
    error: LlmcliError | None = None
    progress: PromptProgress | None = None  # before the first token, if the group has asked for it


class RunningAnswer:
    """An answer of an `AnswerGroup`, while the thread of the model generates it."""

    def __init__(self, answer: Answer, index: int, send: Callable[[Update], None]) -> None:
        self.answer, self.index, self._send_update = answer, index, send
        # Only when it has ended is it known whether the answer is valid; an invalid one is generated again.
        self._held: list[Part] | None = [] if _is_checked_at_end(answer) else None
        self.slot = -1  # its place among those that run at a time
        self._progress: PromptProgress | None = None
        self._started_ms = 0.0  # when its prompt was begun
        self._traces: list[TokenTrace] = []
        if answer.request.trace is not None:
            answer.on_token = self._add_trace

    def read(self, done: int, total: int) -> None:
        """`done` of `total` tokens of its prompt are read."""
        before = self._progress
        self._started_ms = self._started_ms or now_ms()
        if before is None or done > before.processed:
            cache, elapsed = before.cache if before else done, now_ms() - self._started_ms
            self._progress = PromptProgress(total, cache, done, elapsed if before else 0.0)
            self._send_update(Update(self.index, (), progress=self._progress))

    def _add_trace(self, trace: TokenTrace) -> None:
        self._traces.append(trace)

    def push(self, event: TokenEvent) -> bool:
        """Add an event of the engine; returns whether the answer has ended and must be generated again."""
        answer = self.answer
        parts, is_last = list(answer.push(event)), event.finish_reason is not None
        if is_last and answer.try_again():
            self._held, self._traces = [], []
            return True
        if self._held is not None:
            self._held += parts
            parts = self._held if is_last else []
        traces = [] if self._held is not None and not is_last else self._traces
        if parts or traces or is_last:
            self._traces = []
            n_tokens = max(len(event.record.tokens) - len(answer.prompt.tokens), 0)
            self._send_update(Update(self.index, parts, n_tokens, traces, is_last, event.record.failure))
        return False

    def fail(self, error: LlmcliError) -> None:
        """End it with an error that is not its own."""
        self._send_update(Update(self.index, (), is_last=True, error=error))

    def end_unasked(self) -> None:
        """End it before it has begun, because it is cancelled."""
        self.answer.finish_reason = self.answer.request.cancellation.reason
        self._send_update(Update(self.index, (), is_last=True))


class AnswerGroup:
    """The answers that one client waits for, in an event loop. To be made there."""

    def __init__(self, answers: Sequence[Answer], has_progress: bool = False) -> None:
        """With `has_progress`, updates tell how much of the prompts is read."""
        self.answers = answers
        self.running = [RunningAnswer(answer, index, self._send) for index, answer in enumerate(answers)]
        if has_progress:
            for one in self.running:
                one.answer.request.progress = one.read
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox()  # that of the thread, once it has the group
        self._updates: asyncio.Queue[Update] = asyncio.Queue()
        self.first_at = 0.0  # when the first piece of text was there; as in `time.perf_counter`
        self.error: LlmcliError | None = None
        seconds = answers[0].settings.timeout
        self._timer = self.loop.call_later(seconds, self.cancel, "timeout") if seconds else None

    @property
    def counts(self) -> tuple[int, int, int]:
        """The tokens of the prompts, of them those evaluated before, and those of all answers so far.

        A prompt with several answers counts once.
        """
        prompts = {id(one.prompt): len(one.prompt.tokens) for one in self.answers}
        timings = [one.record.timings for one in self.answers]
        n_prompt, n_read = sum(prompts.values()), sum(one.prompt_n for one in timings)
        n_cached = max(n_prompt - n_read, 0) if self.answers[0].started else 0
        return n_prompt, n_cached, sum(one.predicted_n for one in timings)

    def cancel(self, reason: FinishReason = "interrupt") -> None:
        """End all answers, from any thread; what is generated so far is kept."""
        for answer in self.answers:
            answer.request.cancellation.set(reason)

    async def end(self) -> None:
        """Wait until all answers have ended. Raises the first error that ended one."""
        async with aclosing(self.updates()) as updates:
            async for update in updates:
                if update.error:
                    raise update.error

    async def updates(self) -> AsyncGenerator[Update, None]:
        """What is added to the answers, until the last update of each. If nobody waits for more, they are ended."""
        n_open = len(self.answers)
        try:
            while n_open:
                update = await self._updates.get()
                n_open -= update.is_last
                yield update
        finally:
            if self._timer:
                self._timer.cancel()
            self.cancel()

    def _send(self, update: Update) -> None:
        """Called in the thread of the model, or where it is ended from outside."""
        self.first_at = self.first_at or (time.perf_counter() if update.parts else 0.0)
        self.error = self.error or update.error
        self.outbox.put(self, update)
        if update.progress:  # in the middle of a step, which may take long
            self.outbox.flush()

    def deliver(self, update: Update) -> None:
        """Called in the loop."""
        self._updates.put_nowait(update)


class Outbox:
    """The updates of a step on their way to the event loop.

    They go in one message when the step is done, so that the loop works on them while llama.cpp evaluates the next
    one: before, it would hold the interpreter that the thread needs to draw the other tokens of the step.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._updates: list[tuple[AnswerGroup, Update]] = []

    def put(self, group: AnswerGroup, update: Update) -> None:
        """Add an update, from any thread."""
        with self._lock:
            self._updates.append((group, update))

    def flush(self) -> None:
        """Send what was added."""
        if not self._updates:
            return
        with self._lock:
            updates, self._updates = self._updates, []
        for loop in {group.loop for group, _ in updates}:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, [one for one in updates if one[0].loop is loop])


def _deliver(updates: Sequence[tuple[AnswerGroup, Update]]) -> None:
    for group, update in updates:
        group.deliver(update)


def _is_checked_at_end(answer: Answer) -> bool:
    constraint = answer.request.constraint
    return bool(constraint and constraint.unenforced)


class ModelWorker:
    """Computes with one model, in a thread of its own: no two threads ever use it."""

    def __init__(self, engine: Engine | None, n_parallel: int, n_queued: int) -> None:
        """At most `n_parallel` answers are generated at a time (0 = as many as are fast), and `n_queued` wait.

        Without an engine, for a model that generates no text, only `call` is possible.
        """
        self._engine, self._n_parallel, self._n_queued = engine, n_parallel, n_queued
        self._condition = threading.Condition()
        self._waiting: deque[RunningAnswer] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._asked: dict[int, RunningAnswer] = {}  # by the index of the request
        self._n_asked = 0
        self._outbox = Outbox()
        self.n_slots = n_parallel or _MOST_AT_A_TIME
        self.slots: list[RunningAnswer | None] = [None] * self.n_slots  # what each of them answers
        self.metrics = Metrics()
        self._is_closing = False
        self._failure = ""  # what ended the thread, if it did not end in good order
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def n_running(self) -> int:
        """The number of answers that are being generated."""
        return len(self._asked)

    @property
    def n_waiting(self) -> int:
        """The number of answers that wait for others to end."""
        return len(self._waiting)

    def submit(self, group: AnswerGroup) -> None:
        """Generate these answers. Raises what `check_room` raises."""
        with self._condition:
            self.check_room(len(group.running))
            group.outbox = self._outbox
            self._waiting.extend(group.running)
            self._condition.notify()

    def check_room(self, n_answers: int) -> None:
        """Raise BusyError when too many wait already or the server is about to end, UsageError for too many at once."""
        self.check_running()
        if self._is_closing:
            raise BusyError("the server is shutting down")
        most = self._n_queued + self.n_slots
        if n_answers > most:
            raise UsageError(f"the request asks for {n_answers} answers, and the server takes {most} at a time")
        if len(self._waiting) + n_answers > self._n_queued + max(self.n_slots - len(self._asked), 0):
            raise BusyError(f"too many requests: {len(self._waiting)} wait already")

    async def call(self, function: Callable[[Cancellation], _T]) -> _T:
        """What a function of the engine returns: it runs between two steps of the answers.

        Its argument ends it early, when nobody waits for the result any more. Raises BusyError.
        """
        future, cancellation = Future[_T](), Cancellation()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(cancellation))
            except (KeyboardInterrupt, SystemExit) as error:  # those would end the event loop too
                future.set_exception(LlmcliError(f"interrupted ({type(error).__name__})"))
            except BaseException as error:  # for whoever waits
                future.set_exception(error)

        with self._condition:
            self.check_room(0)
            self._calls.append(run)
            self._condition.notify()
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancellation.set()
            raise

    def close(self, grace: float) -> bool:
        """Let what runs and waits end within `grace` seconds, then end it; no more is accepted.

        Returns whether it has ended: a step that takes long cannot be stopped.
        """
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join(grace)
        self.end_answers(BusyError("the server is shutting down: the answer is not complete"))
        self._thread.join(_LAST_STEP)
        return not self._thread.is_alive()

    def end_answers(self, error: LlmcliError) -> None:
        """End all answers that run or wait with an error, within a step of the model."""
        with self._condition:
            waiting = [*self._waiting]
            self._waiting.clear()
        ended = [*self._asked.values(), *waiting]
        for one in ended:
            one.fail(error)
        self._outbox.flush()
        for one in ended:
            one.answer.request.cancellation.set()

    def check_running(self) -> None:
        """Raise LlmcliError if the thread has ended by a fault."""
        if self._failure:
            raise LlmcliError(self._failure, "start the server again")

    # In the thread

    def _run(self) -> None:
        try:
            self._compute()
        except BaseException as error:  # without the thread nobody would ever answer
            with self._condition:
                self._failure = f"the model has stopped: {_described(error)}"
            self.end_answers(LlmcliError(self._failure, "start the server again"))
            self._run_calls()

    def _compute(self) -> None:
        while not (self._is_closing and not self._waiting):
            if self._engine is None:
                self._next_request(is_idle=True)
                continue
            try:
                with closing(self._engine.generate_batch(self._next_request, self._n_parallel)) as events:
                    for event in events:
                        self._push(event)
                        if not event.is_followed:
                            self._outbox.flush()
                            self._run_calls()
            except LlmcliError as error:
                self._fail_asked(error)
            except Exception as error:  # a fault of the program must not end the server
                self._fail_asked(LlmcliError(_described(error), "this is a bug; report it"))
            self._n_asked = 0

    def _push(self, event: TokenEvent) -> None:
        running = self._asked[event.index]
        self.metrics.count_event(event)
        if event.finish_reason:
            self._leave(event.index)
            self.metrics.count_answer(event.record, running.answer.request, not self._asked)
        is_wanted_again = running.push(event)
        if is_wanted_again:
            with self._condition:
                self._waiting.appendleft(running)

    def _next_request(self, is_idle: bool) -> Request | None:
        """The request of the answer that waits the longest; waits for one where nothing is computed."""
        while True:
            self._outbox.flush()
            self._run_calls()
            with self._condition:
                if self._waiting:
                    running = self._waiting.popleft()
                    if running.answer.request.cancellation.is_set():
                        running.end_unasked()
                        continue
                    self._asked[self._n_asked] = running
                    self._n_asked += 1
                    running.slot = self.slots.index(None) if None in self.slots else 0
                    self.slots[running.slot] = running
                    return running.answer.request
                if not is_idle or self._is_closing:
                    return None
                if not self._calls:
                    self._condition.wait()

    def _leave(self, index: int) -> None:
        running = self._asked.pop(index)
        if self.slots[running.slot] is running:
            self.slots[running.slot] = None

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _fail_asked(self, error: LlmcliError) -> None:
        """Fail the answers that were generated; those that wait too, if it failed before it took one of them."""
        if not self._asked:
            self.end_answers(error)
            self._run_calls()
            with self._condition:  # or it would fail again and again, for nobody
                self._condition.wait_for(lambda: self._waiting or self._calls or self._is_closing)
        for index, running in list(self._asked.items()):
            self._leave(index)
            running.fail(error)
        self._outbox.flush()


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
