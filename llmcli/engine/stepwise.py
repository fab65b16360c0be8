"""The effect of each step of the chain on the candidates of one token."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from llmcli.engine.film import Frame

_ROUNDING = 1e-9  # a step that only sorts the candidates changes the order of the sums


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain.

    `live` candidates are left after it. `removed` is the probability of the others in the distribution of the model.
    `moved` is the total variation distance between the probabilities before and after it, from 0 to 1.
    """

    name: str
    live: int
    removed: float
    moved: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate.

    `rank` is its rank in the distribution of the model, from 1; `before` its probability there, over the whole
    vocabulary; `p` its probability after each step, up to the step that removed it.
    """

    id: int
    text: str
    rank: int
    before: float
    p: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stepwise:
    """The steps in order, and by rank the selected ones of the `n_vocab` candidates."""

    n_vocab: int
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]

    def removed_by(self, candidate: Candidate) -> str:
        """The name of the step that removed a candidate; empty if none did."""
        return self.steps[len(candidate.p)].name if len(candidate.p) < len(self.steps) else ""

    def after(self, candidate: Candidate) -> float:
        """The probability of a candidate after the chain; 0 if it was removed."""
        return 0.0 if self.removed_by(candidate) else (candidate.before, *candidate.p)[-1]


def stepwise(
    frames: Sequence[Frame], text_of: Callable[[int], str], count: int, besides: int | None = None
) -> Stepwise:
    """The steps and candidates of captured frames, the first of which is the distribution of the model.

    The candidates are the `count` most likely ones before and after the chain, the most likely one that each step
    removed, and the token `besides`. Probabilities are a softmax over the live candidates, which are not masked to
    -inf.
    """
    import numpy as np  # takes 80 ms, so only here

    row = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    tables = [np.frombuffer(frame.rows, row) for frame in frames]
    ps = [_probabilities(rows, len(tables[0])) for rows in tables]
    order = np.argsort(-tables[0]["logit"], kind="stable")
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(1, len(order) + 1)
    final = np.argsort(-ps[-1], kind="stable")[: min(count, int((~np.isnan(ps[-1])).sum()))]  # NaN sorts last
    selected: set[int] = {*order[:count].tolist(), *final.tolist(), *([] if besides is None else [besides])}
    for before, after in pairwise(ps):
        selected |= {*order[(~np.isnan(before) & np.isnan(after))[order]][:1].tolist()}
    return Stepwise(
        len(order),
        tuple(_step(frame.name, ps[0], *ps[at : at + 2]) for at, frame in enumerate(frames[1:])),
        tuple(
            _candidate(token, text_of(token), int(ranks[token]), [float(p[token]) for p in ps])
            for token in sorted(selected, key=ranks.__getitem__)
        ),
    )


def _candidate(token: int, text: str, rank: int, course: Sequence[float]) -> Candidate:
    """`course` is its probability before the first step and after each step, NaN once it is removed."""
    before, *after = [*takewhile(lambda p: not math.isnan(p), course)] or [0.0]
    return Candidate(token, text, rank, before, tuple(after))


def _probabilities(rows: Any, n_vocab: int) -> Any:
    """The probability of each token of the vocabulary; NaN for removed ones."""
    import numpy as np

    live = rows[rows["logit"] > -np.inf]
    weights = np.exp(live["logit"].astype(np.float64) - live["logit"].max())
    p = np.full(n_vocab, np.nan)
    p[live["id"]] = weights / weights.sum()
    return p


def _step(name: str, model: Any, before: Any, after: Any) -> Step:
    import numpy as np

    removed = ~np.isnan(before) & np.isnan(after)
    moved = float(np.abs(np.nan_to_num(after) - np.nan_to_num(before)).sum() / 2)
    return Step(name, int((~np.isnan(after)).sum()), float(model[removed].sum()), moved if moved > _ROUNDING else 0.0)
