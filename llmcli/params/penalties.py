"""Settings against repetition: penalties and DRY."""

from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param

Args = tuple[Any, ...]
# llama.cpp allocates the whole window at once and aborts the process if that fails. This is larger than any context.
_MAX_WINDOW = 2**24
_SMALLEST_DIVISOR = 2.0**-126  # llama.cpp rejects a penalty if 1 / penalty is not a finite float


def _invertible(value: float) -> float:
    if value < _SMALLEST_DIVISOR:
        raise ValueError("at least 1.18e-38")
    return value


@dataclass(frozen=True, kw_only=True)
class PenaltyParams:
    """Repetition"""

    repeat_last_n: Annotated[
        int,
        Param(
            help="Number of last tokens that the penalties consider (0 = off).",
            min=0,
            unit="tokens",
            keys=("rep_pen_range", "repetition_penalty_range"),
            sampler="penalties",
            switch=("repeat_penalty", "presence_penalty", "frequency_penalty"),
        ),
    ] = 64
    repeat_penalty: Annotated[
        float,
        Param(
            help="Repetition penalty: divisor for the logits of recent tokens (1 = off).",
            above=0.0,
            suggest=("1.05", "1.1"),
            keys=("rep_pen", "repetition_penalty"),
            sampler="penalties",
            check=_invertible,
        ),
    ] = 1.0
    presence_penalty: Annotated[
        float,
        Param(
            help="Presence penalty: subtracted once from the logits of recent tokens (0 = off).",
            keys=("presence_pen",),
            sampler="penalties",
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Param(
            help="Frequency penalty: subtracted per occurrence from the logits of recent tokens (0 = off).",
            keys=("frequency_pen", "freq_pen"),
            sampler="penalties",
        ),
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        Param(
            help="DRY repetition penalty: multiplier for tokens that extend a repeated sequence (0 = off).",
            suggest=("0.8",),
            keys=("dry",),
            sampler="dry",
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        Param(
            help="DRY: base of the exponential growth per repeated token.",
            min=1.0,
            sampler="dry",
            switch=("dry_multiplier",),
        ),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        Param(
            help="DRY: length of repeated sequences without a penalty.",
            min=0,
            unit="tokens",
            sampler="dry",
            switch=("dry_multiplier",),
        ),
    ] = 2
    dry_penalty_last_n: Annotated[
        int,
        Param(
            help="DRY: number of last tokens to search for repetitions (0 = off).",
            min=0,
            unit="tokens",
            sampler="dry",
            switch=("dry_multiplier",),
        ),
    ] = 64
    dry_sequence_breakers: Annotated[
        tuple[str, ...],
        Param(
            help="DRY sequence breaker: a text that ends a sequence. Repeatable; `none` clears the list.",
            flag="--dry-sequence-breaker",
            metavar="TEXT",
            sampler="dry",
            switch=("dry_multiplier",),
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
