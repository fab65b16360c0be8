"""Candidates with given logits, and chains of the engine applied to them."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from llmcli.engine.draw_state import DrawState
from llmcli.engine.llama import bindings
from llmcli.engine.sampling.chain import ChainHooks, TokenSampler
from llmcli.engine.token_inspection import CandidateCapture
from llmcli.params.policies.policy import Fixed
from llmcli.params.sampler_chain import SamplerStep, build_chain
from llmcli.params.settings import Settings

# Every sampler off, so that a chain has only what a test switches on.
NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": Fixed(1.0), "seed": 7}


@dataclass
class ChainOutput:
    """The output of a chain: ids in order, logit and probability by id, and the drawn id or None."""

    ids: list[int]
    logits: dict[int, float]
    p: dict[int, float]
    drawn: int | None

    @property
    def live(self) -> set[int]:
        """The ids that can still be drawn."""
        return {token for token in self.ids if self.logits[token] > -math.inf}


def make_steps(draw: bool = False, **settings: Any) -> tuple[SamplerStep, ...]:
    """The steps of the chain of these settings, with the draw at its end if `draw`."""
    made = build_chain(Settings(**(NEUTRAL | settings)))
    return made if draw else made[:-1]


def make_chain(
    made: Sequence[SamplerStep], n_vocab: int, biases: Sequence[tuple[int, float]] = (), vocab: Any = None
) -> TokenSampler:
    """A chain of the engine; without `vocab` the vocabulary has only a size."""
    only_size: Any = SimpleNamespace(n_tokens=n_vocab, pointer=None)
    return TokenSampler(vocab or only_size, made, biases)


def apply_chain(chain: TokenSampler, logits: Sequence[float]) -> ChainOutput:
    """Apply the chain to tokens 0, 1, 2, ... with these logits."""
    api = bindings.load()
    rows = (api.llama_token_data * len(logits))(*[api.llama_token_data(i, x, 0.0) for i, x in enumerate(logits)])
    pointer = ctypes.cast(rows, ctypes.POINTER(api.llama_token_data))
    array = api.llama_token_data_array(pointer, len(logits), -1, False)
    api.llama_sampler_apply(chain.pointer, ctypes.byref(array))
    chain.raise_failure()
    kept = [array.data[i] for i in range(array.size)]
    drawn = kept[array.selected].id if array.selected >= 0 else None
    return ChainOutput([k.id for k in kept], {k.id: k.logit for k in kept}, {k.id: k.p for k in kept}, drawn)


def apply_samplers(
    logits: Sequence[float], accepted: Sequence[int] = (), biases: Sequence[tuple[int, float]] = (), **settings: Any
) -> ChainOutput:
    """The output of the samplers of settings for these logits, after the tokens `accepted`."""
    draw = bool(settings.get("mirostat")) or settings.get("samplers") == ("adaptive_p",)
    chain = make_chain(make_steps(draw, **settings), len(logits), biases)
    chain.accept(accepted)
    try:
        return apply_chain(chain, logits)
    finally:
        chain.close()


def log_probabilities(probabilities: Sequence[float]) -> list[float]:
    """Logits of a distribution."""
    return [math.log(p) if p else -math.inf for p in probabilities]


def capture_steps(
    made: Sequence[SamplerStep],
    logits: Sequence[float],
    biases: Sequence[tuple[int, float]] = (),
    accepted: Sequence[int] = (),
    vocab: Any = None,
) -> CandidateCapture:
    """Capture each step of a chain over these logits, after the tokens `accepted`."""
    capture, only_size = CandidateCapture(), SimpleNamespace(n_tokens=len(logits), pointer=vocab and vocab.pointer)
    chain = TokenSampler(only_size, made, biases, ChainHooks(DrawState(), on_step=capture.record))  # type: ignore[arg-type]
    chain.accept(accepted)
    apply_chain(chain, logits)
    chain.close()
    return capture
