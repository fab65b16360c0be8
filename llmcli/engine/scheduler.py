"""Answers side by side: a `Scheduler` steps several generations in one context, while some join and others leave."""

from collections.abc import Generator, Sequence

from llmcli.engine.events import FinishReason, TokenEvent, now_ms
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.errors import ContextOverflowError, LlmcliError


class Scheduler:
    """Steps the generations of one context together; between two steps, some may join and others leave.

    A generation that ends leaves its tokens in the memory of the context, as a prefix for later ones, until its
    sequence or the memory is needed. One that fails ends alone, with the reason "error" and its `failure`.

    Where the memory that the sequences share is full, those that joined last wait until another one ends, and all their
    tokens are evaluated again. So an answer has the whole `n_ctx` of a sequence, whatever runs beside it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: list[Generation] = []  # for a sequence, or for the prompt of others
        self._reading: list[Generation] = []  # those whose prompt, which is the same, is being evaluated
        self._running: list[Generation] = []
        self._is_full = False  # no prompt begins until a generation leaves
        self._free = list(range(context.n_seq_max))  # sequences; those that were used stand at the end
        self._used: list[int] = []  # those that have had a generation, running or not

    @property
    def generations(self) -> list[Generation]:
        """Those that wait or run."""
        return [*self._waiting, *self._reading, *self._running]

    @property
    def n_running(self) -> int:
        """The number of those that draw a token in each step; 0 while a prompt is read beside them."""
        return 0 if self._waiting or self._reading else len(self._running)

    def add(self, generation: Generation) -> None:
        """Let a generation join; it waits where all sequences are in use. Its end frees its samplers.

        Raises ContextOverflowError when the context has no space for a token after its prompt.
        """
        n_prompt, context = len(generation.request.prompt.tokens), self._context
        if n_prompt >= context.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {n_prompt} tokens, the context has {context.n_ctx}",
                "shorten the prompt or raise --ctx-size",
            )
        generation.n_ctx, generation.n_threads = context.n_ctx, context.n_threads
        generation.joined_ms = now_ms()
        self._waiting.append(generation)
        for one in self.generations:
            one.beside = max(one.beside, len(self.generations) - 1, context.n_seq_max - 1)

    def cancel(self, generation: Generation, reason: FinishReason = "interrupt") -> TokenEvent:
        """End a generation between two steps; returns its last event. Other threads set its `cancellation`."""
        event = generation.finish(reason)
        self._leave(generation)
        return event

    def step(self) -> list[TokenEvent]:
        """Evaluate one batch of the next prompt, then one token for each generation that was running before.

        Returns the events of the tokens that this draws, and the last events of those that end. A prompt that several
        generations have is evaluated once, and gives all of them their first token.
        """
        events = self._end_cancelled()
        if events:
            return events
        running = list(self._running)
        if self._waiting and self._free and not self._reading and not self._is_full:
            self._begin_prompt()
        if self._reading:
            try:
                events = self._read_batch()
            except AbortedError:  # by any of them: the others read the batch again in the next step
                return self._end_cancelled()
        # Those that removed tokens first evaluate the tokens before them.
        events += [self._backtrack(one) for one in running if one.needs_evaluation and one in self._running]
        ready = [one for one in running if not (one.needs_evaluation or one.finish_reason)]
        if ready:
            events += self._evaluate_tokens(ready)
        for one in self.generations:
            if one.finish_reason:
                self._leave(one)
        return events

    def _end_cancelled(self) -> list[TokenEvent]:
        requests = [(one, one.request.cancellation) for one in self.generations]
        return [self.cancel(one, cancellation.reason) for one, cancellation in requests if cancellation.is_set()]

    def _leave(self, generation: Generation) -> None:
        generation.close()
        self._is_full = False
        if generation in self._waiting:
            self._waiting.remove(generation)
            return
        group = self._reading if generation in self._reading else self._running
        if group is self._reading and generation is group[0] and len(group) > 1:
            self._context.share(generation.seq_id, group[1].seq_id)  # which continues where this one ends
        group.remove(generation)
        self._free.append(generation.seq_id)

    def _begin_prompt(self) -> None:
        """Give the first one that waits, and all with the same prompt, a sequence each."""
        tokens, free = self._waiting[0].tokens, self._free
        group = [one for one in self._waiting if one.tokens == tokens][: len(free)]
        # The first one gets the sequence with the longest common prefix, so that it is not copied. Sequences that no
        # generation has used count as empty: they may hold the prefix of one that joins later.
        best = max(free, key=lambda seq_id: self._context.evaluated(tokens, seq_id) if seq_id in self._used else 0)
        free.remove(best)
        for one, seq_id in zip(group, [best, *free], strict=False):
            one.seq_id = seq_id
        del free[: len(group) - 1]
        self._waiting = [one for one in self._waiting if one not in group]
        self._reading = group
        # One that is in use can have a longer prefix: a copy of it takes no evaluation.
        source = max([best, *self._used], key=lambda seq_id: self._context.evaluated(tokens, seq_id))
        if source != best:
            self._context.share(source, best)
        self._used += [one.seq_id for one in group if one.seq_id not in self._used]
        self._context.begin(best, tokens)
        if progress := group[0].request.progress:
            progress(min(self._context.evaluated(tokens, best), len(tokens) - 1), len(tokens))

    def _read_batch(self) -> list[TokenEvent]:
        """Evaluate a batch of the prompt; after the last one, draw the first token of each from the same logits.

        The batches are those that the prompt has alone, whatever runs beside it: the size of a batch changes the
        rounding of its results, and with it the text. Raises AbortedError when any generation is cancelled.
        """
        start, group, context = now_ms(), self._reading, self._context
        first = group[0]
        context.watch([one.request.cancellation for one in self.generations])
        try:
            first.timings.prompt_n += context.prefill_batch(first.seq_id, first.tokens, first.request.progress)
        except ContextOverflowError as error:
            if self._free_memory():
                return self._read_batch()
            if not self._running:
                return [first.fail(error)]
            self._suspend(group)
            return []
        except LlmcliError as error:
            return [first.fail(error)]
        first.timings.prompt_ms += now_ms() - start
        if context.evaluated(seq_id=first.seq_id) < len(first.tokens):
            return []
        for one in group[1:]:
            context.share(first.seq_id, one.seq_id)
        self._reading, self._running = [], self._running + group
        events = []
        for one in group:
            one.needs_evaluation = False
            one.layout = one.layout or context.layout(one.seq_id)  # it has one if it was suspended
            events.append(one.finish("length") if one.is_full(context.n_ctx) else self._draw(one, -1))
            one.timings.ttft_ms = one.timings.ttft_ms or now_ms() - one.joined_ms
        return events

    def _backtrack(self, generation: Generation) -> TokenEvent:
        """Evaluate the tokens that are not in the context, and draw the next one."""
        start, context = now_ms(), self._context
        context.watch([generation.request.cancellation])
        try:
            context.prefill(generation.seq_id, generation.tokens)
        except AbortedError:
            return generation.finish(generation.request.cancellation.reason)
        except ContextOverflowError:
            if self._free_memory() or self._suspend_last(generation):
                return self._backtrack(generation)
            return generation.finish("length")
        except LlmcliError as error:
            return generation.fail(error)
        generation.needs_evaluation = False
        event = self._draw(generation, -1)
        generation.timings.predicted_ms += now_ms() - start
        return event

    def _evaluate_tokens(self, ready: Sequence[Generation]) -> list[TokenEvent]:
        if len(ready) == 1 and (draft := self._draft(ready[0])):
            return self._evaluate_draft(ready[0], draft)
        start, context, cancellation = now_ms(), self._context, ready[0].request.cancellation
        # Only what ends all of them may abort: a memory that cannot remove a part (recurrent) would lose the others.
        is_shared = all(one.request.cancellation is cancellation for one in ready)
        context.watch([cancellation] if is_shared else [])
        try:
            context.step([(one.seq_id, one.tokens[-1]) for one in ready])
        except AbortedError:
            return [one.finish(cancellation.reason) for one in ready]
        except ContextOverflowError:  # the context that the sequences share is full
            if self._free_memory() or self._suspend_last(ready[0]):
                return self._evaluate_tokens([one for one in ready if one in self._running])
            return [one.finish("length") for one in ready]
        except LlmcliError:  # the one whose token cannot be evaluated ends alone
            return [self._backtrack(one) for one in ready if one in self._running]
        shared_ms = now_ms() - start
        speculation = ready[0].speculation if len(ready) == 1 else None
        if speculation:
            speculation.observe_single(context, len(ready[0].tokens), shared_ms / 1e3)
        events = []
        for row, one in enumerate(ready):  # the logits of all rows stand in the context until its next evaluation
            start = now_ms()
            events.append(self._draw(one, row))
            one.timings.predicted_ms += shared_ms + now_ms() - start
        if speculation:
            speculation.observe_token(ready[0].tokens[-1])
            ready[0].timings.draft_n_held = speculation.n_held
        return events

    def _draft(self, generation: Generation) -> list[int]:
        """Tokens that are likely to follow, where it runs alone and its memory can remove those that do not."""
        context, speculation = self._context, generation.speculation
        if not speculation or len(self.generations) > 1 or not context.keeps_all(generation.seq_id):
            return []
        limit = min(generation.n_left(context.n_ctx - 1) - 1, context.n_batch - 1)
        return speculation.draft(generation.tokens, limit)

    def _evaluate_draft(self, generation: Generation, draft: Sequence[int]) -> list[TokenEvent]:
        """Evaluate a draft with the last token, and draw from its rows; after a trial, evaluate that token alone."""
        start, context, seq_id, timings = now_ms(), self._context, generation.seq_id, generation.timings
        speculation, tokens, n_before = generation.speculation, generation.tokens, context.evaluated(seq_id=seq_id)
        assert speculation
        context.watch([generation.request.cancellation])
        try:
            context.extend([(seq_id, token) for token in (tokens[-1], *draft)], is_draft=True)
        except AbortedError:
            return [generation.finish(generation.request.cancellation.reason)]
        except LlmcliError:  # without a draft it may be evaluated; else it says why not
            return [self._backtrack(generation)]
        seconds = (now_ms() - start) / 1e3
        if speculation.is_trial:
            speculation.begin_trial(tokens, draft, context, seconds)
            context.cut(seq_id, n_before)
            timings.predicted_ms += now_ms() - start
            return self._evaluate_tokens([generation])
        events, n_accepted = self._draw_rows(generation, draft)
        context.cut(seq_id, n_before + len(events))
        timings.draft_steps += 1
        timings.draft_n += len(draft)
        timings.draft_n_accepted += n_accepted
        timings.draft_saved_ms += 1e3 * speculation.observe(len(draft), n_accepted, seconds)
        timings.predicted_ms += now_ms() - start
        return events

    def _draw_rows(self, generation: Generation, draft: Sequence[int]) -> tuple[list[TokenEvent], int]:
        """Draw row by row until a token is another one than drafted; returns the events, and how many were drafted."""
        events, n_accepted = list[TokenEvent](), 0
        for row, generation.drafted in enumerate([*draft, None]):
            events.append(self._draw(generation, row))
            is_accepted = events[-1].id is not None and events[-1].id == generation.drafted
            n_accepted += is_accepted
            if generation.finish_reason or not is_accepted:
                break
        generation.drafted = None
        return events, n_accepted

    def _draw(self, generation: Generation, row: int) -> TokenEvent:
        try:
            return generation.advance(self._context.handle, row, self._context.n_ctx)
        except LlmcliError as error:
            return generation.fail(error)

    def _suspend_last(self, kept: Generation) -> bool:
        """Suspend the running generation that joined last, but not `kept`; returns whether there was one."""
        last = next((one for one in reversed(self._running) if one is not kept and not one.finish_reason), None)
        if last:
            self._suspend([last])
        return last is not None

    def _suspend(self, generations: Sequence[Generation]) -> None:
        """Take the memory of these; they are the next to begin once there is room."""
        for one in generations:
            self._context.cut(one.seq_id)
            self._free.append(one.seq_id)
            one.needs_evaluation = True
        self._reading = [one for one in self._reading if one not in generations]
        self._running = [one for one in self._running if one not in generations]
        self._waiting[:0] = generations
        self._is_full = True

    def _free_memory(self) -> bool:
        """Remove the tokens that only later prompts could reuse; returns whether there were any."""
        kept = [seq_id for seq_id in self._free if self._context.evaluated(seq_id=seq_id)]
        for seq_id in kept:
            self._context.cut(seq_id)
        return bool(kept)


def generate(context: Context, generations: Sequence[Generation]) -> Generator[TokenEvent, None, None]:
    """Yield the events of these generations until each has finished, then free their samplers.

    Before anything is evaluated, it raises ContextOverflowError where a prompt leaves no space for a token.
    """
    scheduler = Scheduler(context)
    try:
        for generation in generations:
            scheduler.add(generation)
        while scheduler.generations:
            yield from scheduler.step()
    finally:
        for generation in generations:
            generation.close()
