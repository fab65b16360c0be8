"""The sampler chain: made of llama.cpp's samplers from its steps as data, and the draw of a token with it."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import Constraint, TemperatureShift
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.engine.reasoning import ReasoningGate
from llmcli.engine.sampling.constraints import Matcher, make_matcher
from llmcli.engine.sampling.python_samplers import CustomSampler, DrawTracer, TemperatureSampler, python_sampler
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.generation import Bias
from llmcli.params.sampler_chain import SamplerStep, TemperaturePlan, build_chain
from llmcli.params.samplers import SAMPLERS
from llmcli.params.settings import Settings

# llama.cpp's `typical` sorts by the NaN of masked candidates: the order is wrong, or the sort never ends. A min-p this
# small removes the masked candidates before it, and no token that could be drawn.
_MIN_LIVE_P = 1e-30

Steps = Sequence[SamplerStep]
Biases = Sequence[tuple[int, float]]  # (token id, bias)
StepObserver = Callable[[str, "bindings.Candidates"], None]  # (name of a step, the candidates after it)
BEGIN = ""  # the name for the candidates before the first step


@dataclass(frozen=True)
class ChainHooks:
    """What a chain reads of its answer, and the observers of each draw."""

    state: DrawState
    live_shift: TemperatureShift | None = None
    tracer: DrawTracer | None = None  # records the drawn token
    on_step: StepObserver | None = None  # called before the first step and after each step


class TokenSampler(bindings.OwnedSampler):
    """Draws tokens with a `llama_sampler_chain`, the last step of which draws.

    With `hooks`, the temperature step is a `TemperatureSampler`, which can be shifted and read. Without, it is one only
    for policies that llama.cpp does not have.
    """

    def __init__(self, vocab: Vocab, steps: Steps, biases: Biases = (), hooks: ChainHooks | None = None) -> None:
        api = bindings.load()
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        super().__init__(api.llama_sampler_chain_init(params))
        self._sample = api.llama_sampler_sample
        self._hooks = hooks
        self.python_samplers: list[CustomSampler] = []
        self.temperature: TemperatureSampler | None = None
        self._add_observer(BEGIN)
        if biases:
            self._add(make_bias(vocab, biases))
            self._add_observer("logit_bias")
        for step in steps:
            if SAMPLERS[step.name].breaks_on_masks:
                self._add(api.llama_sampler_init_min_p(_MIN_LIVE_P, 1))
            self._add(self._make(vocab, step))
            self._add_observer(step.name)
        if hooks and hooks.tracer:
            self._add(hooks.tracer)

    def _add(self, sampler: "CustomSampler | bindings.Pointer") -> None:
        if isinstance(sampler, CustomSampler):
            self.python_samplers.append(sampler)
            sampler = sampler.pointer
        self._api.llama_sampler_chain_add(self.pointer, sampler)  # the chain frees it

    def _add_observer(self, name: str) -> None:
        if self._hooks and self._hooks.on_step:
            self._add(CustomSampler(name, partial(self._hooks.on_step, name)))

    def _make(self, vocab: Vocab, step: SamplerStep) -> "CustomSampler | bindings.Pointer":
        sampler = SAMPLERS[step.name]
        if sampler.keep or sampler.transform:
            return python_sampler(sampler, step.args)
        init: Callable[..., bindings.Pointer] = getattr(self._api, f"llama_sampler_init_{sampler.constructor}")
        if step.name == "temperature":
            (plan,) = step.args
            assert isinstance(plan, TemperaturePlan)
            if plan.native and not self._hooks:
                return init(*plan.native)
            hooks = self._hooks or ChainHooks(DrawState())
            self.temperature = TemperatureSampler(plan, hooks.state, hooks.live_shift, hooks.tracer is not None)
            return self.temperature
        first = {"": (), "vocab": (vocab.pointer,), "n_vocab": (vocab.n_tokens,)}[sampler.first_argument]
        args: list[object] = [*first]
        for arg in step.args:
            if isinstance(arg, tuple):  # of texts; in C it is an array and its length
                texts = [text.encode("utf-8", "replace") for text in arg]
                args += [(ctypes.c_char_p * max(1, len(texts)))(*texts), len(texts)]
            else:
                args.append(arg)
        return init(*args)

    def sample(self, ctx: int, row: int) -> int:
        """The next token from the logits of batch row `row` (-1 = the last), which it adds to the history of the chain.

        The logits are in a buffer of the context `ctx` that its next evaluation overwrites.
        """
        token: int = self._sample(self.pointer, ctx, row)
        if self.python_samplers:
            self.raise_failure()
        return token

    def force(self, token: int) -> int:
        """Add a token that is not drawn but given; no constraint applies to it."""
        self.accept([token])
        return token

    def accept(self, tokens: Sequence[int]) -> None:
        """Add tokens to the history of the penalties, DRY and adaptive-p."""
        accept, pointer = self._api.llama_sampler_accept, self.pointer
        for token in tokens:
            accept(pointer, token)

    def raise_failure(self) -> None:
        """Raise the error of a Python sampler, if one failed."""
        for sampler in self.python_samplers:
            if sampler.failure:
                failure, sampler.failure = sampler.failure, None
                raise failure

    def may_end(self) -> bool:
        """Whether the answer can end now."""
        return True

    def must_end(self) -> bool:
        """Whether nothing can follow, as far as is known before a draw."""
        return False


class ConstrainedTokenSampler(TokenSampler):
    """Draws tokens that match a constraint and are not forbidden.

    As in llama.cpp's common_sampler_sample, the chain draws without the constraint first. Only if that rejects the
    token, a second draw masks all candidates, which is slow. The entry, a Python sampler, stands before the chain and
    calls it, so that the candidates stay in C.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Steps,
        biases: Biases,
        hooks: ChainHooks | None = None,
        matcher: Matcher | None = None,
        gate: ReasoningGate | None = None,
    ) -> None:
        """The constraint begins where the `gate` says that the answer does."""
        # The entry applies the biases itself, before it checks whether a candidate is left.
        super().__init__(vocab, steps, (), hooks)
        api = self._api
        self._on_step: StepObserver = hooks.on_step if hooks and hooks.on_step else lambda _name, _candidates: None
        self.matcher = matcher
        self.gate = gate if matcher else None
        if self.gate:
            self.gate.completes_tags = True
        self.forbidden: set[int] = set()
        self._is_masked = False
        self._is_empty = False
        self._bias = bindings.OwnedSampler(make_bias(vocab, biases)) if biases else None
        self._greedy = bindings.OwnedSampler(api.llama_sampler_init_greedy())
        entry = CustomSampler("constraint", self._apply)
        self.python_samplers.append(entry)  # for its errors
        # A chain of one sampler, because llama_sampler_sample reuses its buffer of candidates only for a chain.
        self._outer = bindings.OwnedSampler(api.llama_sampler_chain_init(api.llama_sampler_chain_default_params()))
        api.llama_sampler_chain_add(self._outer.pointer, entry.pointer)

    def _apply(self, candidates: "bindings.Candidates") -> None:
        """Apply forbidden tokens, the mask of the constraint and biases, then the chain."""
        apply, array = self._api.llama_sampler_apply, candidates.contents
        array.selected = 0  # llama.cpp aborts without a selected token, which an exception below would cause
        self._on_step(BEGIN, candidates)
        for token in self.forbidden:
            array.data[token].logit = -math.inf
        if self.forbidden:
            self._on_step("banned_strings", candidates)
        if self._is_masked and self.matcher:
            self.matcher.apply(candidates)
            self._on_step("constraint", candidates)
        if self._bias:
            apply(self._bias.pointer, candidates)
            self._on_step("logit_bias", candidates)
        if self._is_masked or self.forbidden:  # a chain without a live candidate would draw a masked one
            apply(self._greedy.pointer, candidates)
            self._is_empty = array.data[array.selected].logit == -math.inf
            if self._is_empty:
                return
        array.selected = -1
        apply(self.pointer, candidates)

    def sample(self, ctx: int, row: int) -> int:
        """The next token. Raises ConstraintError when constraint, biases and banned strings exclude every token."""
        self._is_masked = False
        token = self._draw(ctx, row)
        is_free = False
        if self.matcher and self.gate:
            token, is_free = self._draw_reasoning(ctx, row, token, self.gate)
        if self.matcher and not is_free and not self.matcher.allows(token):
            self._is_masked = True
            token = self._draw(ctx, row)
        # llama_sampler_sample has added the token to the outer chain, whose entry has no history: this one has it.
        self.accept([token])
        if self.matcher and not is_free:
            self.matcher.accept(token)
            self._open_gate()
        return token

    def _open_gate(self) -> None:
        if self.gate:
            self.gate.is_open, self.gate = True, None

    def _draw_reasoning(self, ctx: int, row: int, token: int, gate: ReasoningGate) -> tuple[int, bool]:
        """A token that is all reasoning or all answer, and whether it is reasoning, which is free."""
        forbidden = self.forbidden
        try:
            while (side := gate.side(token)) == "both":
                self.forbidden = self.forbidden | {token}
                token = self._draw(ctx, row)
        finally:
            self.forbidden = forbidden
        assert self.matcher
        is_opener = side == "answer" and not self.matcher.allows(token) and bool(gate.rest_of_opener(token))
        return token, side == "reasoning" or is_opener

    def _draw(self, ctx: int, row: int) -> int:
        self._is_empty = False
        token: int = self._sample(self._outer.pointer, ctx, row)
        self.raise_failure()
        if self._is_empty or (self._is_masked and self.matcher and not self.matcher.allows(token)):
            raise ConstraintError("no token satisfies the constraints", "relax the grammar, --ban or --logit-bias")
        return token

    def snapshot(self) -> tuple[bindings.OwnedSampler, Matcher | None]:
        """A copy of the state of chain and constraint, for `restore`."""
        return self.clone(), self.matcher.copy() if self.matcher else None

    def restore(self, snapshot: tuple[bindings.OwnedSampler, Matcher | None]) -> None:
        """Continue from a snapshot, which must not be used afterwards."""
        self.replace(snapshot[0])
        if self.matcher:
            self.matcher.close()
        self.matcher = snapshot[1]

    def may_end(self) -> bool:
        return self.matcher is None or self.matcher.may_end()

    def must_end(self) -> bool:
        return self.matcher is not None and self.matcher.must_end()

    def close(self) -> None:
        self._outer.close()
        super().close()
        if self.matcher:
            self.matcher.close()


