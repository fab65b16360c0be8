"""One answer, token by token: its text, where stop strings end it, and which tokens banned strings take back."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmcli.engine.answer_text import BanScanner, DrawState, HeldToken, ReasoningSplitter, StopScanner
from llmcli.engine.events import (
    Cancellation,
    FinishReason,
    GenerationRecord,
    TemperatureShift,
    TokenEvent,
    TokenTrace,
    now_ms,
)
from llmcli.engine.llama.context import Progress
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.chain import ChainHooks, ConstrainedTokenSampler, StepObserver, TokenSampler, resolve_biases
from llmcli.engine.sampling.grammar import Grammar
from llmcli.engine.sampling.python_samplers import DrawTracer, alternatives, token_logprob
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.policies.policy import PolicyCall
from llmcli.params.sampler_chain import build_chain, effective_policy
from llmcli.params.settings import Settings

_MAX_FORBIDDEN = 256  # tokens at one position; more would leave only very unlikely ones


@dataclass(eq=False)
class Generation(GenerationRecord):
    """The state of one answer, which a `Scheduler` runs.

    Raises UsageError for an empty prompt, an invalid grammar, or a bias for a token that does not exist.
    """

    vocab: Vocab
    prompt: Sequence[int]
    settings: Settings  # the seed must be a number
    grammar: str | None = None
    index: int = 0  # in each of its events
    cancellation: Cancellation = field(default_factory=Cancellation)  # ends it, and keeps its text
    progress: Progress | None = None  # called while its prompt is evaluated
    splitter: ReasoningSplitter | None = None  # separates reasoning from answer, for policies and the trace
    live_shift: TemperatureShift | None = None
    trace: int | None = None  # the number of alternatives to record per token; None = no trace
    on_step: StepObserver | None = None  # called at each step of each draw; needs a trace
    seq_id: int = field(init=False, default=0)  # its sequence in the context
    joined_ms: float = field(init=False, default=0.0)  # when it joined others in a context
    needs_evaluation: bool = field(init=False, default=True)  # the tokens must be evaluated before the next draw

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
        self._sampler.accept(self.prompt)  # penalties and DRY look at the prompt too, as in llama.cpp's programs
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopScanner(settings.stop) if settings.stop else None
        self._bans = BanScanner(settings.banned_strings) if settings.banned_strings else None
        self._banned_at: dict[int, set[int]] = {}
        self._limit = len(self.prompt) + settings.max_tokens if settings.max_tokens >= 0 else 2**31

    def _make_sampler(self) -> TokenSampler:
        settings, vocab = self.settings, self.vocab
        hooks = ChainHooks(self.state, self.live_shift, self._tracer, self.on_step) if self.state else None
        steps = build_chain(settings, needs_temperature=hooks is not None)
        biases = resolve_biases(vocab, settings.logit_bias, settings.ignore_eos)
        if self.grammar is None and not settings.banned_strings:
            return TokenSampler(vocab, steps, biases, hooks)
        grammar = None if self.grammar is None else Grammar(vocab, self.grammar)
        return ConstrainedTokenSampler(vocab, steps, biases, grammar, hooks)

    def append_drawn(self, tokens: Sequence[int]) -> None:
        """Append tokens that were drawn before; grammar and banned strings do not apply to them."""
        self._sampler.accept(tokens)
        for token in tokens:
            if self.live_shift and self.state:
                self.live_shift.start_draw(self.state.total)
            self._append(None, -1, token)

    def is_full(self, n_ctx: int) -> bool:
        """Whether no more tokens can be drawn: the limit is reached or the context is full."""
        return len(self.tokens) >= self._limit or len(self.tokens) > n_ctx

    def advance(self, ctx: int, row: int, n_ctx: int) -> TokenEvent:
        """Draw the next token from logits row `row` of the llama.cpp context `ctx`."""
        restore = self._snapshot() if self._bans else None
        token = self._sampler.sample(ctx, row)
        self._trace_token(ctx, row, token)
        if self.vocab.ends(token):
            return self.finish("stop", token)
        text = self._append(ctx, row, token)
        if self._bans and restore:
            n_removed = self._bans.push(HeldToken(text, token, restore))
            if n_removed:
                self._remove(self._bans, n_removed)
                return self._event("", None)
            text = self._bans.release()
        if self._stops:
            text, stop = self._stops.push(text)
            if stop is not None:
                return self._end(text, token, "stop")
        if self.is_full(n_ctx):
            event = self.finish("length", token)
            event.text = text + event.text
            return event
        return self._event(text, token)

    def _append(self, ctx: int | None, row: int, token: int) -> str:
        """Append a token to the answer; returns its text, without the start of an incomplete character."""
        self.tokens.append(token)
        self.timings.predicted_n += 1
        text = self._decoder.decode(self.vocab.piece(token))
        if self.state:
            self.state.step(text)
        if self.settings.logprobs and ctx is not None:
            self.logprobs.append(token_logprob(ctx, row, self.vocab.n_tokens, token, self.settings.logprobs))
        return text

    def _trace_token(self, ctx: int, row: int, token: int) -> None:
        """Record how the token was drawn."""
        state, tracer, temperature = self.state, self._tracer, self._sampler.temperature
        if not state or not tracer or not temperature:
            return
        reading = temperature.reading
        # The alternatives are read now: the next evaluation overwrites the logits.
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

    def finish(self, reason: FinishReason, token: int | None = None) -> TokenEvent:
        """The last event, with all text that was held back."""
        text = (self._bans.flush() if self._bans else "") + self._decoder.decode(b"", final=True)
        if self._stops:
            text, stop = self._stops.push(text, is_last=True)
            reason = "stop" if stop is not None and reason == "length" else reason
        return self._end(text, token, reason)

    def _end(self, text: str, token: int | None, reason: FinishReason) -> TokenEvent:
        temperature = self._sampler.temperature
        self.policy_ms = temperature.seconds * 1e3 if temperature else 0.0
        self.is_complete = self._sampler.complete()
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
        assert isinstance(sampler, ConstrainedTokenSampler)
        sampler.forbidden = self._banned_at.get(len(self.tokens), set())
        snapshot = sampler.snapshot()

        def restore() -> None:
            sampler.restore(snapshot)
            self._decoder.setstate(decoder)
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
