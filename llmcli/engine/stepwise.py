"""What did each step of the chain do to the candidates of one token?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from llmcli.engine.film import Frame

_ROUNDING = 1e-9  # what only sorts the candidates adds them up in another order


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain.

    It left `live` candidates. `removed` is the probability that the model itself gave to those it took away, `moved`
    how far it moved the probabilities in all, from 0 to 1 (total variation distance).
    """

    name: str
    live: int
    removed: float
    moved: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come.

    `rank` is its place by the model, from 1; `before` its probability in the model's own distribution, over the whole
    vocabulary; `p` its probability after each step, until one removed it.
    """

    id: int
    text: str
    rank: int
    before: float
    p: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stepwise:
    """The steps in their order, and by rank those of the `n_vocab` candidates that are worth showing."""

    n_vocab: int
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]

    def removed_by(self, candidate: Candidate) -> str:
        """The name of the step that removed a candidate; empty for one that was left to the end."""
        return self.steps[len(candidate.p)].name if len(candidate.p) < len(self.steps) else ""

    def after(self, candidate: Candidate) -> float:
        """The probability it could be drawn with; 0 where it was removed."""
        return 0.0 if self.removed_by(candidate) else (candidate.before, *candidate.p)[-1]


def stepwise(
    frames: Sequence[Frame], text_of: Callable[[int], str], count: int, besides: int | None = None
) -> Stepwise:
    """What frames show, of which the first is the model's own distribution.

    Candidates are the `count` likeliest by the model and the `count` likeliest in the end, the likeliest one that each
    step removed, and the token `besides`.
    Probabilities are a softmax over the live candidates; one that was masked to -inf is not live.
    """
    import numpy as np  # 80 ms, only for those who look

    row = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    tables = [np.frombuffer(frame.rows, row) for frame in frames]
    ps = [_probabilities(rows, len(tables[0])) for rows in tables]
    order = np.argsort(-tables[0]["logit"], kind="stable")
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(1, len(order) + 1)
    left = np.argsort(-ps[-1], kind="stable")[: min(count, int((~np.isnan(ps[-1])).sum()))]  # NaN is last
    wanted: set[int] = {*order[:count].tolist(), *left.tolist(), *([] if besides is None else [besides])}
    for before, after in pairwise(ps):
        wanted |= {*order[(~np.isnan(before) & np.isnan(after))[order]][:1].tolist()}
    return Stepwise(
        len(order),
        tuple(_step(frame.name, ps[0], *ps[at : at + 2]) for at, frame in enumerate(frames[1:])),
        tuple(
            _candidate(token, text_of(token), int(ranks[token]), [float(p[token]) for p in ps])
            for token in sorted(wanted, key=ranks.__getitem__)
        ),
    )


def _candidate(token: int, text: str, rank: int, course: Sequence[float]) -> Candidate:
    """`course` is its probability before the first step and after each, NaN once it is gone."""
    before, *then = [*takewhile(lambda p: not math.isnan(p), course)] or [0.0]
    return Candidate(token, text, rank, before, tuple(then))


def _probabilities(rows: Any, n_vocab: int) -> Any:
    """The probability of each token of the vocabulary; NaN for those that are gone."""
    import numpy as np

    live = rows[rows["logit"] > -np.inf]
    weights = np.exp(live["logit"].astype(np.float64) - live["logit"].max())
    p = np.full(n_vocab, np.nan)
    p[live["id"]] = weights / weights.sum()
    return p


def _step(name: str, model: Any, before: Any, after: Any) -> Step:
    import numpy as np

    gone = ~np.isnan(before) & np.isnan(after)
    moved = float(np.abs(np.nan_to_num(after) - np.nan_to_num(before)).sum() / 2)
    return Step(name, int((~np.isnan(after)).sum()), float(model[gone].sum()), moved if moved > _ROUNDING else 0.0)
