"""The answers that one client waits for, and what is added to them on its way from the thread to the event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from llmcli.engine.events import FinishReason, TokenEvent, TokenTrace, now_ms
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer, Part


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

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but more text."""
        return not (self.is_last or self.error or self.progress or self.traces)


class RunningAnswer:
    """An answer of an `AnswerGroup`, while the thread of the model generates it."""

    def __init__(self, answer: Answer, index: int, send: Callable[[Update], None]) -> None:
        self.answer, self.index, self._send_update = answer, index, send
        # Only when it has ended is it known whether the answer is valid; an invalid one is generated again.
        constraint = answer.request.constraint
        self._held: list[Part] | None = [] if constraint and constraint.unenforced else None
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
        parts, is_last = answer.push(event), event.finish_reason is not None
        if is_last and answer.try_again():
            self._held, self._traces = [], []
            return True
        if self._held is not None:
            self._held += parts
            parts = self._held if is_last else []
        traces = [] if self._held is not None and not is_last else self._traces
        if parts or traces or is_last:
            self._traces = []
            n_tokens = max((event.n_tokens or len(event.record.tokens)) - len(answer.prompt.tokens), 0)
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
        self.answers, self.name = answers, ""  # by which others find it
        self.running = [RunningAnswer(answer, index, self._send) for index, answer in enumerate(answers)]
        if has_progress:
            for one in self.running:
                one.answer.request.progress = one.read
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox()  # that of the thread, once it has the group
        self._updates: asyncio.Queue[Update] = asyncio.Queue()
        self._n_put = self._n_handled = 0  # updates that went to the loop, and those whose reader has come back
        self._sending = threading.Lock()
        self.is_begun = threading.Event()  # the first update has been read, and what it led to is sent
        self.is_awaited = False  # the thread of the model has waited for that, which a client must not make it do again
        self.send_directly: Callable[[Update], bool] = lambda _update: False  # sends plain text in the model's thread
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
        n_generated = sum(one.predicted_n for one in timings)
        n_cached = max(n_prompt - n_read, 0) if n_read or n_generated else 0
        return n_prompt, n_cached, n_generated

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
                self._n_handled += 1
                self.is_begun.set()
        finally:
            self.is_begun.set()
            self.send_directly = lambda _update: False
            if self._timer:
                self._timer.cancel()
            self.cancel()

    def _send(self, update: Update) -> None:
        """Called in the thread of the model, or where it is ended from outside."""
        self.first_at = self.first_at or (time.perf_counter() if update.parts else 0.0)
        self.error = self.error or update.error
        with self._sending:  # an error that comes from outside waits for the text that is being sent
            # One that overtakes others in the loop would be out of order.
            if update.is_plain and self._n_put == self._n_handled and self._is_sent_directly(update):
                return
            self._n_put += 1
        self.outbox.put(self, update)
        if update.progress:  # in the middle of a step, which may take long
            self.outbox.flush()

    def _is_sent_directly(self, update: Update) -> bool:
        try:
            return self.send_directly(update)
        except Exception:  # a fault of one answer must not end the others: in the loop it ends only its request
            return False

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

    def flush(self, patience: float = 0.0) -> None:
        """Send what was added; wait at most so many seconds until the first update of each group is read.

        With threads of llama.cpp on all cores, the loop would get one only after some milliseconds.
        """
        if not self._updates:
            return
        with self._lock:
            updates, self._updates = self._updates, []
        for loop in {group.loop for group, _ in updates}:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, [one for one in updates if one[0].loop is loop])
        for group in {group for group, _ in updates if not group.is_awaited} if patience else ():
            group.is_awaited = True
            group.is_begun.wait(patience)


def _deliver(updates: Sequence[tuple[AnswerGroup, Update]]) -> None:
    for group, update in updates:
        group.deliver(update)