def make_token_sampler(
    vocab: Vocab,
    settings: Settings,
    hooks: ChainHooks | None,
    constraint: Constraint | None,
    gate: ReasoningGate | None,
) -> TokenSampler:
    """The sampler of an answer. A prefill is the beginning of what the constraint is of.

    Raises UsageError when the constraint is not valid, the prefill does not match it, or a bias has no token.
    """
    steps = build_chain(settings, needs_temperature=hooks is not None)
    biases = resolve_biases(vocab, settings.logit_bias, settings.ignore_eos)
    if constraint is None and not settings.banned_strings:
        return TokenSampler(vocab, steps, biases, hooks)
    matcher = make_matcher(vocab, constraint) if constraint else None
    for token in vocab.tokenize_exactly((settings.prefill or "").encode()) if matcher else ():
        assert matcher
        if not matcher.allows(token):
            told = "the beginning of the answer (prefill) does not match the constraint"
            raise UsageError(told, "change one of them")
        matcher.accept(token)
    return ConstrainedTokenSampler(vocab, steps, biases, hooks, matcher, gate)


def make_bias(vocab: Vocab, biases: Biases) -> "bindings.Pointer":
    """llama.cpp's `logit_bias` sampler."""
    api = bindings.load()
    entries = (api.llama_logit_bias * len(biases))(*[api.llama_logit_bias(token, bias) for token, bias in biases])
    pointer: bindings.Pointer = api.llama_sampler_init_logit_bias(vocab.n_tokens, len(biases), entries)
    return pointer


def resolve_biases(vocab: Vocab, biases: Sequence[Bias], ignore_eos: bool) -> list[tuple[int, float]]:
    """Biases by token id: a text biases each of its tokens (as in llama-server); biases of the same token add up.

    Tokens that the model file suppresses get -inf, and with `ignore_eos` all tokens that end an answer. Raises
    UsageError for an id outside the vocabulary.
    """
    total: dict[int, float] = {}
    for name, bias in biases:
        for token in [name] if isinstance(name, int) else vocab.tokenize(name):
            if not 0 <= token < vocab.n_tokens:
                raise UsageError(f"logit_bias: token id {token} is out of range (0 to {vocab.n_tokens - 1})")
            total[token] = total.get(token, 0.0) + bias
    total |= dict.fromkeys(vocab.suppressed, -math.inf)
    if ignore_eos:
        total |= dict.fromkeys(vocab.end_tokens, -math.inf)
    return list(total.items())
