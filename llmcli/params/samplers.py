"""Settings of the truncation samplers, which remove unlikely tokens before the draw."""

from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param
from llmcli.params.selection import llama_seed

Args = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class TruncationParams:
    """Truncation"""

    top_k: Annotated[
        int, Param(help="Top-k sampling: number of most likely tokens to keep (0 = off).", min=0, sampler="top_k")
    ] = 40
    top_p: Annotated[
        float,
        Param(
            help="Top-p (nucleus) sampling: cumulative probability to keep (1 = off).",
            min=0.0,
            max=1.0,
            sampler="top_p",
        ),
    ] = 0.95
    min_p: Annotated[
        float,
        Param(
            help="Min-p sampling: minimum probability relative to the most likely token (0 = off).",
            min=0.0,
            max=1.0,
            sampler="min_p",
        ),
    ] = 0.05
    typical_p: Annotated[
        float,
        Param(
            help="Locally typical sampling: cumulative probability to keep (1 = off).",
            min=0.0,
            max=1.0,
            flags=("--typical",),
            keys=("typ_p", "typical"),
            sampler="typical_p",
        ),
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        Param(
            help="Top-n-sigma sampling: maximum distance from the highest logit, in standard deviations (-1 = off).",
            above=0.0,
            also=(-1.0,),
            suggest=("1", "1.5"),
            flags=("--top-nsigma",),
            keys=("top_nsigma", "nsigma"),
            sampler="top_n_sigma",
        ),
    ] = -1.0
    top_a: Annotated[
        float,
        Param(
            help="Top-a sampling: keeps probabilities of at least a * (highest probability)^2 (0 = off).",
            min=0.0,
            max=1.0,
            sampler="top_a",
        ),
    ] = 0.0
    xtc_probability: Annotated[
        float,
        Param(
            help="XTC: probability per token to remove all top choices except the least likely (0 = off).",
            min=0.0,
            max=1.0,
            suggest=("0.5",),
            keys=("xtc",),
            sampler="xtc",
        ),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        Param(
            help="XTC: minimum probability of a top choice (above 0.5 = off).",
            min=0.0,
            max=1.0,
            sampler="xtc",
            switch=("xtc_probability",),
        ),
    ] = 0.1
    min_keep: Annotated[
        int, Param(help="Minimum number of tokens that truncation keeps (0 = none).", min=0, unit="tokens")
    ] = 0


def top_k(p: TruncationParams) -> Args | None:
    """llama.cpp `top_k`."""
    return (p.top_k,) if p.top_k > 0 else None


def top_p(p: TruncationParams) -> Args | None:
    """llama.cpp `top_p`: nucleus sampling (Holtzman et al. 2019)."""
    return (p.top_p, p.min_keep) if p.top_p < 1 else None


def min_p(p: TruncationParams) -> Args | None:
    """llama.cpp `min_p`: keep logit >= max + ln(p)."""
    return (p.min_p, p.min_keep) if p.min_p > 0 else None


def typical_p(p: TruncationParams) -> Args | None:
    """llama.cpp `typical`: locally typical sampling (Meister et al. 2022)."""
    return (p.typical_p, p.min_keep) if p.typical_p < 1 else None


def top_n_sigma(p: TruncationParams) -> Args | None:
    """llama.cpp `top_n_sigma` (Tang et al. 2024): mask logits below max - n * standard deviation."""
    return (p.top_n_sigma,) if p.top_n_sigma > 0 else None


def top_a(p: TruncationParams) -> Args | None:
    """KoboldCpp `sample_top_a`: keep p_i >= a * max(p)^2, which is min-p with the ratio a * max(p)."""
    return (p.top_a, max(1, p.min_keep)) if p.top_a > 0 else None


def xtc(p: Any) -> Args | None:
    """llama.cpp `xtc` (p-e-w): at random, remove all tokens above the threshold except the least likely one."""
    if p.xtc_probability <= 0 or p.xtc_threshold > 0.5:
        return None
    return p.xtc_probability, p.xtc_threshold, p.min_keep, llama_seed(p.seed)
