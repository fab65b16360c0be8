"""Continuous batching: answers run side by side in one context, and one that ends makes room for the next at once."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import GenerationRecord, Request, TokenEvent
from llmcli.engine.generation import Generation, max_new_tokens
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.reasoning import ReasoningGate
from llmcli.engine.scheduler import Scheduler
from llmcli.errors import ContextOverflowError, LlmcliError
from llmcli.inference import sizing
from llmcli.inference.engine import RequestSource

if TYPE_CHECKING:
    from llmcli.inference.context_states import ContextStates

_WIDTHS = (8, 16, 32)  # that are tried, one after the other
_TRIAL_S, _TRIAL_STEPS = 0.5, 8  # a trial lasts so many seconds of steps, and so many steps
_GAIN = 1.05  # a larger width must be faster by this factor


class ContinuousBatch:
    """The answers to any number of requests, which `events` generates."""

    def __init__(
        self,
        model: Model,
        shape: sizing.ModelShape,
        start: Callable[[Request, int], Generation],
        requests: RequestSource,
        n_parallel: int = 0,
        note: Callable[[str], None] = lambda _text: None,
        states: "ContextStates | None" = None,
    ) -> None:
        """`start` makes the generation of a request. At most `n_parallel` run at a time; with 0 that is measured.

        `note` is called with what the user should know of the context.
        """
        self._model, self._shape, self._start, self._requests = model, shape, start, requests
        self._taken: deque[tuple[int, Request]] = deque()  # with their indexes; they have not begun
        self._indexes = count()
        self._width, self._note, self._states = Width(n_parallel), note, states
        self._longest = 0  # tokens of the longest prompt for which there was a context
        self._n_shared = self._each = 0  # tokens that all answers share, and the part of each, in the last context
        self._is_open_ended = False  # whether the context was sized for answers of any length

    def events(self) -> Generator[TokenEvent, None, None]:
        """The events of all answers. Raises LlmcliError when a context does not fit in memory."""
        while self._take(is_idle=True):
            while len(self._taken) < self._width.now and self._take(is_idle=False):
                pass
            try:
                context = self._make_context([request for _, request in self._taken])
            except ContextOverflowError as error:
                longest = max(self._taken, key=lambda one: len(one[1].prompt.tokens))
                self._taken.remove(longest)
                yield _failed(longest[0], error)
                continue
            with closing(context):
                try:
                    yield from self._run(context)
                finally:
                    if self._states:
                        self._states.keep(context)

    def _take(self, is_idle: bool) -> bool:
        """Take one more request from the source; without need, where one is taken already and nothing else runs."""
        if is_idle and self._taken:
            return True
        request = self._requests(is_idle)
        if request:
            self._taken.append((next(self._indexes), request))
        return request is not None

    def _make_context(self, requests: Sequence[Request]) -> Context:
        """A context for these requests. One that replaces another has room for prompts of twice the length."""
        longest = max(len(request.prompt.tokens) for request in requests)
        limits = [self._max_new_tokens(request) for request in requests]
        settings = replace(requests[0].settings, max_tokens=-1 if min(limits) < 0 else max(limits))
        size = None
        if self._longest and 2 * self._longest > longest:
            with suppress(ContextOverflowError):  # twice the length does not fit
                size = sizing.choose_batch(self._shape, settings, 2 * self._longest, self._width.most)
        size = size or sizing.choose_batch(self._shape, settings, longest, self._width.most)
        if size.note:
            self._note(size.note)
        self._width.limit(size.width)
        self._longest, self._is_open_ended = max(longest, self._longest), settings.max_tokens < 0
        self._n_shared, self._each = size.n_ctx, size.each
        context = Context(self._model, replace(settings, n_ctx=size.n_ctx), size.width, size.n_ctx_seq)
        return self._states.attach(context) if self._states else context

    def _run(self, context: Context) -> Generator[TokenEvent, None, None]:
        """The events of all answers that fit this context, until nothing runs or a request needs a larger one."""
        scheduler, width = Scheduler(context), self._width
        is_new = True
        try:
            while True:
                while len(scheduler.generations) < width.now and (
                    self._taken or self._take(is_idle=not scheduler.generations)
                ):
                    index, request = self._taken[0]
                    # The first request never makes a new context need another one, whatever memory is free by now.
                    if not is_new and self._outgrows(context, request):
                        break
                    is_new = False
                    self._taken.popleft()
                    try:
                        self._add(scheduler, self._start(request, index))
                    except LlmcliError as error:
                        yield _failed(index, error)
                if not scheduler.generations:
                    return
                is_steady, start = scheduler.n_running == width.now, perf_counter()
                events = scheduler.step()
                if is_steady:
                    width.observe(len(events), perf_counter() - start)
                for event in events[:-1]:
                    event.is_followed = True
                yield from events
        finally:
            for generation in scheduler.generations:
                generation.close()

    def _add(self, scheduler: Scheduler, generation: Generation) -> None:
        try:
            scheduler.add(generation)
        except LlmcliError:
            generation.close()
            raise

    def _outgrows(self, context: Context, request: Request) -> bool:
        """Whether an answer, or as many like it as run at a time, have more room in a larger context."""
        n_prompt, limit = len(request.prompt.tokens), self._max_new_tokens(request)
        settings = replace(request.settings, max_tokens=limit)
        fits = n_prompt + limit < context.n_ctx if limit >= 0 else self._is_open_ended
        try:
            if fits and sizing.tokens_of_each(settings, n_prompt) <= self._each:
                return False
            size = sizing.choose_batch(self._shape, settings, n_prompt, self._width.most)
            return size.n_ctx > self._n_shared or (not fits and size.n_ctx_seq > context.n_ctx)
        except ContextOverflowError:
            return False

    def _max_new_tokens(self, request: Request) -> int:
        """`max_tokens` with the reasoning before the answer; -1 if it has no limit."""
        return max_new_tokens(request, ReasoningGate.of_request(self._model.vocab, request))


def _failed(index: int, error: LlmcliError) -> TokenEvent:
    return TokenEvent("", None, "error", GenerationRecord(finish_reason="error", failure=error), index)


class Width:
    """How many answers run at a time: a given number, or the fastest of those that are tried in the first seconds.

    A step that evaluates one token of each of several answers reads the weights once for all of them. So it takes
    longer than a step of one, but less long than so many of them; from some width on, the gain ends.
    """

    def __init__(self, n_parallel: int = 0) -> None:
        self._later = [] if n_parallel else list(_WIDTHS[1:])
        self.now = n_parallel or _WIDTHS[0]
        self.most = max(self.now, *self._later, 1)
        self._is_settled = n_parallel > 0
        self._best = (0.0, self.now)  # tokens per second, and the width
        self._tokens = self._steps = 0
        self._seconds = 0.0

    def limit(self, most: int) -> None:
        """Allow no more than `most`: memory has no room for more."""
        self.most = min(self.most, most)
        self.now = min(self.now, most)
        self._later = [width for width in self._later if width <= most]

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A step, with as many answers as are allowed, took so long; after some of them, another width is tried."""
        if self._is_settled:
            return
        self._tokens, self._seconds, self._steps = self._tokens + n_tokens, self._seconds + seconds, self._steps + 1
        if self._seconds < _TRIAL_S or self._steps < _TRIAL_STEPS:
            return
        rate = self._tokens / self._seconds
        is_better = rate >= self._best[0] * _GAIN
        if is_better:
            self._best = (rate, self.now)
        self._is_settled = not (is_better and self._later)
        self.now = self._best[1] if self._is_settled else self._later.pop(0)
        self._tokens, self._seconds, self._steps = 0, 0.0, 0
