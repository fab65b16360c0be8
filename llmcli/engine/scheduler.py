"""Several answers in one context: the steps that drive them together, while some join and others leave."""

from collections.abc import Generator, Sequence
from itertools import chain

from llmcli.engine.events import Cancellation, FinishReason, TokenEvent, now_ms
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.errors import ContextOverflowError, LlmcliError


class Scheduler:
    """Steps the generations of one context together; between two steps, some may join and others leave.

    A generation that ends leaves its tokens in the memory of the context, as a prefix for later ones, until its
    sequence or the memory is needed. One that fails ends alone, with the reason "error" and its `failure`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: list[Generation] = []  # their prompts are not evaluated yet
        self._running: list[Generation] = []
        self._free = list(range(context.params.n_seq_max))  # sequences; those that were used stand at the end
        self._used: list[int] = []  # those that have the tokens of a generation, running or not
        self._nothing = Cancellation()  # for the evaluations that no single generation may abort

    @property
    def is_busy(self) -> bool:
        """Whether a generation waits or runs."""
        return bool(self._waiting or self._running)

    def add(self, generation: Generation) -> None:
        """Let a generation join; it waits where all sequences are in use. Its end frees its samplers.

        Raises:
            ContextOverflowError: when the context has no space for a token after its prompt.
        """
        n_prompt, context = len(generation.prompt), self._context
        if n_prompt >= context.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {n_prompt} tokens, the context has {context.n_ctx}",
                "shorten the prompt or raise --ctx-size",
            )
        params = context.params
        generation.n_ctx, generation.n_threads = context.n_ctx, (params.n_threads, params.n_threads_batch)
        generation.joined_ms = now_ms()
        self._waiting.append(generation)
        n_others = len(self._waiting) + len(self._running) - 1
        for one in chain(self._waiting, self._running):
            one.beside = max(one.beside, n_others, params.n_seq_max - 1)

    def cancel(self, generation: Generation, reason: FinishReason = "interrupt") -> TokenEvent:
        """End a generation between two steps; returns its last event. Other threads set its `cancellation`."""
        event = generation.finish(reason)
        self._leave(generation)
        return event

    def step(self) -> list[TokenEvent]:
        """Evaluate the next waiting prompt, or one token for each running generation.

        Returns the events of the tokens that this draws, and the last events of those that end. A prompt that several
        generations have is evaluated once, and gives all of them their first token.
        """
        cancelled = [one for one in chain(self._waiting, self._running) if one.cancellation.is_set()]
        if cancelled:
            return [self.cancel(one, one.cancellation.reason) for one in cancelled]
        events = self._start() if self._waiting and self._free else self._advance_all()
        for one in [one for one in self._running if one.finish_reason]:
            self._leave(one)
        return events

    def _leave(self, generation: Generation) -> None:
        generation.close()
        if generation in self._waiting:
            self._waiting.remove(generation)
        else:
            self._running.remove(generation)
            self._free.append(generation.seq_id)

    def _start(self) -> list[TokenEvent]:
        """Evaluate a prompt, and draw the first token of all its generations from the same logits."""
        tokens, context = self._waiting[0].tokens, self._context
        group = [one for one in self._waiting if one.tokens == tokens][: len(self._free)]
        self._waiting = [one for one in self._waiting if one not in group]
        self._running += group
        self._take_sequences(group)
        events: list[TokenEvent] = []
        while group and (ended := self._evaluate_prompt(group)):
            events += ended
            group = [one for one in group if not one.finish_reason]
        for one in group[1:]:
            context.share(group[0].seq_id, one.seq_id)
        self._used += [one.seq_id for one in group if one.seq_id not in self._used]
        for one in group:
            one.layout, one.needs_evaluation = context.layout(one.seq_id), False
            events.append(one.finish("length") if one.is_full(context.n_ctx) else self._draw(one, -1))
            one.timings.ttft_ms = now_ms() - one.joined_ms
        return events

    def _take_sequences(self, group: Sequence[Generation]) -> None:
        """Give each a free sequence; the first one gets that with the longest common prefix."""
        free, tokens = self._free, group[0].tokens
        best = max(free, key=lambda seq_id: self._context.evaluated(tokens, seq_id) if seq_id in self._used else 0)
        free.remove(best)
        for one, seq_id in zip(group, [best, *free], strict=False):
            one.seq_id = seq_id
        del free[: len(group) - 1]

    def _evaluate_prompt(self, group: Sequence[Generation]) -> list[TokenEvent]:
        """Evaluate the prompt of the first one, after a copy of the longest common prefix from another sequence.

        Returns the last events of those that this ended: then the prompt is not evaluated.
        """
        start, first, context = now_ms(), group[0], self._context
        source = max([first.seq_id, *self._used], key=lambda other: context.evaluated(first.tokens, other))
        if source != first.seq_id:
            context.share(source, first.seq_id)
        context.cancellation = first.cancellation
        try:
            first.timings.prompt_n = context.prefill(first.seq_id, first.tokens, first.progress)
        except AbortedError:
            self._used += [first.seq_id] if first.seq_id not in self._used else []
            return [one.finish(one.cancellation.reason) for one in group if one.cancellation is first.cancellation]
        except ContextOverflowError as error:
            return self._evaluate_prompt(group) if self._free_memory() else [_fail(first, error)]
        except LlmcliError as error:
            return [_fail(first, error)]
        first.timings.prompt_ms = now_ms() - start
        return []

    def _advance_all(self) -> list[TokenEvent]:
        """Draw one token for each; those that removed tokens evaluate the tokens before them first."""
        events = [self._backtrack(one) for one in self._running if one.needs_evaluation]
        if len(events) == len(self._running):
            return events
        ready = [one for one in self._running if not (one.needs_evaluation or one.finish_reason)]
        return events + self._evaluate_tokens(ready) if ready else events

    def _backtrack(self, generation: Generation) -> TokenEvent:
        """Evaluate the tokens that are not in the context, and draw the next one."""
        start, context = now_ms(), self._context
        context.cancellation = generation.cancellation
        try:
            context.prefill(generation.seq_id, generation.tokens)
        except AbortedError:
            return generation.finish(generation.cancellation.reason)
        except ContextOverflowError:
            return self._backtrack(generation) if self._free_memory() else generation.finish("length")
        except LlmcliError as error:
            return _fail(generation, error)
        generation.needs_evaluation = False
        event = self._draw(generation, -1)
        generation.timings.predicted_ms += now_ms() - start
        return event

    def _evaluate_tokens(self, ready: Sequence[Generation]) -> list[TokenEvent]:
        """Evaluate the last token of each in one batch, and draw the next ones."""
        start, context, cancellation = now_ms(), self._context, ready[0].cancellation
        is_shared = all(one.cancellation is cancellation for one in ready)
        context.cancellation = cancellation if is_shared else self._nothing
        try:
            context.step([(one.seq_id, one.tokens[-1]) for one in ready])
        except AbortedError:
            return [one.finish(cancellation.reason) for one in ready]
        except ContextOverflowError:  # the context that the sequences share is full
            if self._free_memory():
                return self._evaluate_tokens(ready)
            return [one.finish("length") for one in ready]
        except LlmcliError:  # the one whose token cannot be evaluated ends alone
            return [self._backtrack(one) for one in ready]
        shared_ms = now_ms() - start
        events = []
        for row, one in enumerate(ready):
            start = now_ms()
            events.append(self._draw(one, row))
            one.timings.predicted_ms += shared_ms + now_ms() - start
        return events

    def _draw(self, generation: Generation, row: int) -> TokenEvent:
        try:
            return generation.advance(self._context.handle, row, self._context.n_ctx)
        except LlmcliError as error:
            return _fail(generation, error)

    def _free_memory(self) -> bool:
        """Remove the tokens that only later prompts could reuse; returns whether there were any."""
        kept = [seq_id for seq_id in self._free if self._context.evaluated(seq_id=seq_id)]
        for seq_id in kept:
            self._context.clear(seq_id)
        return bool(kept)


def _fail(generation: Generation, error: LlmcliError) -> TokenEvent:
    generation.failure = error
    return generation.finish("error")


def generate(context: Context, generations: Sequence[Generation]) -> Generator[TokenEvent, None, None]:
    """Yield the events of these generations until each has finished, then free their samplers.

    Raises:
        ContextOverflowError: before anything is evaluated, when the context has no space for a token after a prompt.
    """
    scheduler = Scheduler(context)
    try:
        for generation in generations:
            scheduler.add(generation)
        while scheduler.is_busy:
            yield from scheduler.step()
    finally:
        for generation in generations:
            generation.close()
