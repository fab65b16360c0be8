"""One answer, token by token: a `Generation` draws tokens, and removes those that are banned."""

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmcli.engine.answer_text import BanScanner, HeldToken, StopScanner
from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import FinishReason, GenerationRecord, Request, TokenEvent, now_ms
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
from llmcli.engine.speculation import Speculation
from llmcli.errors import ConstraintError, LlmcliError, UsageError
from llmcli.params.policies.policy import PolicyCall
from llmcli.params.sampler_chain import effective_policy

_MAX_FORBIDDEN = 256  # tokens at one position; more would leave only very unlikely ones


def max_new_tokens(request: Request, gate: ReasoningGate | None) -> int:
    """The number of tokens that the reasoning and the answer to a request can have together; -1 if it is not known."""
    answer = request.settings.max_tokens
    reasoning = gate.max_tokens if gate and answer > 0 else 0
    return -1 if reasoning < 0 else answer + reasoning


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
    speculation: Speculation | None = None  # drafts tokens, while nothing runs beside it
    drafted: int | None = field(init=False, default=None)  # the token that a draft has for the next draw

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

    @property
    def max_new_tokens(self) -> int:
        """The number of tokens that reasoning and answer can have together; -1 if it is not known."""
        return max_new_tokens(self.request, self.gate)

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
        return self.n_left(n_ctx) <= 0

    def n_left(self, n_ctx: int) -> int:
        """The number of tokens that can be drawn at most before it is full."""
        limit = -1 if self._answer_at is None else self.request.settings.max_tokens
        most = n_ctx + 1 - len(self.tokens)
        return most if limit < 0 else min(most, limit + (self._answer_at or 0) - len(self.tokens))

    def advance(self, ctx: int, row: int, n_ctx: int) -> TokenEvent:
        """Draw the next token from logits row `row` of the llama.cpp context `ctx`."""
        is_forced = bool(self._forced)
        restore = self._snapshot() if self._bans and not is_forced else None
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
        elif self._bans:  # a token that is given cannot be drawn again: no ban applies to it
            text = self._bans.flush() + text
        if self._stops and not self.gate:
            text, stop = self._stops.push(text)
            if stop is not None:
                self.stop_string = stop
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
            is_drafted = token == self.drafted
            self.traces.append(trace._replace(time=now_ms() - self._start_ms, drafted=is_drafted))

    def finish(self, reason: FinishReason, token: int | None = None, text: str = "") -> TokenEvent:
        """The last event: its text, and all that was held back."""
        held = (self._bans.flush() if self._bans else "") + self._decoder.decode(b"", final=True)
        if self._stops:
            held, stop = self._stops.push(held, is_last=True)
            if stop is not None and reason == "length":
                reason, self.stop_string = "stop", stop
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
        n_final, n_tokens = max(n_traces - n_held, 0), len(self.tokens)
        return TokenEvent(text, token, reason, self, self.index, n_traces, n_final, n_tokens=n_tokens)

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
