"""Answers, token by token: a `Generation` is one; a `Scheduler` steps several, while some join and others leave."""

import codecs
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from llmcli.engine.answer_text import BanScanner, HeldToken, StopScanner
from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import FinishReason, GenerationRecord, Request, TokenEvent, now_ms
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Vocab
from llmcli.engine.reasoning import REASONING_TAGS, ReasoningGate, ReasoningSplitter
from llmcli.engine.sampling.chain import (
    ChainHooks,
    ConstrainedTokenSampler,
    StepObserver,
    TokenSampler,
    make_token_sampler,
)
from llmcli.engine.sampling.python_samplers import DrawTracer, token_logprob
from llmcli.errors import ConstraintError, ContextOverflowError, LlmcliError, UsageError
from llmcli.params.policies.policy import PolicyCall
from llmcli.params.sampler_chain import effective_policy

_MAX_FORBIDDEN = 256  # tokens at one position; more would leave only very unlikely ones


@dataclass(eq=False)
class Generation(GenerationRecord):
    """The state of one answer, which a `Scheduler` runs.

    Raises UsageError for an empty prompt, an invalid constraint, or a bias for a token that does not exist.
    """

    vocab: Vocab
    request: Request
    index: int = 0  # in each of its events
    on_step: StepObserver | None = None  # called at each step of each draw; needs a trace
    seq_id: int = field(init=False, default=0)  # its sequence in the context
    joined_ms: float = field(init=False, default=0.0)  # when it joined others in a context
    needs_evaluation: bool = field(init=False, default=True)  # the tokens must be evaluated before the next draw

    def __post_init__(self) -> None:
        request, settings, prompt = self.request, self.request.settings, self.request.prompt.tokens
        if not prompt:
            raise UsageError("the prompt is empty", "add text to the prompt")
        self.tokens = list(prompt)
        self._start_ms = now_ms()
        splitter, is_traced = ReasoningSplitter.of_request(request), request.trace is not None
        if splitter:
            self.vocab.show_control(tag for pair in REASONING_TAGS for tag in pair)
        has_policy = isinstance(effective_policy(settings), PolicyCall)
        needs_state = has_policy or is_traced or request.live_shift is not None  # without, it takes no time
        self.state = DrawState(splitter) if needs_state else None
        self._tracer = DrawTracer() if is_traced else None
        if self.state and settings.prefill:
            self.state.read(settings.prefill)
        # Constraint, stop strings and max_tokens begin where it opens.
        self.gate = ReasoningGate.of_request(self.vocab, request)
        self._sampler = self._make_sampler()
        self._sampler.accept(prompt)  # penalties and DRY look at the prompt too, as in llama.cpp's programs
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopScanner(settings.stop) if settings.stop else None
        self._bans = BanScanner(settings.banned_strings) if settings.banned_strings else None
        self._banned_at: dict[int, set[int]] = {}
        self._forced = deque(self.gate.closing_tokens() if self.gate else ())  # tokens that are not drawn but given
        self._answer_at: int | None = None if self.gate and settings.max_tokens else len(prompt)  # number of its token

    def _make_sampler(self) -> TokenSampler:
        hooks = ChainHooks(self.state, self.request.live_shift, self._tracer, self.on_step) if self.state else None
        return make_token_sampler(self.vocab, self.request.settings, hooks, self.request.constraint, self.gate)

    def append_drawn(self, tokens: Sequence[int]) -> None:
        """Append tokens that were drawn before, without log-probabilities; no constraint or banned string applies."""
        self._sampler.accept(tokens)
        for token in tokens:
            if self.request.live_shift and self.state:
                self.request.live_shift.start_draw(self.state.total)
            self._append(0, -1, token)

    def is_full(self, n_ctx: int) -> bool:
        """Whether no more tokens can be drawn: the limit is reached or the context is full."""
        limit = -1 if self._answer_at is None else self.request.settings.max_tokens
        return 0 <= limit <= len(self.tokens) - (self._answer_at or 0) or len(self.tokens) > n_ctx

    def advance(self, ctx: int, row: int, n_ctx: int) -> TokenEvent:
        """Draw the next token from logits row `row` of the llama.cpp context `ctx`."""
        restore = self._snapshot() if self._bans else None
        is_forced = bool(self._forced)
        token = self._sampler.force(self._forced.popleft()) if is_forced else self._sampler.sample(ctx, row)
        self._trace_token(ctx, row, token, is_forced)
        if self.vocab.ends(token):
            return self.finish("stop", token)
        text = self._append(ctx, row, token)
        if self.gate:
            self._forced.extend(self.gate.push(token, is_forced))
            if self.gate.is_open:
                self.gate, self._answer_at = None, len(self.tokens) - 1
        if self._bans and restore:
            n_removed = self._bans.push(HeldToken(text, token, restore))
            if n_removed:
                self._remove(self._bans, n_removed)
                return self._event("", None)
            text = self._bans.release()
        if self._stops and not self.gate:
            text, stop = self._stops.push(text)
            if stop is not None:
                return self._end(text, token, "stop")
        if self._sampler.must_end():
            return self.finish("stop", token, text)
        return self.finish("length", token, text) if self.is_full(n_ctx) else self._event(text, token)

    def _append(self, ctx: int, row: int, token: int) -> str:
        self.tokens.append(token)
        self.timings.predicted_n += 1
        text = self._decoder.decode(self.vocab.piece(token))
        if self.state:
            self.state.step(text)
        if count := self.request.settings.logprobs:
            self.logprobs.append(token_logprob(ctx, row, self.vocab.n_tokens, token, count))
        return text

    def _trace_token(self, ctx: int, row: int, token: int, is_forced: bool) -> None:
        state, tracer, temperature = self.state, self._tracer, self._sampler.temperature
        if state and tracer and temperature:
            drawn = None if is_forced else temperature.reading
            trace = tracer.trace(ctx, row, self.vocab, token, self.request.trace or 0, drawn)
            trace = trace._replace(i=len(self.traces), sentence=state.text.sentence, thinking=state.thinking)
            self.traces.append(trace._replace(time=now_ms() - self._start_ms))

    def finish(self, reason: FinishReason, token: int | None = None, text: str = "") -> TokenEvent:
        """The last event: its text, and all that was held back."""
        held = (self._bans.flush() if self._bans else "") + self._decoder.decode(b"", final=True)
        if self._stops:
            held, stop = self._stops.push(held, is_last=True)
            reason = "stop" if stop is not None and reason == "length" else reason
        return self._end(text + held, token, reason)

    def fail(self, error: LlmcliError) -> TokenEvent:
        """The last event of an answer that an error ends."""
        self.failure = error
        return self.finish("error")

    def _end(self, text: str, token: int | None, reason: FinishReason) -> TokenEvent:
        temperature = self._sampler.temperature
        self.policy_ms = temperature.seconds * 1e3 if temperature else 0.0
        is_reasoning = bool(self.request.constraint and self.gate and self.gate.thinking)
        self.is_complete = self._sampler.may_end() and not is_reasoning
        self.finish_reason = reason
        return self._event(text, token, reason)

    def _event(self, text: str, token: int | None, reason: FinishReason | None = None) -> TokenEvent:
        n_traces, n_held = len(self.traces), len(self._bans.held) if self._bans else 0
        return TokenEvent(text, token, reason, self, self.index, n_traces, max(n_traces - n_held, 0))

    def _snapshot(self) -> Callable[[], None]:
        """Note what a draw changes, and forbid what is forbidden in this one; the result restores it.

        Sampler, decoder and counts are copied before each draw, because none of them can go back: a chain has random
        generators, a decoder has half a character, and a sentence can end in the middle of a token.
        """
        sampler, decoder, state = self._sampler, self._decoder.getstate(), self.state and self.state.copy()
        gate, forced, answer_at = self.gate and self.gate.copy(), self._forced.copy(), self._answer_at
        assert isinstance(sampler, ConstrainedTokenSampler)
        sampler.forbidden = self._banned_at.get(len(self.tokens), set())
        snapshot = sampler.snapshot()

        def restore() -> None:
            sampler.restore(snapshot)
            self._decoder.setstate(decoder)
            self.gate, self._forced, self._answer_at = gate, forced, answer_at
            sampler.gate = gate if sampler.matcher else None
            if self.state and state:
                self.state.restore(state)

        return restore

    def _remove(self, bans: BanScanner, count: int) -> None:
        """Remove the last `count` tokens and forbid the first of them at its position."""
        first, bans.held = bans.held[-count], bans.held[:-count]
        first.restore()
        for values in (self.tokens, self.logprobs, self.traces):
            del values[-count:]
        self.timings.predicted_n -= count
        position = len(self.tokens)
        # What was forbidden at later positions held for another text before them.
        self._banned_at = {at: ids for at, ids in self._banned_at.items() if at <= position}
        self._banned_at.setdefault(position, set()).add(first.token)
        self.needs_evaluation = True  # the logits of this position are overwritten since
        if len(self._banned_at[position]) > _MAX_FORBIDDEN:  # each attempt costs an evaluation
            raise ConstraintError("the banned strings exclude every likely token", "ban longer phrases")

    def close(self) -> None:
        """Free the samplers; a second call has no effect."""
        if self._bans:
            self._bans.flush()
        self._sampler.close()


