"""The sampler chain: a chain of `llama_sampler`s made from its steps as data."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmcli.engine.events import TemperatureShift
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.python_samplers import CustomSampler, DrawTracer, python_sampler
from llmcli.engine.sampling.temperature import TemperatureSampler
from llmcli.engine.sentences import DrawState
from llmcli.errors import UsageError
from llmcli.params.generation import Bias
from llmcli.params.sampler_chain import SamplerStep, TemperaturePlan
from llmcli.params.samplers import SAMPLERS

# llama.cpp's `typical` sorts by the NaN of masked candidates: the order is wrong, or the sort never ends. A min-p this
# small removes the masked candidates before it, and no token that could be drawn.
_MIN_LIVE_P = 1e-30

StepObserver = Callable[[str, Any], None]  # (name of a step, pointer to the candidates after it)
BEGIN = ""  # the name for the candidates before the first step


@dataclass(frozen=True)
class ChainHooks:
    """The hooks of a chain: the state of the answer, the temperature shift, and observers of each draw.

    `on_step` is called with the candidates before the first step and after each step. `tracer` records the drawn token.
    """

    state: DrawState
    live_shift: TemperatureShift | None = None
    tracer: DrawTracer | None = None
    on_step: StepObserver | None = None


class OwnedSampler:
    """A sampler of llama.cpp whose state can be copied."""

    def __init__(self, pointer: object) -> None:
        self._api = bindings.load()
        self.pointer: Any = pointer

    def snapshot(self) -> object:
        """A copy of the whole state (random generators, penalties), for `restore`; else it must be freed."""
        copy: object = self._api.llama_sampler_clone(self.pointer)
        return copy

    def restore(self, snapshot: object) -> None:
        """Replace the state by a snapshot, which is owned from then on."""
        self._api.llama_sampler_free(self.pointer)
        self.pointer = snapshot

    def close(self) -> None:
        """Free the sampler; a second call has no effect."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            self._api.llama_sampler_free(pointer)


class Chain(OwnedSampler):
    """A `llama_sampler_chain`; the last step draws the token. Free it with `close`.

    With `hooks`, the temperature step is a `TemperatureSampler`, which can be shifted and read. Without, it is one only
    for policies that llama.cpp does not have.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Sequence[SamplerStep],
        biases: Sequence[tuple[int, float]] = (),
        hooks: ChainHooks | None = None,
    ) -> None:
        api = bindings.load()
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        super().__init__(api.llama_sampler_chain_init(params))
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

    def _add(self, sampler: Any) -> None:
        """Add a sampler of Python or the pointer to one of llama.cpp."""
        if isinstance(sampler, CustomSampler):
            self.python_samplers.append(sampler)
            sampler = sampler.pointer
        self._api.llama_sampler_chain_add(self.pointer, sampler)

    def _add_observer(self, name: str) -> None:
        """Add a step that passes the candidates to `hooks.on_step`."""
        if self._hooks and self._hooks.on_step:
            self._add(CustomSampler(name, partial(self._hooks.on_step, name)))

    def _make(self, vocab: Vocab, step: SamplerStep) -> Any:
        sampler = SAMPLERS[step.name]
        if sampler.keep or sampler.transform:
            return python_sampler(sampler, step.args)
        init = getattr(self._api, f"llama_sampler_init_{sampler.constructor}")
        if step.name == "temperature":
            (plan,) = step.args
            assert isinstance(plan, TemperaturePlan)
            if plan.native and not self._hooks:
                return init(*plan.native)
            hooks = self._hooks or ChainHooks(DrawState())
            self.temperature = TemperatureSampler(plan, hooks.state, hooks.live_shift, hooks.tracer is not None)
            return self.temperature
        args: list[Any] = {"": [], "vocab": [vocab.pointer], "n_vocab": [vocab.n_tokens]}[sampler.first_argument]
        for arg in step.args:
            if isinstance(arg, tuple):  # of texts; in C it is an array and its length
                texts = [text.encode("utf-8", "replace") for text in arg]
                args += [(ctypes.c_char_p * max(1, len(texts)))(*texts), len(texts)]
            else:
                args.append(arg)
        return init(*args)

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

    def close(self) -> None:
        super().close()
        for sampler in self.python_samplers:
            sampler.close()


def make_bias(vocab: Vocab, biases: Sequence[tuple[int, float]]) -> Any:
    """llama.cpp's `logit_bias` sampler for (token id, bias) pairs."""
    api = bindings.load()
    entries = (api.llama_logit_bias * len(biases))(*[api.llama_logit_bias(token, bias) for token, bias in biases])
    return api.llama_sampler_init_logit_bias(vocab.n_tokens, len(biases), entries)


def resolve_biases(vocab: Vocab, biases: Sequence[Bias], ignore_eos: bool) -> list[tuple[int, float]]:
    """Biases by token id: a text biases each of its tokens (as in llama-server); biases of the same token add up.

    Tokens that the model file suppresses get -inf, and with `ignore_eos` all tokens that end an answer.

    Raises:
        UsageError: for an id outside the vocabulary.
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
