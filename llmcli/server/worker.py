"""The thread in which a model computes: answers side by side, and other work between two of their steps."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from llmcli.engine.events import Cancellation, Request, TokenEvent
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.engine import Engine
from llmcli.server.answer_group import AnswerGroup, Outbox, RunningAnswer
from llmcli.server.calls import Calls
from llmcli.server.errors import BusyError
from llmcli.server.metrics import Metrics

_T = TypeVar("_T")
_LAST_STEP = 5.0  # seconds, at the end
_FIRST_TOKEN = 0.003  # seconds that the next step waits for the first text of an answer to be sent
_MOST_AT_A_TIME = 32  # answers, where the engine chooses how many


class ModelWorker:
    """Computes with one model, in a thread of its own: no two threads ever use it."""

    def __init__(self, engine: Engine | None, n_parallel: int, n_queued: int) -> None:
        """At most `n_parallel` answers are generated at a time (0 = as many as are fast), and `n_queued` wait.

        Without an engine, for a model that generates no text, only `call` is possible.
        """
        self._engine, self._n_parallel, self._n_queued = engine, n_parallel, n_queued
        self._condition = threading.Condition()
        self._waiting: deque[RunningAnswer] = deque()
        self._replays: deque[RunningAnswer] = deque()  # one at a time, beside the others, in a context of its own
        self._replayed: Generator[TokenEvent | None, None, None] | None = None  # the events of the first
        self._asked: dict[int, RunningAnswer] = {}  # by the index of the request
        self._n_asked = 0
        self._outbox = Outbox()
        self.n_slots = n_parallel or _MOST_AT_A_TIME
        self.calls = Calls(n_queued + self.n_slots)
        self.slots: list[RunningAnswer | None] = [None] * self.n_slots  # what each of them answers
        self.metrics = Metrics()
        self._is_closing = False
        self._failure = ""  # what ended the thread, if it did not end in good order
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def n_running(self) -> int:
        """The number of answers that are being generated."""
        return len(self._asked) + (self._replayed is not None)

    @property
    def n_waiting(self) -> int:
        """The number of answers that wait for others to end."""
        return len(self._waiting) + len(self._replays) - (self._replayed is not None)

    def submit(self, group: AnswerGroup) -> None:
        """Generate these answers. Raises what `check_room` raises."""
        with self._condition:
            self.check_room(len(group.running))
            group.outbox = self._outbox
            for one in group.running:
                (self._waiting if one.answer.request.replay is None else self._replays).append(one)
            self._condition.notify()

    def check_room(self, n_answers: int) -> None:
        """Raise BusyError when too many wait already or the server is about to end, UsageError for too many at once."""
        self.check_running()
        if self._is_closing:
            raise BusyError("the server is shutting down")
        most = self._n_queued + self.n_slots
        if n_answers > most:
            raise UsageError(f"the request asks for {n_answers} answers, and the server takes {most} at a time")
        if self.n_waiting + n_answers > self._n_queued + max(self.n_slots - len(self._asked), 0):
            raise BusyError(f"too many requests: {self.n_waiting} wait already")

    async def call(self, function: Callable[[Cancellation], _T]) -> _T:
        """What a function of the engine returns: it runs between two steps of the answers.

        Its argument ends it early, when nobody waits for the result any more. Raises BusyError.
        """
        with self._condition:
            self.check_room(0)
            waiting = self.calls.add(function)
            self._condition.notify()
        return await self.calls.wait(*waiting)

    def close(self, grace: float) -> bool:
        """Let what runs and waits end within `grace` seconds, then end it; no more is accepted.

        Returns whether it has ended: a step that takes long cannot be stopped.
        """
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join(grace)
        self.end_all(BusyError("the server is shutting down: the answer is not complete"))
        self._thread.join(_LAST_STEP)
        return not self._thread.is_alive()

    def end_all(self, error: LlmcliError) -> None:
        """End all answers and calls with an error, within a step of the model. No call succeeds after that."""
        self.calls.end(error)
        self.end_answers(error)

    def end_answers(self, error: LlmcliError) -> None:
        """End all answers that run or wait with an error."""
        with self._condition:
            waiting = [*self._waiting, *self._replays]
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
            self.calls.run()

    def _compute(self) -> None:
        while not self._is_closing or self._waiting or self._replays or self.calls:
            if self._engine is None:
                self._next_request(is_idle=True)
                continue
            try:
                with closing(self._engine.generate_batch(self._next_request, self._n_parallel)) as events:
                    for event in events:
                        self._push(event)
                        if not event.is_followed:
                            self._run_others()
            except Exception as error:  # a fault of the program must not end the server
                self._fail_asked(_stated(error))
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
            self._run_others()
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
                if not is_idle or (self._is_closing and not self._replays):
                    return None
                if not self.calls and not self._replays:
                    self._condition.wait()

    def _leave(self, index: int) -> None:
        running = self._asked.pop(index)
        if self.slots[running.slot] is running:
            self.slots[running.slot] = None

    def _run_others(self) -> None:
        """What happens between two steps of the answers: calls, and a step of a replay."""
        self._outbox.flush(_FIRST_TOKEN)
        self.calls.run()
        if self._replays:
            try:
                self._step_replay(self._replays[0])
            except Exception as error:
                self._end_replay(_stated(error))
            self._outbox.flush()

    def _step_replay(self, running: RunningAnswer) -> None:
        request = running.answer.request
        if self._replayed is None and request.cancellation.is_set():
            running.end_unasked()
            self._end_replay()
            return
        assert self._engine
        self._replayed = self._replayed or self._engine.repeat(request)
        event = next(self._replayed)
        if event is None:
            return
        if event.finish_reason:
            self.metrics.count_answer(event.record, request, not self._asked)
            self._replayed.close()
            self._replayed = None
        if not running.push(event) and event.finish_reason:  # one that is not valid is generated again
            self._end_replay()

    def _end_replay(self, error: LlmcliError | None = None) -> None:
        if self._replayed:
            self._replayed.close()
        running, self._replayed = self._replays.popleft(), None
        if error:
            running.fail(error)

    def _fail_asked(self, error: LlmcliError) -> None:
        """Fail the answers that were generated; those that wait too, if it failed before it took one of them."""
        if not self._asked:
            self.end_answers(error)
            while self._replays:
                self._end_replay()
            self.calls.run()
            with self._condition:  # or it would fail again and again, for nobody
                self._condition.wait_for(lambda: self._waiting or self.calls or self._is_closing)
        for index, running in list(self._asked.items()):
            self._leave(index)
            running.fail(error)
        self._outbox.flush()


def _stated(error: Exception) -> LlmcliError:
    return error if isinstance(error, LlmcliError) else LlmcliError(_described(error), "this is a bug; report it")


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