class Scheduler:
    """Steps the generations of one context together; between two steps, some may join and others leave.

    A generation that ends leaves its tokens in the memory of the context, as a prefix for later ones, until its
    sequence or the memory is needed. One that fails ends alone, with the reason "error" and its `failure`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: list[Generation] = []  # for a sequence, or for the prompt of others
        self._reading: list[Generation] = []  # those whose prompt, which is the same, is being evaluated
        self._running: list[Generation] = []
        self._free = list(range(context.n_seq_max))  # sequences; those that were used stand at the end
        self._used: list[int] = []  # those that have had a generation, running or not

    @property
    def generations(self) -> list[Generation]:
        """Those that wait or run."""
        return [*self._waiting, *self._reading, *self._running]

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
        if self._waiting and self._free and not self._reading:
            self._begin_prompt()
        if self._reading:
            try:
                events = self._read_batch()
            except AbortedError:  # by any of them: the others read the batch again in the next step
                return self._end_cancelled()
        # Those that removed tokens first evaluate the tokens before them.
        events += [self._backtrack(one) for one in running if one.needs_evaluation]
        ready = [one for one in running if not (one.needs_evaluation or one.finish_reason)]
        events += self._evaluate_tokens(ready) if ready else []
        for one in self.generations:
            if one.finish_reason:
                self._leave(one)
        return events

    def _end_cancelled(self) -> list[TokenEvent]:
        requests = [(one, one.request.cancellation) for one in self.generations]
        return [self.cancel(one, cancellation.reason) for one, cancellation in requests if cancellation.is_set()]

    def _leave(self, generation: Generation) -> None:
        generation.close()
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
            return self._read_batch() if self._free_memory() else [first.fail(error)]
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
            one.layout, one.needs_evaluation = context.layout(one.seq_id), False
            events.append(one.finish("length") if one.is_full(context.n_ctx) else self._draw(one, -1))
            one.timings.ttft_ms = now_ms() - one.joined_ms
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
            return self._backtrack(generation) if self._free_memory() else generation.finish("length")
        except LlmcliError as error:
            return generation.fail(error)
        generation.needs_evaluation = False
        event = self._draw(generation, -1)
        generation.timings.predicted_ms += now_ms() - start
        return event

    def _evaluate_tokens(self, ready: Sequence[Generation]) -> list[TokenEvent]:
        start, context, cancellation = now_ms(), self._context, ready[0].request.cancellation
        # Only what ends all of them may abort: a memory that cannot remove a part (recurrent) would lose the others.
        is_shared = all(one.request.cancellation is cancellation for one in ready)
        context.watch([cancellation] if is_shared else [])
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
        for row, one in enumerate(ready):  # the logits of all rows stand in the context until its next evaluation
            start = now_ms()
            events.append(self._draw(one, row))
            one.timings.predicted_ms += shared_ms + now_ms() - start
        return events

    def _draw(self, generation: Generation, row: int) -> TokenEvent:
        try:
            return generation.advance(self._context.handle, row, self._context.n_ctx)
        except LlmcliError as error:
            return generation.fail(error)

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
