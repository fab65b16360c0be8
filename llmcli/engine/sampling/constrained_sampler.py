"""Samplers that draw a token: with the chain alone, or with a grammar and forbidden tokens before it."""

import math
from collections.abc import Sequence
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.chain import BEGIN, Chain, ChainHooks, OwnedSampler, StepObserver, make_bias
from llmcli.engine.sampling.grammar import Grammar
from llmcli.engine.sampling.python_samplers import CustomSampler
from llmcli.errors import ConstraintError
from llmcli.params.param import SamplerStep

Biases = Sequence[tuple[int, float]]


class Sampler:
    """Draws tokens with the chain. `sample` also adds the token to the history of the chain."""

    def __init__(
        self, vocab: Vocab, steps: Sequence[SamplerStep], biases: Biases, hooks: ChainHooks | None = None
    ) -> None:
        self._api = bindings.load()
        self.chain = Chain(vocab, steps, biases, hooks)
        self._sample = self._api.llama_sampler_sample

    def sample(self, ctx: Any, row: int) -> int:
        """The next token from the logits of batch row `row` (-1 = the last)."""
        token: int = self._sample(self.chain.pointer, ctx, row)
        if self.chain.python_samplers:
            self.chain.raise_failure()
        return token

    def complete(self) -> bool:
        """Whether the output can end now."""
        return True

    def close(self) -> None:
        """Free the samplers; a second call has no effect."""
        self.chain.close()


class ConstrainedSampler(Sampler):
    """Draws tokens that match a grammar and are not forbidden.

    As in llama.cpp's common_sampler_sample, the chain draws without the grammar first. Only if the grammar rejects the
    token, a second draw applies the grammar to all candidates, which is slow. The gate is a Python sampler that calls
    the chain, so the candidates stay in C.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Sequence[SamplerStep],
        biases: Biases,
        grammar: Grammar | None,
        hooks: ChainHooks | None = None,
    ) -> None:
        super().__init__(vocab, steps, (), hooks)
        api = bindings.load()
        self._on_step: StepObserver = hooks.on_step if hooks and hooks.on_step else lambda _name, _candidates: None
        self.grammar = grammar
        self.forbidden: set[int] = set()
        self._with_grammar = False
        self._is_empty = False
        self._bias = make_bias(vocab, biases) if biases else None
        self._greedy = api.llama_sampler_init_greedy()
        gate = CustomSampler("gate", self._apply, owned=[self._greedy, *filter(None, [self._bias])])
        self.chain.python_samplers.append(gate)  # the chain raises its errors, and closes it
        # A chain of one sampler, because llama_sampler_sample reuses its buffer of candidates only for a chain.
        self._outer = OwnedSampler(api.llama_sampler_chain_init(api.llama_sampler_chain_default_params()))
        api.llama_sampler_chain_add(self._outer.pointer, gate.pointer)

    def _apply(self, candidates: Any) -> None:
        """Apply forbidden tokens, grammar and biases, then the chain."""
        api, array = self._api, candidates.contents
        array.selected = 0  # llama.cpp aborts without a selected token, which an exception below would cause
        self._on_step(BEGIN, candidates)
        for token in self.forbidden:
            array.data[token].logit = -math.inf
        if self.forbidden:
            self._on_step("banned_strings", candidates)
        if self._with_grammar and self.grammar:
            api.llama_sampler_apply(self.grammar.pointer, candidates)
            self._on_step("grammar", candidates)
        if self._bias:
            api.llama_sampler_apply(self._bias, candidates)
            self._on_step("logit_bias", candidates)
        if self._with_grammar or self.forbidden:
            api.llama_sampler_apply(self._greedy, candidates)
            self._is_empty = array.data[array.selected].logit == -math.inf
            if self._is_empty:
                return
        array.selected = -1
        api.llama_sampler_apply(self.chain.pointer, candidates)

    def sample(self, ctx: Any, row: int) -> int:
        """The next token.

        Raises:
            ConstraintError: when grammar, biases and banned strings exclude every token.
        """
        self._with_grammar = False
        token = self._draw(ctx, row)
        if self.grammar and not self.grammar.allows(token):
            self._with_grammar = True
            token = self._draw(ctx, row)
        self._api.llama_sampler_accept(self.chain.pointer, token)
        if self.grammar:
            self.grammar.accept(token)
        return token

    def _draw(self, ctx: Any, row: int) -> int:
        self._is_empty = False
        token: int = self._sample(self._outer.pointer, ctx, row)
        self.chain.raise_failure()
        if self._is_empty or (self._with_grammar and self.grammar and not self.grammar.allows(token)):
            raise ConstraintError("no token satisfies the constraints", "relax the grammar, --ban or --logit-bias")
        return token

    def snapshot(self) -> tuple[Any, Any]:
        """A copy of the state of chain and grammar; pass it to `restore` or `discard`, once."""
        return self.chain.snapshot(), self.grammar.snapshot() if self.grammar else None

    def restore(self, snapshot: tuple[Any, Any]) -> None:
        self.chain.restore(snapshot[0])
        if self.grammar:
            self.grammar.restore(snapshot[1])

    def discard(self, snapshot: tuple[Any, Any]) -> None:
        for pointer in filter(None, snapshot):
            self._api.llama_sampler_free(pointer)

    def complete(self) -> bool:
        return self.grammar is None or self.grammar.may_end()

    def close(self) -> None:
        self._outer.close()
        super().close()
        if self.grammar:
            self.grammar.close()
