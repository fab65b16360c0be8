"""Settings of the draw at the end of the chain: the seed, Mirostat, adaptive-p."""

import os
from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param

Args = tuple[Any, ...]
_MAX_SEED = 2**32 - 1


def random_seed() -> int:
    """A random seed below the maximum, which means "random" in llama.cpp."""
    return int.from_bytes(os.urandom(4), "big") % _MAX_SEED


def seed_after(seed: int, number: int) -> int:
    """The `number`-th seed after `seed`."""
    return (seed + number) % _MAX_SEED


def _seed_from_text(text: str) -> int | None:
    if text.strip().lower() in ("random", "-1"):
        return None
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("an integer or random") from None


def _seed_from_data(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("an integer or random")
    return _seed_from_text(str(value))


@dataclass(frozen=True, kw_only=True)
class SelectionParams:
    """Token selection"""

    seed: Annotated[
        int | None,
        Param(
            help="Random seed; the same seed gives the same answer.",
            min=0,
            max=_MAX_SEED,
            default_text="random",
            suggest=("random", "1", "42"),
            keys=("sampler_seed", "rng_seed"),
            text=_seed_from_text,
            data=_seed_from_data,
        ),
    ] = None
    mirostat: Annotated[
        int,
        Param(
            help="Mirostat version (0 = off): keeps perplexity near a target. Replaces the sampler chain.",
            choices=(0, 1, 2),
            keys=("mirostat_mode",),
        ),
    ] = 0
    mirostat_tau: Annotated[
        float,
        Param(
            help="Mirostat: target entropy (tau).",
            min=0.0,
            unit="bits",
            flags=("--mirostat-ent",),
            sampler="mirostat",
            switch=("mirostat",),
        ),
    ] = 5.0
    mirostat_eta: Annotated[
        float,
        Param(
            help="Mirostat: learning rate (eta).",
            min=0.0,
            flags=("--mirostat-lr",),
            sampler="mirostat",
            switch=("mirostat",),
        ),
    ] = 0.1
    adaptive_target: Annotated[
        float,
        Param(
            help="Adaptive-p: target probability of the drawn tokens (-1 = off). Needs adaptive_p in --samplers.",
            min=0.0,
            max=1.0,
            also=(-1.0,),
            sampler="adaptive_p",
        ),
    ] = -1.0
    adaptive_decay: Annotated[
        float,
        Param(
            help="Adaptive-p: decay of the average of drawn probabilities.",
            min=0.0,
            max=0.99,
            sampler="adaptive_p",
            switch=("adaptive_target",),
        ),
    ] = 0.9


def llama_seed(seed: int) -> int:
    """The seed for llama.cpp, in which 2^32-1 means a random seed: an answer with it could not be repeated."""
    return min(seed, _MAX_SEED - 1)


def mirostat(p: SelectionParams) -> Args:
    """llama.cpp `mirostat` (Basu et al. 2020) over the 100 most likely tokens, or `mirostat_v2`."""
    assert p.seed is not None
    seed = llama_seed(p.seed)
    return (seed, p.mirostat_tau, p.mirostat_eta) + ((100,) if p.mirostat == 1 else ())


def adaptive_p(p: SelectionParams) -> Args:
    """llama.cpp `adaptive_p`: draws near a target probability, adjusted by the tokens drawn before."""
    assert p.seed is not None
    return p.adaptive_target, p.adaptive_decay, llama_seed(p.seed)


def dist(p: SelectionParams) -> Args:
    """llama.cpp `dist`: one uniform draw over the cumulative distribution."""
    assert p.seed is not None
    return (llama_seed(p.seed),)
