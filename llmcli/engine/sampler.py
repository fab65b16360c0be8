"""Drawing one token: the chain alone, or the chain behind a gate of grammar and forbidden tokens."""

import math
from collections.abc import Sequence
from typing import Any

from llmcli.engine import binding
from llmcli.engine.chain import BEGIN, Chain, Look, Watch, make_bias
from llmcli.engine.custom import CustomSampler
from llmcli.engine.grammar import Grammar
from llmcli.engine.vocab import Vocab
from llmcli.errors import ConstraintError
from llmcli.params.samplers import Step

Biases = Sequence[tuple[int, float]]


class Sampler:
    """Draws tokens with llama.cpp's chain. `sample` also accepts what it drew."""

    def __init__(self, vocab: Vocab, steps: Sequence[Step], biases: Biases, watch: Watch | None = None) -> None:
        self._api = binding.load()
        self.chain = Chain(vocab, steps, biases, watch)
        self._sample = self._api.llama_sampler_sample

    def sample(self, ctx: Any, row: int) -> int:
        """The next token from the logits of batch row `row` (-1 = the last)."""
        token: int = self._sample(self.chain.pointer, ctx, row)
        if self.chain.customs:
            self.chain.raise_failure()
        return token

    def complete(self) -> bool:
        """Whether the output may end here."""
        return True

    def close(self) -> None:
        self.chain.close()


class GatedSampler(Sampler):
    """Draws tokens that keep a grammar and avoid forbidden ids.

    The grammar works by rejection, as in llama.cpp's common_sampler_sample: the chain draws freely, and only a
    token that the grammar refuses costs a second draw with the grammar applied to all candidates. The gate is a
    sampler of ours around the chain, so the candidates never leave C.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Sequence[Step],
        biases: Biases,
        grammar: Grammar | None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(vocab, steps, (), watch)
        api = self._api
        self._look: Look = watch.look if watch and watch.look else _look_away
        self.grammar = grammar
        self.forbidden: set[int] = set()
        self._strict = False
        self._dead_end = False
        self._bias = make_bias(vocab, biases) if biases else None
        self._greedy = api.llama_sampler_init_greedy()
        self._gate = CustomSampler("gate", self._apply)
        # Inside a chain, because llama_sampler_sample reuses the candidate buffer of a chain only.
        self._outer = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(self._outer, self._gate.pointer)

    def _apply(self, candidates: Any) -> None:
        """What stands before the chain; a null sampler is a no-op for llama.cpp."""
        api, array = self._api, candidates.contents
        array.selected = 0  # whatever happens below, llama.cpp finds a selected token
        self._look(BEGIN, candidates)
        for token in self.forbidden:
            array.data[token].logit = -math.inf
        if self.forbidden:
            self._look("banned_strings", candidates)
        if self._strict and self.grammar:
            api.llama_sampler_apply(self.grammar.pointer, candidates)
            self._look("grammar", candidates)
        if self._bias:
            api.llama_sampler_apply(self._bias, candidates)
            self._look("logit_bias", candidates)
        if self._strict or self.forbidden:
            api.llama_sampler_apply(self._greedy, candidates)
            self._dead_end = array.data[array.selected].logit == -math.inf
            if self._dead_end:
                return
        array.selected = -1
        api.llama_sampler_apply(self.chain.pointer, candidates)

    def sample(self, ctx: Any, row: int) -> int:
        """The next token.

        Raises:
            ConstraintError: when grammar, biases and banned strings together leave no token.
        """
        self._strict = False
        token = self._draw(ctx, row)
        if self.grammar and not self.grammar.allows(token):
            self._strict = True
            token = self._draw(ctx, row)
        self._api.llama_sampler_accept(self.chain.pointer, token)
        if self.grammar:
            self.grammar.accept(token)
        return token

    def _draw(self, ctx: Any, row: int) -> int:
        self._dead_end = False
        token: int = self._sample(self._outer, ctx, row)
        failure, self._gate.failure = self._gate.failure, None
        if failure:
            raise failure
        self.chain.raise_failure()
        if self._dead_end or (self._strict and self.grammar and not self.grammar.allows(token)):
            raise ConstraintError("no token fits the constraint here", "loosen the grammar, the bans or the biases")
        return token

    def snapshot(self) -> tuple[Any, Any]:
        """The state of chain and grammar, for `restore` (which uses it up) or `discard`."""
        return self.chain.snapshot(), self.grammar.clone() if self.grammar else None

    def restore(self, snapshot: tuple[Any, Any]) -> None:
        self.chain.restore(snapshot[0])
        if self.grammar:
            self.grammar.restore(snapshot[1])

    def discard(self, snapshot: tuple[Any, Any]) -> None:
        self.chain.discard(snapshot[0])
        if snapshot[1]:
            self._api.llama_sampler_free(snapshot[1])

    def complete(self) -> bool:
        return self.grammar is None or self.grammar.may_end()

    def close(self) -> None:
        super().close()
        if self.grammar:
            self.grammar.close()
        for pointer in (self._outer, self._greedy, self._bias):
            if pointer:
                self._api.llama_sampler_free(pointer)
        self._outer = self._greedy = self._bias = None


def _look_away(_name: str, _candidates: Any) -> None:
    pass
