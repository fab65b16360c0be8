"""Settings of the draw itself: the seed, mirostat, adaptive-p."""

import os
from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param

Args = tuple[Any, ...]
_LAST_SEED = 2**32 - 1


def random_seed() -> int:
    """A seed that nobody chose; the last one stands for a random seed in llama.cpp, and is none."""
    return int.from_bytes(os.urandom(4), "big") % _LAST_SEED


def seed_after(seed: int, number: int) -> int:
    """The seed that follows `seed` as the `number`-th."""
    return (seed + number) % _LAST_SEED


def _seed_from_text(text: str) -> int | None:
    if text.strip().lower() in ("random", "-1"):
        return None
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("a whole number or `random`") from None


def _seed_from_data(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a whole number or `random`")
    return _seed_from_text(str(value))


@dataclass(frozen=True, kw_only=True)
class SelectionParams:
    """Selection"""

    seed: Annotated[
        int | None,
        Param(
            help="Seed of the random draws; the same seed gives the same text.",
            min=0,
            max=_LAST_SEED,
            default_text="random",
            suggest=("random", "1", "42"),
            text=_seed_from_text,
            data=_seed_from_data,
        ),
    ] = None
    mirostat: Annotated[
        int,
        Param(
            help="Hold the surprise of the text constant: 0 = off, 1 = Mirostat, 2 = Mirostat 2.0. Replaces the chain.",
            choices=(0, 1, 2),
        ),
    ] = 0
    mirostat_tau: Annotated[
        float,
        Param(
            help="Mirostat's target surprise.",
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
            help="Mirostat's learning rate.",
            min=0.0,
            flags=("--mirostat-lr",),
            sampler="mirostat",
            switch=("mirostat",),
        ),
    ] = 0.1
    adaptive_target: Annotated[
        float,
        Param(
            help="Prefer tokens near this probability (-1 = off); needs adaptive_p in --samplers.",
            min=0.0,
            max=1.0,
            also=(-1.0,),
            sampler="adaptive_p",
        ),
    ] = -1.0
    adaptive_decay: Annotated[
        float,
        Param(
            help="How slowly adaptive-p forgets the probabilities it has drawn.",
            min=0.0,
            max=0.99,
            sampler="adaptive_p",
            switch=("adaptive_target",),
        ),
    ] = 0.9


def llama_seed(seed: int) -> int:
    """The seed handed to llama.cpp, which takes 2^32-1 to mean "draw one" and would not repeat itself."""
    return min(seed, _LAST_SEED - 1)


def mirostat(p: SelectionParams) -> Args:
    """llama.cpp `mirostat` (Basu et al. 2020) over the 100 best, or `mirostat_v2`."""
    assert p.seed is not None
    seed = llama_seed(p.seed)
    return (seed, p.mirostat_tau, p.mirostat_eta) + ((100,) if p.mirostat == 1 else ())


def adaptive_p(p: SelectionParams) -> Args:
    """llama.cpp `adaptive_p`: draws near a target probability, corrected by what was drawn before."""
    assert p.seed is not None
    return p.adaptive_target, p.adaptive_decay, llama_seed(p.seed)


def dist(p: SelectionParams) -> Args:
    """llama.cpp `dist`: one uniform draw over the cumulative distribution."""
    assert p.seed is not None
    return (llama_seed(p.seed),)
