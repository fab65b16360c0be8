"""Answers token by token: the state of each, and the steps that drive one or several together."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmcli.engine.events import Timings, TokenEvent, TokenTrace, now_ms
from llmcli.engine.llama.context import AbortedError, Batches, Context, ContextParams
from llmcli.engine.llama.model import Vocab
from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.engine.sampling.chain import ChainHooks, StepObserver, resolve_biases
from llmcli.engine.sampling.constrained_sampler import ConstrainedSampler, Sampler
from llmcli.engine.sampling.grammar import Grammar
from llmcli.engine.sampling.python_samplers import DrawTracer, TokenLogprob, alternatives, token_logprob
from llmcli.engine.sampling.temperature import TemperatureShift
from llmcli.engine.sentences import DrawState
from llmcli.engine.stop_and_banned_strings import BanScanner, HeldToken, StopScanner
from llmcli.errors import ConstraintError, ContextOverflowError, LlmcliError, UsageError
from llmcli.params.policies.policy import PolicyCall
from llmcli.params.sampler_chain import build_chain
from llmcli.params.settings import Settings
from llmcli.params.temperature import effective_policy

_MAX_FORBIDDEN = 256  # tokens at one position; more would leave only very unlikely ones
Progress = Callable[[int, int], None]  # (tokens done, tokens in all)


@dataclass
class Generation:
    """The state of one answer. `settings.seed` must be a number. `generate` runs it.

    Raises:
        UsageError: for an empty prompt, an invalid grammar, or a bias for a token that does not exist.
    """

    vocab: Vocab
    prompt: Sequence[int]
    settings: Settings
    grammar: str | None = None
    seq_id: int = 0
    splitter: ReasoningSplitter | None = None  # separates reasoning from answer, for policies and the trace
    live_shift: TemperatureShift | None = None
    trace: int | None = None  # the number of alternatives to record per token; None = no trace
    on_step: StepObserver | None = None  # called at each step of each draw; needs a trace
    stores_errors: bool = False  # an error is stored in `failure` and ends it with the reason "error"; it is not raised
    tokens: list[int] = field(init=False)  # the prompt and the answer
    timings: Timings = field(init=False, default_factory=Timings)
    finish_reason: str | None = field(init=False, default=None)
    logprobs: list[TokenLogprob] = field(init=False, default_factory=list)  # if settings.logprobs > 0
    traces: list[TokenTrace] = field(init=False, default_factory=list)  # of the drawn tokens, with empty texts
    needs_evaluation: bool = field(init=False, default=True)  # the tokens must be evaluated before the next draw
    layout: Batches = field(init=False, default=())  # the batches in which the prompt was evaluated
    context_params: ContextParams | None = field(init=False, default=None)  # parameters of its context
    beside: int = field(init=False, default=0)  # number of generations in the same batches
    failure: LlmcliError | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UsageError("the prompt is empty", "add text to the prompt")
        settings, is_traced = self.settings, self.trace is not None
        self.tokens = list(self.prompt)
        self._start_ms = now_ms()
        has_policy = isinstance(effective_policy(settings), PolicyCall)
        needs_state = has_policy or is_traced or self.live_shift is not None  # without, it takes no time
        self.state = DrawState(self.splitter) if needs_state else None
        self._tracer = DrawTracer() if is_traced else None
        if self.state and settings.prefill:
            self.state.read(settings.prefill)
        self._sampler = self._make_sampler()
        self._sampler.chain.accept(self.prompt)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopScanner(settings.stop) if settings.stop else None
        self._bans = BanScanner(settings.banned_strings) if settings.banned_strings else None
        self._banned_at: dict[int, set[int]] = {}
        self._limit = len(self.prompt) + settings.max_tokens if settings.max_tokens >= 0 else 2**31

    def _make_sampler(self) -> Sampler:
        settings, vocab = self.settings, self.vocab
        hooks = ChainHooks(self.state, self.live_shift, self._tracer, self.on_step) if self.state else None
        steps = build_chain(settings, needs_temperature=hooks is not None)
        biases = resolve_biases(vocab, settings.logit_bias, settings.ignore_eos)
        if self.grammar is None and not settings.banned_strings:
            return Sampler(vocab, steps, biases, hooks)
        grammar = None if self.grammar is None else Grammar(vocab, self.grammar)
        return ConstrainedSampler(vocab, steps, biases, grammar, hooks)

    def append_drawn(self, tokens: Sequence[int]) -> None:
        """Append tokens that were drawn before; grammar and banned strings do not apply to them."""
        self._sampler.chain.accept(tokens)
        for token in tokens:
            if self.live_shift and self.state:
                self.live_shift.start_draw(self.state.total)
            self._append(None, -1, token)

    def is_full(self, n_ctx: int) -> bool:
        """Whether no more tokens can be drawn: the limit is reached or the context is full."""
        return len(self.tokens) >= self._limit or len(self.tokens) > n_ctx

    def advance(self, ctx: Any, row: int, n_ctx: int) -> TokenEvent:
        """Draw the next token from logits row `row` of the llama.cpp context `ctx`."""
        if self._bans:
            return self._advance_with_bans(ctx, row, n_ctx)
        token = self._sampler.sample(ctx, row)
        self._trace_token(ctx, row, token)
        if self.vocab.ends(token):
            return self.finish("stop", token)
        return self._emit(self._append(ctx, row, token), token, n_ctx)

    def _append(self, ctx: Any, row: int, token: int) -> str:
        """Append a token to the answer; returns its text, without the start of an incomplete character."""
        self.tokens.append(token)
        self.timings.predicted_n += 1
        text = self._decoder.decode(self.vocab.piece(token))
        if self.state:
            self.state.step(text)
        if self.settings.logprobs:
            n_vocab = self.vocab.n_tokens
            self.logprobs.append(token_logprob(ctx, row, n_vocab, token, self.settings.logprobs))
        return text

    def _trace_token(self, ctx: Any, row: int, token: int) -> None:
        """Record how the token was drawn."""
        state, tracer = self.state, self._tracer
        if not state or not tracer:
            return
        temperature = self._sampler.chain.temperature
        assert temperature
        reading = temperature.reading
        assert reading
        self.traces.append(
            TokenTrace(
                i=len(self.traces),
                id=token,
                text="",
                p=tracer.p,
                rank=tracer.rank,
                entropy=reading.entropy,
                temperature=reading.temperature,
                candidates=reading.candidates,
                top=alternatives(ctx, row, self.vocab, self.trace, tracer.left()) if self.trace else (),
                policy=reading.policy,
                sentence=state.text.sentence,
                time=now_ms() - self._start_ms,
                thinking=state.thinking,
            )
        )

    @property
    def n_final(self) -> int:
        """The number of traces of tokens that cannot be removed any more."""
        return len(self.traces) - (len(self._bans.held) if self._bans else 0)

    @property
    def policy_ms(self) -> float:
        """The time in the temperature policy, in milliseconds."""
        temperature = self._sampler.chain.temperature
        return temperature.seconds * 1e3 if temperature else 0.0

    def _emit(self, text: str, token: int | None, n_ctx: int) -> TokenEvent:
        """The event of a token whose text is final, or the last event."""
        if self._stops:
            text, stop = self._stops.push(text)
            if stop is not None:
                self.finish_reason = "stop"
                return TokenEvent(text, token, "stop", self.timings, self.seq_id)
        if self.is_full(n_ctx):
            event = self.finish("length", token)
            event.text = text + event.text
            return event
        return TokenEvent(text, token, None, self.timings, self.seq_id)

    def finish(self, reason: str, token: int | None = None) -> TokenEvent:
        """The last event, with all text that was held back."""
        text = "".join(item.text for item in self._flush_bans()) + self._decoder.decode(b"", final=True)
        if self._stops:
            text, stop = self._stops.finish(text)
            reason = "stop" if stop is not None and reason == "length" else reason
        self.finish_reason = reason
        return TokenEvent(text, token, reason, self.timings, self.seq_id)

    def _advance_with_bans(self, ctx: Any, row: int, n_ctx: int) -> TokenEvent:
        """`advance` with banned strings: saves the state before each token that is held back."""
        sampler, bans = self._sampler, self._bans
        assert isinstance(sampler, ConstrainedSampler)
        assert bans
        before, decoder = sampler.snapshot(), self._decoder.getstate()
        state = self.state.copy() if self.state else None
        sampler.forbidden = self._banned_at.get(len(self.tokens), set())
        try:
            token = sampler.sample(ctx, row)
        except BaseException:
            sampler.discard(before)
            raise
        self._trace_token(ctx, row, token)
        if self.vocab.ends(token):
            sampler.discard(before)
            return self.finish("stop", token)
        text = self._append(ctx, row, token)
        n_removed = bans.push(HeldToken(text, token, before, decoder, state))
        if n_removed:
            self._remove(sampler, bans, n_removed)
            return TokenEvent("", None, None, self.timings, self.seq_id)
        released = bans.release()
        for item in released:
            sampler.discard(item.sampler_snapshot)
        return self._emit("".join(item.text for item in released), token, n_ctx)

    def _remove(self, sampler: ConstrainedSampler, bans: BanScanner, count: int) -> None:
        """Remove the last `count` tokens and forbid the first of them at its position.

        Raises:
            ConstraintError: after too many attempts at one position; each of them costs an evaluation.
        """
        removed, bans.held = bans.held[-count:], bans.held[:-count]
        sampler.restore(removed[0].sampler_snapshot)
        for item in removed[1:]:
            sampler.discard(item.sampler_snapshot)
        self._decoder.setstate(removed[0].decoder)
        del self.tokens[-count:]
        self.timings.predicted_n -= count
        del self.logprobs[-count:]
        del self.traces[-count:]
        if self.state:
            self.state.restore(removed[0].state)
        position = len(self.tokens)
        self._banned_at = {at: ids for at, ids in self._banned_at.items() if at <= position}
        self._banned_at.setdefault(position, set()).add(removed[0].token)
        self.needs_evaluation = True
        if len(self._banned_at[position]) > _MAX_FORBIDDEN:
            raise ConstraintError("the banned strings exclude every likely token", "ban longer phrases")

    def can_end(self) -> bool:
        """Whether the answer so far matches its grammar."""
        return self._sampler.complete()

    def close(self) -> None:
        """Free the samplers; a second call has no effect."""
        self._flush_bans()
        self._sampler.close()

    def _flush_bans(self) -> list[HeldToken]:
        """The tokens that are held back; their snapshots are freed."""
        items = self._bans.flush() if self._bans else []
        for item in items:
            assert isinstance(self._sampler, ConstrainedSampler)
            self._sampler.discard(item.sampler_snapshot)
        return items


def generate(
    context: Context, generations: Sequence[Generation], progress: Progress | None = None
) -> Iterator[TokenEvent]:
    """Yield an event per token until each generation has finished, then free their samplers.

    A common prefix of several prompts is evaluated once. `progress(done, total)` counts the evaluated tokens of a
    prompt. When the abort flag of the context is set, each unfinished generation ends with the reason of the flag and
    keeps its text.

    Raises:
        ContextOverflowError: before anything is evaluated, when the context has no space for a token after a prompt.
        ConstraintError, PolicyError: when a generation that is not lenient cannot continue.
    """
    try:
        for generation in generations:
            if len(generation.prompt) >= context.n_ctx:
                raise ContextOverflowError(
                    f"the prompt has {len(generation.prompt)} tokens, the context has {context.n_ctx}",
                    "shorten the prompt or raise --ctx-size",
                )
            generation.beside = len(generations) - 1
            generation.context_params = replace(context.params, n_ctx=context.n_ctx)
        yield from _run(context, generations, progress)
    finally:
        for generation in generations:
            generation.close()


def _run(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[TokenEvent]:
    try:
        yield from _start(context, generations, progress)
        active = [generation for generation in generations if not generation.finish_reason]
        while active:
            for generation in active:
                if generation.needs_evaluation:
                    yield _backtrack(context, generation)
            ready = [
                generation for generation in active if not generation.needs_evaluation and not generation.finish_reason
            ]
            if ready:
                yield from _step(context, ready)
            active = [generation for generation in active if not generation.finish_reason]
    except AbortedError:
        for generation in generations:
            if not generation.finish_reason:
                yield generation.finish(context.abort.reason)


def _start(context: Context, generations: Sequence[Generation], progress: Progress | None) -> Iterator[TokenEvent]:
    """Evaluate each different prompt once, and draw the first token of all its generations from the same logits."""
    start = now_ms()
    by_prompt: dict[tuple[int, ...], list[Generation]] = {}
    for generation in generations:
        by_prompt.setdefault(tuple(generation.tokens), []).append(generation)
    evaluated: list[int] = []
    for group in by_prompt.values():
        _evaluate_prompt(context, group[0], evaluated, progress)
        for generation in group[1:]:
            context.share(group[0].seq_id, generation.seq_id)
        evaluated.append(group[0].seq_id)
        for generation in group:
            generation.layout, generation.needs_evaluation = context.layout(generation.seq_id), False
            event = (
                generation.finish("length") if generation.is_full(context.n_ctx) else _advance(context, generation, -1)
            )
            generation.timings.ttft_ms = now_ms() - start
            yield event


def _evaluate_prompt(
    context: Context, generation: Generation, evaluated: Sequence[int], progress: Progress | None
) -> None:
    """Evaluate the prompt, after a copy of the longest common prefix from a sequence in `evaluated`."""
    start, tokens, seq_id = now_ms(), generation.tokens, generation.seq_id
    source = max([seq_id, *evaluated], key=lambda other: context.evaluated(tokens, other))
    if source != seq_id:
        context.share(source, seq_id)
    generation.timings.prompt_n = context.prefill(seq_id, tokens, progress)
    generation.timings.prompt_ms = now_ms() - start


def _backtrack(context: Context, generation: Generation) -> TokenEvent:
    """Evaluate the tokens before a removed banned string, and draw the next one."""
    start = now_ms()
    context.prefill(generation.seq_id, generation.tokens)
    generation.needs_evaluation = False
    event = _advance(context, generation, -1)
    generation.timings.predicted_ms += now_ms() - start
    return event


def _step(context: Context, generations: Sequence[Generation]) -> Iterator[TokenEvent]:
    start = now_ms()
    try:
        context.step([(generation.seq_id, generation.tokens[-1]) for generation in generations])
    except ContextOverflowError:  # the context that the sequences share is full
        yield from [generation.finish("length") for generation in generations]
        return
    shared_ms = now_ms() - start
    for row, generation in enumerate(generations):
        start = now_ms()  # the time that the caller spends on an event does not count
        event = _advance(context, generation, row)
        generation.timings.predicted_ms += shared_ms + now_ms() - start
        yield event


def _advance(context: Context, generation: Generation, row: int) -> TokenEvent:
    try:
        return generation.advance(context.handle, row, context.n_ctx)
    except LlmcliError as error:
        if not generation.stores_errors:
            raise
        generation.failure = error
        return generation.finish("error")
