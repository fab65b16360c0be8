"""The samplers: their settings, and one record for each of them, in the order in which they run.

This is the default order of llama.cpp (common.h), with `top_a` and `tfs_z` at the positions of KoboldCpp. The two
samplers of `sampler_chain`, the temperature and the smoothing, follow `xtc`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from llmcli.params.param import setting, settings_group

# llama.cpp allocates the whole window at once and aborts the process if that fails. This is larger than any context.
_MAX_WINDOW = 2**24
_WHOLE_CONTEXT = 2**20  # the window for -1: 4 MB, and longer than nearly all contexts
_SMALLEST_DIVISOR = 2.0**-126  # llama.cpp rejects a penalty if 1 / penalty is not a finite float
_MAX_SEED = 2**32 - 1


@settings_group("Truncation")
class TruncationParams:
    top_k: int = setting(40, "Top-k sampling: number of most likely tokens to keep (0 = off).", min=0)
    top_p: float = setting(0.95, "Top-p (nucleus) sampling: cumulative probability to keep (1 = off).", min=0, max=1)
    min_p: float = setting(
        0.05, "Min-p sampling: minimum probability relative to the most likely token (0 = off).", min=0, max=1
    )
    typical_p: float = setting(
        1.0,
        "Locally typical sampling: cumulative probability to keep (1 = off).",
        min=0,
        max=1,
        names="--typical-p --typical typ_p",
    )
    top_n_sigma: float = setting(
        -1.0,
        "Top-n-sigma sampling: maximum distance from the highest logit, in standard deviations (-1 = off).",
        above=0,
        extra_values=(-1.0,),
        suggest=("1", "1.5"),
        names="--top-n-sigma --top-nsigma nsigma",
    )
    top_a: float = setting(
        0.0, "Top-a sampling: keeps probabilities of at least a * (highest probability)^2 (0 = off).", min=0, max=1
    )
    tfs_z: float = setting(
        1.0,
        "Tail-free sampling: share to keep of the curvature of the sorted probabilities (1 = off).",
        min=0,
        max=1,
        suggest=("0.95", "0.9"),
        names="--tfs-z --tfs",
    )
    xtc_probability: float = setting(
        0.0,
        "XTC: probability per token to remove all top choices except the least likely (0 = off).",
        min=0,
        max=1,
        suggest=("0.5",),
        names="xtc",
    )
    xtc_threshold: float = setting(0.1, "XTC: minimum probability of a top choice (above 0.5 = off).", min=0, max=1)
    min_keep: int = setting(0, "Minimum number of tokens that truncation keeps (0 = none).", min=0, unit="tokens")


def _check_divisor(value: float) -> float:
    if value < _SMALLEST_DIVISOR:
        raise ValueError("at least 1.18e-38")
    return value


@settings_group("Repetition")
class PenaltyParams:
    repeat_last_n: int = setting(
        64,
        "Number of last tokens that the penalties consider (0 = off, -1 = whole context).",
        min=0,
        extra_values=(-1,),
        unit="tokens",
        names="rep_pen_range repetition_penalty_range",
    )
    repeat_penalty: float = setting(
        1.0,
        "Repetition penalty: divisor for the logits of recent tokens (1 = off).",
        above=0,
        suggest=("1.05", "1.1"),
        names="rep_pen repetition_penalty",
        check=_check_divisor,
    )
    presence_penalty: float = setting(
        0.0, "Presence penalty: subtracted once from the logits of recent tokens (0 = off).", names="presence_pen"
    )
    frequency_penalty: float = setting(
        0.0,
        "Frequency penalty: subtracted per occurrence from the logits of recent tokens (0 = off).",
        names="frequency_pen freq_pen",
    )
    dry_multiplier: float = setting(
        0.0,
        "DRY repetition penalty: multiplier for tokens that extend a repeated sequence (0 = off).",
        suggest=("0.8",),
        names="dry",
    )
    dry_base: float = setting(1.75, "DRY: base of the exponential growth per repeated token.", min=1)
    dry_allowed_length: int = setting(2, "DRY: length of repeated sequences without a penalty.", min=0, unit="tokens")
    dry_penalty_last_n: int = setting(
        64,
        "DRY: number of last tokens to search for repetitions (0 = off, -1 = whole context).",
        min=0,
        extra_values=(-1,),
        unit="tokens",
    )
    dry_sequence_breakers: tuple[str, ...] = setting(
        ("\n", ":", '"', "*"),
        "DRY sequence breaker: a text that ends a sequence. Repeatable; `none` clears the list.",
        names="--dry-sequence-breaker",
    )


def _seed_from_text(text: str) -> int | None:
    if text.strip().lower() in ("random", "-1"):
        return None
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("an integer or random") from None


@settings_group("Token selection")
class SelectionParams:
    seed: int | None = setting(
        None,
        "Random seed (-1 = random). The same seed gives the same answer.",
        min=0,
        max=_MAX_SEED,
        default_text="random",
        suggest=("random", "1", "42"),
        names="sampler_seed rng_seed",
        text=_seed_from_text,
    )
    mirostat: int = setting(
        0,
        "Mirostat version (0 = off): keeps perplexity near a target. Replaces the sampler chain.",
        choices=(0, 1, 2),
        names="mirostat_mode",
    )
    mirostat_tau: float = setting(
        5.0, "Mirostat: target entropy (tau).", min=0, unit="bits", names="--mirostat-tau --mirostat-ent"
    )
    mirostat_eta: float = setting(0.1, "Mirostat: learning rate (eta).", min=0, names="--mirostat-eta --mirostat-lr")
    adaptive_target: float = setting(
        -1.0,
        "Adaptive-p: target probability of the drawn tokens (-1 = off). Needs adaptive_p in --samplers.",
        min=0,
        max=1,
        extra_values=(-1.0,),
    )
    adaptive_decay: float = setting(0.9, "Adaptive-p: decay of the average of drawn probabilities.", min=0, max=0.99)


@dataclass(frozen=True, kw_only=True)
class SamplerParams(TruncationParams, PenaltyParams, SelectionParams):
    """Settings of all samplers except the temperature."""


def random_seed() -> int:
    """A random seed below the maximum, which means "random" in llama.cpp."""
    return int.from_bytes(os.urandom(4), "big") % _MAX_SEED


def seed_after(seed: int, number: int) -> int:
    """The `number`-th seed after `seed`."""
    return (seed + number) % _MAX_SEED if number else seed


def llama_seed(seed: int | None) -> int:
    """The seed for llama.cpp, in which 2^32-1 means a random seed: an answer with it could not be repeated."""
    assert seed is not None
    return min(seed, _MAX_SEED - 1)


def _window(last_n: int) -> int:
    return min(last_n, _MAX_WINDOW) if last_n >= 0 else _WHOLE_CONTEXT


Args = tuple[object, ...]
Arguments = Callable[..., Args | None]  # of settings
SAMPLERS: dict[str, "Sampler"] = {}  # all samplers by name, in the order of their declarations


@dataclass(kw_only=True, eq=False)
class Sampler:
    """A sampler, declared as the decorator of its `arguments`. Lists, constructors, columns and checks are made of it.

    `arguments` is a function of the settings; None if the sampler is off and adds no step to the chain. It has the name
    of the sampler, and a docstring with formula and source.
    """

    name: str = field(init=False)
    arguments: Arguments = field(init=False)
    fields: tuple[str, ...] = ()  # the settings that it uses, by default that of its name; `/why` shows the first
    switches: tuple[str, ...] = ()  # the settings that turn it on; without them, the others have no effect
    aliases: tuple[str, ...] = ()  # names that `samplers` accepts too
    # In the default order, only on request in `samplers`, or added by the program.
    place: Literal["default", "request", "program"] = "default"
    constructor: str = ""  # llama.cpp has it as `llama_sampler_init_<constructor>`; its name by default
    first_argument: Literal["", "vocab", "n_vocab"] = ""  # what the constructor takes before the arguments
    # In Python instead: of the probabilities of the live candidates (a numpy array) and the arguments, `keep` makes the
    # index of those to keep: a mask, or positions by probability, the most likely first. `transform` makes new logits.
    keep: Callable[..., object] | None = None
    transform: Callable[..., object] | None = None
    heading: str = ""  # of its column in `/why`; its name by default
    is_truncating: bool = False  # it removes unlikely candidates
    is_stateful: bool = False  # it has a state that depends on the draws before, not only on the tokens
    draws: bool = False  # it draws the token
    breaks_on_masks: bool = False  # it computes NaN for a candidate that is masked to -inf

    def __call__(self, arguments: Arguments) -> "Sampler":
        self.arguments, self.name = arguments, arguments.__name__
        self.fields = self.fields or (self.name,)
        self.constructor, self.heading = self.constructor or self.name, self.heading or self.name
        SAMPLERS[self.name] = self
        return self


@Sampler(
    fields=("repeat_penalty", "presence_penalty", "frequency_penalty", "repeat_last_n"),
    switches=("repeat_penalty", "presence_penalty", "frequency_penalty"),
    first_argument="n_vocab",
    heading="penalty",
)
def penalties(p: SamplerParams) -> Args | None:
    """llama.cpp `penalties`: l > 0 -> l / repeat, else l * repeat; then l -= count * frequency + presence."""
    if not p.repeat_last_n or (p.repeat_penalty, p.frequency_penalty, p.presence_penalty) == (1, 0, 0):
        return None
    return _window(p.repeat_last_n), p.repeat_penalty, p.frequency_penalty, p.presence_penalty


@Sampler(
    fields=("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
    switches=("dry_multiplier",),
    first_argument="vocab",
)
def dry(p: SamplerParams) -> Args | None:
    """llama.cpp `dry` (after p-e-w): l -= multiplier * base ^ (repeat length - allowed length)."""
    if p.dry_multiplier == 0 or not p.dry_penalty_last_n:
        return None
    last_n = _window(p.dry_penalty_last_n)
    return p.dry_multiplier, p.dry_base, p.dry_allowed_length, last_n, p.dry_sequence_breakers


@Sampler(aliases=("top_nsigma",), heading="sigma")
def top_n_sigma(p: SamplerParams) -> Args | None:
    """llama.cpp `top_n_sigma` (Tang et al. 2024): mask logits below max - n * standard deviation."""
    return (p.top_n_sigma,) if p.top_n_sigma > 0 else None


@Sampler(is_truncating=True)
def top_k(p: SamplerParams) -> Args | None:
    """llama.cpp `top_k`."""
    return (p.top_k,) if p.top_k > 0 else None


def _keep_above(p: Any, least: float, min_keep: int) -> Any:
    keep = p >= least
    return keep if keep.sum() >= min_keep else (-p).argsort(kind="stable")[:min_keep]


@Sampler(is_truncating=True, keep=lambda p, a, min_keep: _keep_above(p, a * p.max() ** 2, min_keep))
def top_a(p: SamplerParams) -> Args | None:
    """KoboldCpp `sample_top_a`: keep p_i >= a * max(p)^2."""
    return (p.top_a, max(1, p.min_keep)) if p.top_a > 0 else None


def _keep_before_tail(p: Any, z: float, min_keep: int) -> Any:
    order = (-p).argsort(kind="stable")
    if len(p) <= 2:
        return order
    slopes = p[order][:-1] - p[order][1:]
    curvature = abs(slopes[:-1] - slopes[1:])
    total = curvature.sum()
    shares = curvature / total if total > 1e-6 else 0 * curvature + 1 / len(curvature)
    tail = (shares.cumsum() > z).nonzero()[0]
    tail = tail[tail >= min_keep]
    return order[: tail[0]] if len(tail) else order


@Sampler(aliases=("tfs", "tail_free"), heading="tfs", is_truncating=True, keep=_keep_before_tail)
def tfs_z(p: SamplerParams) -> Args | None:
    """KoboldCpp `sample_tail_free` (Phénix 2019): keep the first k candidates, before the tail.

    With the probabilities sorted, d_i = |(p_i - p_i+1) - (p_i+1 - p_i+2)| from i = 0; k is the first i of at least
    min_keep whose (d_0 + ... + d_i) / sum(d) is above z. All d are taken as equal if their sum is at most 1e-6.
    """
    return (p.tfs_z, max(1, p.min_keep)) if p.tfs_z < 1 else None


@Sampler(
    aliases=("typ_p", "typical", "typ"),
    constructor="typical",
    heading="typical",
    is_truncating=True,
    breaks_on_masks=True,
)
def typical_p(p: SamplerParams) -> Args | None:
    """llama.cpp `typical`: locally typical sampling (Meister et al. 2022)."""
    return (p.typical_p, p.min_keep) if p.typical_p < 1 else None


@Sampler(aliases=("nucleus",), is_truncating=True)
def top_p(p: SamplerParams) -> Args | None:
    """llama.cpp `top_p`: nucleus sampling (Holtzman et al. 2019)."""
    return (p.top_p, p.min_keep) if p.top_p < 1 else None


@Sampler(is_truncating=True)
def min_p(p: SamplerParams) -> Args | None:
    """llama.cpp `min_p`: keep logit >= max + ln(p)."""
    return (p.min_p, p.min_keep) if p.min_p > 0 else None


@Sampler(fields=("xtc_threshold", "xtc_probability"), switches=("xtc_probability",), is_stateful=True)
def xtc(p: SamplerParams) -> Args | None:
    """llama.cpp `xtc` (p-e-w): at random, remove all tokens above the threshold except the least likely one."""
    if p.xtc_probability <= 0 or p.xtc_threshold > 0.5:
        return None
    return p.xtc_probability, p.xtc_threshold, p.min_keep, llama_seed(p.seed)


@Sampler(first_argument="vocab", place="request")
def infill(_p: SamplerParams) -> Args | None:
    """llama.cpp `infill`: joins tokens that start alike, and prefers the end of the text where the model is unsure."""
    return ()


@Sampler(
    fields=("adaptive_target", "adaptive_decay"),
    switches=("adaptive_target",),
    aliases=("adaptive",),
    place="request",
    heading="adaptive",
    is_stateful=True,
    draws=True,
)
def adaptive_p(p: SamplerParams) -> Args | None:
    """llama.cpp `adaptive_p`: draws near a target probability, adjusted by the tokens drawn before."""
    return p.adaptive_target, p.adaptive_decay, llama_seed(p.seed)


@Sampler(
    fields=("mirostat_tau", "mirostat", "mirostat_eta"),
    switches=("mirostat",),
    place="program",
    first_argument="n_vocab",
    is_stateful=True,
    draws=True,
)
def mirostat(p: SamplerParams) -> Args | None:
    """llama.cpp `mirostat` (Basu et al. 2020) over the 100 most likely tokens."""
    return llama_seed(p.seed), p.mirostat_tau, p.mirostat_eta, 100


@Sampler(
    fields=("mirostat_tau", "mirostat", "mirostat_eta"),
    switches=("mirostat",),
    place="program",
    heading="mirostat",
    is_stateful=True,
    draws=True,
)
def mirostat_v2(p: SamplerParams) -> Args | None:
    """llama.cpp `mirostat_v2` (Basu et al. 2020)."""
    return llama_seed(p.seed), p.mirostat_tau, p.mirostat_eta


@Sampler(fields=("seed",), place="program", draws=True)
def dist(p: SamplerParams) -> Args | None:
    """llama.cpp `dist`: one uniform draw over the cumulative distribution."""
    return (llama_seed(p.seed),)
