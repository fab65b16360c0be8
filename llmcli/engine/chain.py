"""A plan of sampler steps, turned into a chain of `llama_sampler`s."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmcli.engine import binding, custom
from llmcli.engine.dial import Dial
from llmcli.engine.place import Place
from llmcli.engine.temperature import TemperatureSampler
from llmcli.engine.tracer import Drawn
from llmcli.engine.vocab import Vocab
from llmcli.errors import UsageError
from llmcli.params.generation import Bias
from llmcli.params.samplers import Step

# Where llama.cpp's constructor is called otherwise than the setting: llama_sampler_init_<name>.
_CONSTRUCTORS = {"temperature": "temp_ext", "typical_p": "typical"}
_CUSTOM = {"top_a": custom.make_top_a, "smoothing": custom.make_smoothing}
_TAKES_N_VOCAB = {"penalties", "mirostat"}
_TAKES_VOCAB = {"dry", "infill"}

# llama.cpp's `typical` computes NaN from a masked candidate and sorts by it: a wrong order at best, an endless
# loop at worst. A min-p this small drops masked candidates and nothing that could be drawn.
_LIVE = 1e-30


Look = Callable[[str, Any], None]  # the name of a step, and the pointer to the candidates as they are after it
BEGIN = ""  # in place of a name: the candidates as the model gives them


@dataclass(frozen=True)
class Watch:
    """What a chain is watched and moved by: the place in the answer, the dial, and what looks at each draw.

    `look`, where it is given, is called before the first step and after each.
    """

    place: Place
    dial: Dial | None = None
    drawn: Drawn | None = None
    look: Look | None = None


class Chain:
    """A `llama_sampler_chain`; the last step draws the token. Free it with `close`.

    With `watch` the temperature step is one of ours, which can be moved and read; without, only where it must be.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Sequence[Step],
        biases: Sequence[tuple[int, float]] = (),
        watch: Watch | None = None,
    ) -> None:
        self._api = api = binding.load()
        self._watch = watch
        self.customs: list[custom.CustomSampler] = []
        self.temperature: TemperatureSampler | None = None
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        self.pointer = api.llama_sampler_chain_init(params)
        self._show(BEGIN)
        if biases:
            api.llama_sampler_chain_add(self.pointer, make_bias(vocab, biases))
            self._show("logit_bias")
        for step in steps:
            if step.name == "typical_p":
                api.llama_sampler_chain_add(self.pointer, api.llama_sampler_init_min_p(_LIVE, 1))
            api.llama_sampler_chain_add(self.pointer, self._make(vocab, step))
            self._show(step.name)
        if watch and watch.drawn:
            self.customs.append(watch.drawn)
            api.llama_sampler_chain_add(self.pointer, watch.drawn.pointer)

    def _show(self, name: str) -> None:
        """Let the watch look at the candidates here."""
        if self._watch and self._watch.look:
            self.customs.append(custom.CustomSampler(name, partial(self._watch.look, name)))
            self._api.llama_sampler_chain_add(self.pointer, self.customs[-1].pointer)

    def _make(self, vocab: Vocab, step: Step) -> Any:
        if step.name in _CUSTOM:
            self.customs.append(_CUSTOM[step.name](*step.args))
            return self.customs[-1].pointer
        if step.name == "temperature" and (self._watch or len(step.args) == 1):
            watch = self._watch or Watch(Place())
            self.temperature = TemperatureSampler(step.args, watch.place, watch.dial, watch.drawn is not None)
            self.customs.append(self.temperature)
            return self.temperature.pointer
        init = getattr(self._api, "llama_sampler_init_" + _CONSTRUCTORS.get(step.name, step.name))
        if step.name in _TAKES_N_VOCAB:
            return init(vocab.n_tokens, *step.args)
        if step.name in _TAKES_VOCAB:
            return init(vocab.pointer, *_with_arrays(step.args))
        return init(*step.args)

    def accept(self, tokens: Sequence[int]) -> None:
        """Tell the penalties, DRY and adaptive-p which tokens were there before."""
        accept, pointer = self._api.llama_sampler_accept, self.pointer
        for token in tokens:
            accept(pointer, token)

    def snapshot(self) -> Any:
        """A copy of the chain's whole state (random generators, penalties), for `restore`."""
        return self._api.llama_sampler_clone(self.pointer)

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot, which is used up by this."""
        self._api.llama_sampler_free(self.pointer)
        self.pointer = snapshot

    def discard(self, snapshot: Any) -> None:
        """Free a snapshot that is no longer needed."""
        self._api.llama_sampler_free(snapshot)

    def raise_failure(self) -> None:
        """Raise what went wrong inside a Python sampler, if anything did."""
        for sampler in self.customs:
            if sampler.failure:
                failure, sampler.failure = sampler.failure, None
                raise failure

    def close(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer:
            self._api.llama_sampler_free(pointer)
        for sampler in self.customs:
            sampler.close()


def _with_arrays(args: tuple[Any, ...]) -> list[Any]:
    """A tuple of texts becomes what C takes: an array of strings and its length."""
    out: list[Any] = []
    for arg in args:
        if isinstance(arg, tuple):
            out += [(ctypes.c_char_p * max(1, len(arg)))(*[text.encode("utf-8", "replace") for text in arg]), len(arg)]
        else:
            out.append(arg)
    return out


def make_bias(vocab: Vocab, biases: Sequence[tuple[int, float]]) -> Any:
    """llama.cpp's `logit_bias` sampler for (token id, bias) pairs."""
    api = binding.load()
    entries = (api.llama_logit_bias * len(biases))(*[api.llama_logit_bias(token, bias) for token, bias in biases])
    return api.llama_sampler_init_logit_bias(vocab.n_tokens, len(biases), entries)


def resolve_biases(vocab: Vocab, biases: Sequence[Bias], ignore_eos: bool) -> list[tuple[int, float]]:
    """Biases by id: a text biases each token of it (as in llama-server), tokens given twice add up.

    Tokens that the model's file suppresses, and with `ignore_eos` all that end an answer, get -inf.

    Raises:
        UsageError: for an id outside the vocabulary.
    """
    total: dict[int, float] = {}
    for name, bias in biases:
        for token in [name] if isinstance(name, int) else vocab.tokenize(name):
            if not 0 <= token < vocab.n_tokens:
                raise UsageError(f"logit_bias: there is no token {token}, the last one is {vocab.n_tokens - 1}")
            total[token] = total.get(token, 0.0) + bias
    total |= dict.fromkeys(vocab.suppressed, -math.inf)
    if ignore_eos:
        total |= dict.fromkeys(vocab.end_tokens, -math.inf)
    return list(total.items())
