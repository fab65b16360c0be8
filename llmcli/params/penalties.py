"""Settings that make repetition less likely: penalties and DRY."""

from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param

Args = tuple[Any, ...]
# llama.cpp makes room for this many tokens at once, and ends the process where there is none: more than any context.
_LONGEST = 2**24
_SMALLEST_DIVISOR = 2.0**-126  # llama.cpp refuses a penalty whose inverse is no finite float


def _invertible(value: float) -> float:
    if value < _SMALLEST_DIVISOR:
        raise ValueError("large enough to divide by")
    return value


@dataclass(frozen=True, kw_only=True)
class PenaltyParams:
    """Repetition"""

    repeat_last_n: Annotated[
        int,
        Param(
            help="How many of the last tokens the penalties look at (0 = off).",
            min=0,
            unit="tokens",
            sampler="penalties",
            switch=("repeat_penalty", "presence_penalty", "frequency_penalty"),
        ),
    ] = 64
    repeat_penalty: Annotated[
        float,
        Param(
            help="Divide the logit of each recent token by this (1 = off).",
            above=0.0,
            suggest=("1.05", "1.1"),
            sampler="penalties",
            check=_invertible,
        ),
    ] = 1.0
    presence_penalty: Annotated[
        float, Param(help="Lower each recent token once by this much (0 = off).", sampler="penalties")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Param(help="Lower each recent token by this much per occurrence (0 = off).", sampler="penalties")
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        Param(
            help="Strength of DRY, which lowers tokens that would extend a repeated sequence (0 = off).",
            suggest=("0.8",),
            sampler="dry",
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        Param(help="DRY grows by this factor per repeated token.", min=1.0, sampler="dry", switch=("dry_multiplier",)),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        Param(
            help="Repeated sequences up to this long cost nothing.",
            min=0,
            unit="tokens",
            sampler="dry",
            switch=("dry_multiplier",),
        ),
    ] = 2
    dry_penalty_last_n: Annotated[
        int,
        Param(
            help="How many of the last tokens DRY searches (0 = off).",
            min=0,
            unit="tokens",
            sampler="dry",
            switch=("dry_multiplier",),
        ),
    ] = 64
    dry_sequence_breakers: Annotated[
        tuple[str, ...],
        Param(
            help="Texts at which DRY forgets the sequence; repeatable, `none` clears the list.",
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
    return min(p.repeat_last_n, _LONGEST), p.repeat_penalty, p.frequency_penalty, p.presence_penalty


def dry(p: PenaltyParams) -> Args | None:
    """llama.cpp `dry` (after p-e-w): l -= multiplier * base ^ (repeat length - allowed length)."""
    if p.dry_multiplier == 0 or not p.dry_penalty_last_n:
        return None
    last_n = min(p.dry_penalty_last_n, _LONGEST)
    return p.dry_multiplier, p.dry_base, p.dry_allowed_length, last_n, p.dry_sequence_breakers
