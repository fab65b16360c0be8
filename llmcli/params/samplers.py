"""Parameters of the samplers: truncation, penalties and selection, each with its sampler step."""

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from llmcli.params.param import Param, is_int

Args = tuple[Any, ...]
# llama.cpp allocates the whole window at once and aborts the process if that fails. This is larger than any context.
_MAX_WINDOW = 2**24
_SMALLEST_DIVISOR = 2.0**-126  # llama.cpp rejects a penalty if 1 / penalty is not a finite float
_MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class TruncationParams:
    """Settings of the samplers that remove unlikely tokens."""

    TITLE: ClassVar[str] = "Truncation"

    top_k: Annotated[
        int, Param("Top-k sampling: number of most likely tokens to keep (0 = off).", min=0, sampler="top_k")
    ] = 40
    top_p: Annotated[
        float,
        Param("Top-p (nucleus) sampling: cumulative probability to keep (1 = off).", min=0, max=1, sampler="top_p"),
    ] = 0.95
    min_p: Annotated[
        float,
        Param(
            "Min-p sampling: minimum probability relative to the most likely token (0 = off).",
            min=0,
            max=1,
            sampler="min_p",
        ),
    ] = 0.05
    typical_p: Annotated[
        float,
        Param(
            "Locally typical sampling: cumulative probability to keep (1 = off).",
            min=0,
            max=1,
            flags=("--typical",),
            keys=("typ_p", "typical"),
            sampler="typical_p",
        ),
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        Param(
            "Top-n-sigma sampling: maximum distance from the highest logit, in standard deviations (-1 = off).",
            above=0,
            extra_values=(-1.0,),
            suggest=("1", "1.5"),
            flags=("--top-nsigma",),
            keys=("top_nsigma", "nsigma"),
            sampler="top_n_sigma",
        ),
    ] = -1.0
    top_a: Annotated[
        float,
        Param(
            "Top-a sampling: keeps probabilities of at least a * (highest probability)^2 (0 = off).",
            min=0,
            max=1,
            sampler="top_a",
        ),
    ] = 0.0
    xtc_probability: Annotated[
        float,
        Param(
            "XTC: probability per token to remove all top choices except the least likely (0 = off).",
            min=0,
            max=1,
            suggest=("0.5",),
            keys=("xtc",),
            sampler="xtc",
        ),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        Param(
            "XTC: minimum probability of a top choice (above 0.5 = off).",
            min=0,
            max=1,
            sampler="xtc",
            needs_any=("xtc_probability",),
        ),
    ] = 0.1
    min_keep: Annotated[
        int, Param("Minimum number of tokens that truncation keeps (0 = none).", min=0, unit="tokens")
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


def _check_divisor(value: float) -> float:
    if value < _SMALLEST_DIVISOR:
        raise ValueError("at least 1.18e-38")
    return value


@dataclass(frozen=True, kw_only=True)
class PenaltyParams:
    """Settings of the samplers that lower the logits of repeated tokens."""

    TITLE: ClassVar[str] = "Repetition"

    repeat_last_n: Annotated[
        int,
        Param(
            "Number of last tokens that the penalties consider (0 = off).",
            min=0,
            unit="tokens",
            keys=("rep_pen_range", "repetition_penalty_range"),
            sampler="penalties",
            needs_any=("repeat_penalty", "presence_penalty", "frequency_penalty"),
        ),
    ] = 64
    repeat_penalty: Annotated[
        float,
        Param(
            "Repetition penalty: divisor for the logits of recent tokens (1 = off).",
            above=0,
            suggest=("1.05", "1.1"),
            keys=("rep_pen", "repetition_penalty"),
            sampler="penalties",
            check=_check_divisor,
        ),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Param(
            "Presence penalty: subtracted once from the logits of recent tokens (0 = off).",
            keys=("presence_pen",),
            sampler="penalties",
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Param(
            "Frequency penalty: subtracted per occurrence from the logits of recent tokens (0 = off).",
            keys=("frequency_pen", "freq_pen"),
            sampler="penalties",
        ),
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        Param(
            "DRY repetition penalty: multiplier for tokens that extend a repeated sequence (0 = off).",
            suggest=("0.8",),
            keys=("dry",),
            sampler="dry",
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        Param(
            "DRY: base of the exponential growth per repeated token.",
            min=1,
            sampler="dry",
            needs_any=("dry_multiplier",),
        ),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        Param(
            "DRY: length of repeated sequences without a penalty.",
            min=0,
            unit="tokens",
            sampler="dry",
            needs_any=("dry_multiplier",),
        ),
    ] = 2
    dry_penalty_last_n: Annotated[
        int,
        Param(
            "DRY: number of last tokens to search for repetitions (0 = off).",
            min=0,
            unit="tokens",
            sampler="dry",
            needs_any=("dry_multiplier",),
        ),
    ] = 64
    dry_sequence_breakers: Annotated[
        tuple[str, ...],
        Param(
            "DRY sequence breaker: a text that ends a sequence. Repeatable; `none` clears the list.",
            flag="--dry-sequence-breaker",
            metavar="TEXT",
            sampler="dry",
            needs_any=("dry_multiplier",),
        ),
    ] = ("\n", ":", '"', "*")


def penalties(p: PenaltyParams) -> Args | None:
    """llama.cpp `penalties`: l > 0 -> l / repeat, else l * repeat; then l -= count * frequency + presence."""
    if not p.repeat_last_n or (p.repeat_penalty, p.frequency_penalty, p.presence_penalty) == (1, 0, 0):
        return None
    return min(p.repeat_last_n, _MAX_WINDOW), p.repeat_penalty, p.frequency_penalty, p.presence_penalty


def dry(p: PenaltyParams) -> Args | None:
    """llama.cpp `dry` (after p-e-w): l -= multiplier * base ^ (repeat length - allowed length)."""
    if p.dry_multiplier == 0 or not p.dry_penalty_last_n:
        return None
    last_n = min(p.dry_penalty_last_n, _MAX_WINDOW)
    return p.dry_multiplier, p.dry_base, p.dry_allowed_length, last_n, p.dry_sequence_breakers


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
    return _seed_from_text(str(value) if is_int(value) or isinstance(value, str) else "")


@dataclass(frozen=True, kw_only=True)
class SelectionParams:
    """Settings of the step that draws the token."""

    TITLE: ClassVar[str] = "Token selection"

    seed: Annotated[
        int | None,
        Param(
            "Random seed; the same seed gives the same answer.",
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
            "Mirostat version (0 = off): keeps perplexity near a target. Replaces the sampler chain.",
            choices=(0, 1, 2),
            keys=("mirostat_mode",),
        ),
    ] = 0
    mirostat_tau: Annotated[
        float,
        Param(
            "Mirostat: target entropy (tau).",
            min=0,
            unit="bits",
            flags=("--mirostat-ent",),
            sampler="mirostat",
            needs_any=("mirostat",),
        ),
    ] = 5.0
    mirostat_eta: Annotated[
        float,
        Param(
            "Mirostat: learning rate (eta).",
            min=0,
            flags=("--mirostat-lr",),
            sampler="mirostat",
            needs_any=("mirostat",),
        ),
    ] = 0.1
    adaptive_target: Annotated[
        float,
        Param(
            "Adaptive-p: target probability of the drawn tokens (-1 = off). Needs adaptive_p in --samplers.",
            min=0,
            max=1,
            extra_values=(-1.0,),
            sampler="adaptive_p",
        ),
    ] = -1.0
    adaptive_decay: Annotated[
        float,
        Param(
            "Adaptive-p: decay of the average of drawn probabilities.",
            min=0,
            max=0.99,
            sampler="adaptive_p",
            needs_any=("adaptive_target",),
        ),
    ] = 0.9


def llama_seed(seed: int | None) -> int:
    """The seed for llama.cpp, in which 2^32-1 means a random seed: an answer with it could not be repeated."""
    assert seed is not None
    return min(seed, _MAX_SEED - 1)


def mirostat(p: SelectionParams) -> Args:
    """llama.cpp `mirostat` (Basu et al. 2020) over the 100 most likely tokens, or `mirostat_v2`."""
    return (llama_seed(p.seed), p.mirostat_tau, p.mirostat_eta) + ((100,) if p.mirostat == 1 else ())


def adaptive_p(p: SelectionParams) -> Args:
    """llama.cpp `adaptive_p`: draws near a target probability, adjusted by the tokens drawn before."""
    return p.adaptive_target, p.adaptive_decay, llama_seed(p.seed)


def dist(p: SelectionParams) -> Args:
    """llama.cpp `dist`: one uniform draw over the cumulative distribution."""
    return (llama_seed(p.seed),)
