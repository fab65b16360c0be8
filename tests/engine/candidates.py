"""Hand-made candidates, and one-step chains applied to them as the engine applies them."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from llmcli.engine import binding
from llmcli.engine.chain import Chain, Watch
from llmcli.engine.film import Film
from llmcli.engine.place import Place
from llmcli.params.policy.tree import Fixed
from llmcli.params.samplers import Step, plan
from llmcli.params.settings import Settings

# Every sampler off, so that a plan holds only what a test switches on.
NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": Fixed(1.0), "seed": 7}


@dataclass
class ChainOutput:
    """What a chain leaves: the ids in their order, logit and probability by id, the id it drew (or None)."""

    ids: list[int]
    logits: dict[int, float]
    p: dict[int, float]
    drawn: int | None

    @property
    def live(self) -> set[int]:
        """The ids that can still be drawn."""
        return {token for token in self.ids if self.logits[token] > -math.inf}


def plan_steps(draw: bool = False, **settings: Any) -> tuple[Step, ...]:
    """The plan of some settings, with the draw at its end or without."""
    made = plan(Settings(**(NEUTRAL | settings)))
    return made if draw else made[:-1]


def make_chain(
    made: Sequence[Step], n_vocab: int, biases: Sequence[tuple[int, float]] = (), vocab: Any = None
) -> Chain:
    """The engine's own chain over a vocabulary that has only a size, unless a real one is given."""
    only_size: Any = SimpleNamespace(n_tokens=n_vocab, pointer=None)
    return Chain(vocab or only_size, made, biases)


def apply_chain(chain: Chain, logits: Sequence[float]) -> ChainOutput:
    """One step of the chain over tokens 0, 1, 2, ..."""
    api = binding.load()
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
    """What the samplers of some settings leave of the logits, `accepted` having come before."""
    draw = bool(settings.get("mirostat")) or settings.get("samplers") == ("adaptive_p",)
    chain = make_chain(plan_steps(draw, **settings), len(logits), biases)
    chain.accept(accepted)
    try:
        return apply_chain(chain, logits)
    finally:
        chain.close()


def log_probabilities(probabilities: Sequence[float]) -> list[float]:
    """Logits of a distribution."""
    return [math.log(p) if p else -math.inf for p in probabilities]


def capture_steps(
    made: Sequence[Step],
    logits: Sequence[float],
    biases: Sequence[tuple[int, float]] = (),
    accepted: Sequence[int] = (),
    vocab: Any = None,
) -> Film:
    """What a chain of these steps does to the logits, step by step, `accepted` having come before."""
    film, only_size = Film(), SimpleNamespace(n_tokens=len(logits), pointer=vocab and vocab.pointer)
    chain = Chain(only_size, made, biases, Watch(Place(), look=film.look))  # type: ignore[arg-type]
    chain.accept(accepted)
    apply_chain(chain, logits)
    chain.close()
    return film
