"""How one token was drawn: the chain run again step by step."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from llmcli.engine.events import (
    Cancellation,
    Candidate,
    ChainStep,
    ChainTrace,
    Progress,
    Request,
    TemperatureShift,
    TokenInspection,
    TokenTrace,
)
from llmcli.engine.generation import Generation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.sampling.chain import BEGIN
from llmcli.engine.sampling.python_samplers import ROW_TYPE, candidate_bytes
from llmcli.engine.scheduler import generate
from llmcli.params.sampler_chain import build_chain
from llmcli.params.samplers import SAMPLERS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DRAWS = {name for name, sampler in SAMPLERS.items() if sampler.draws}
_ROUNDING = 1e-9  # a step that only sorts the candidates changes the order of the sums


class CandidateSnapshot(NamedTuple):
    """The candidates after the step `name`: a copy of the rows of llama.cpp, which the next step overwrites."""

    name: str
    rows: bytes


class CandidateCapture:
    """Captures the candidates of the last draw. `record` is the hook for the chain, `wants` whether to capture a draw.

    A token that the constraint rejects is drawn again: then `first` is the token of the first draw.
    """

    def __init__(self, wants: Callable[[], bool] = lambda: True) -> None:
        self.wants = wants
        self.snapshots: list[CandidateSnapshot] = []
        self.first: int | None = None
        self._drawn: int | None = None
        self._is_drawn = True

    def record(self, name: str, candidates: "bindings.Candidates") -> None:
        """Copy the candidates after the step `name`."""
        if not self.wants():
            return
        array = candidates.contents
        if name == BEGIN and not self._is_drawn:
            return  # a ConstrainedTokenSampler has already called it for this draw
        if name == BEGIN:
            self.first, self._is_drawn = self._drawn, False
            self.snapshots.clear()
        self.snapshots.append(CandidateSnapshot(name, candidate_bytes(array)))
        if name in _DRAWS:
            self._drawn, self._is_drawn = array.data[array.selected].id, True


def stateful_steps(request: Request) -> list[str]:
    """The stateful steps: because of them, the answer is generated again up to the token."""
    constraints = ["constraint"] if request.constraint is not None else []
    constraints += ["banned_strings"] if request.settings.banned_strings else []
    return [step.name for step in build_chain(request.settings) if SAMPLERS[step.name].is_stateful] + constraints


@dataclass(frozen=True)
class TokenInspector:
    """Shows how the `tokens` of an answer were drawn. The methods return None when they are cancelled.

    They raise ContextOverflowError when the context has no room for the answer.
    """

    context: Context
    request: Request  # of the answer
    tokens: Sequence[int]

    @property
    def stateful_steps(self) -> list[str]:
        return stateful_steps(self.request)

    def inspect(self, at: int, count: int, cancellation: Cancellation, progress: Progress) -> TokenInspection | None:
        """Token `at`: the `count` most likely candidates before and after the chain, and the drawn token.

        If a step is stateful, the answer is generated again. If that gives other tokens, the state of such steps is
        reset, constraint and banned strings are omitted, and the result is not exact.
        """
        is_stateful = bool(self.stateful_steps)
        with suppress(AbortedError), self.context.untouched():
            if is_stateful:
                generation = self._generation(capture := CandidateCapture(), cancellation)
                if self._regenerate(generation, capture, self.tokens[: at + 1], progress):
                    return self._inspection(generation, capture, at, count, generation.traces[at])
            generation = self._draw_after(at, capture := CandidateCapture(), cancellation, progress)
            found = self._inspection(generation, capture, at, count, generation.traces[0])
            return replace(found, exact=not is_stateful)
        return None

    def entropies(self, cancellation: Cancellation, progress: Progress) -> list[float] | None:
        """The entropy (nats) of the candidates before the temperature step, for each token of an answer."""
        found, nothing = [], CandidateCapture(lambda: False)
        with suppress(AbortedError), self.context.untouched():
            for at in range(len(self.tokens)):
                generation = self._draw_after(at, nothing, cancellation, None)
                found.append(generation.traces[0].entropy or 0.0)
                progress(at + 1, len(self.tokens))
            return found
        return None

    def token_at_rank(self, at: int, rank: int, cancellation: Cancellation, progress: Progress) -> int | None:
        """The `rank`-th most likely token (from 1) of the model, before the chain, at token `at`."""
        with suppress(AbortedError), self.context.untouched():
            generation = self._draw_after(at, capture := CandidateCapture(), cancellation, progress)
            return trace_chain(capture.snapshots[:1], generation.vocab.label, rank).candidates[rank - 1].id
        return None

    def _generation(
        self, capture: CandidateCapture, cancellation: Cancellation, is_constrained: bool = True
    ) -> Generation:
        """A generation like the one of the answer, with or without its constraint and banned strings."""
        request, settings = self.request, self.request.settings
        settings = replace(settings, logprobs=0)  # the tokens before are appended without their logits
        again = replace(request, settings=settings, trace=0, cancellation=cancellation, progress=None)
        again.live_shift = TemperatureShift(request.live_shift.moves if request.live_shift else ())
        if not is_constrained:
            again.constraint, again.settings = None, replace(settings, banned_strings=())
        return Generation(self.context.model.vocab, again, on_step=capture.record)

    def _draw_after(
        self, at: int, capture: CandidateCapture, cancellation: Cancellation, progress: Progress | None
    ) -> Generation:
        """Draw one token after the first `at`, without constraint and banned strings, whose state there is unknown."""
        generation = self._generation(capture, cancellation, is_constrained=False)
        context = self.context
        with closing(generation):
            generation.append_drawn(self.tokens[:at])
            context.rewind(generation.seq_id, generation.tokens)
            context.watch([cancellation])
            context.prefill(generation.seq_id, generation.tokens, progress)
            generation.advance(context.handle, -1, context.n_ctx)
        return generation

    def _regenerate(
        self, generation: Generation, capture: CandidateCapture, tokens: Sequence[int], progress: Progress
    ) -> bool:
        """Generate the answer again and capture the last of `tokens`; returns whether the tokens are the same."""
        last = len(tokens) - 1
        capture.wants = lambda: len(generation.traces) == last
        # The first token needs the logits of the prompt's last batch: exactly that batch is evaluated again.
        self.context.rewind(generation.seq_id, generation.tokens)
        with closing(generation):
            for event in generate(self.context, [generation]):
                if generation.failure:
                    raise generation.failure
                if generation.finish_reason and generation.request.cancellation.is_set():
                    raise AbortedError
                if event.n_final > last:  # before, a banned string can still remove it
                    break
                progress(event.n_final, last)
        return [trace.id for trace in generation.traces[: last + 1]] == list(tokens)

    def _inspection(
        self, generation: Generation, capture: CandidateCapture, at: int, count: int, trace: TokenTrace
    ) -> TokenInspection:
        text_of, drawn = generation.vocab.label, self.tokens[at]
        # Without the draw at the end, and without a temperature step that only reads.
        has_temperature = any(step.name == "temperature" for step in build_chain(self.request.settings))
        snapshots = capture.snapshots[:1]
        for before, after in pairwise(capture.snapshots):
            is_reading = after.name == "temperature" and not has_temperature and after.rows == before.rows
            if after.name != "dist" and not is_reading:
                snapshots.append(after)
        is_masked = any(snapshot.name == "constraint" for snapshot in snapshots)
        refused = text_of(capture.first) if is_masked and capture.first is not None else None
        return TokenInspection(at, drawn, trace_chain(snapshots, text_of, count, drawn), trace, refused)


def trace_chain(
    snapshots: Sequence[CandidateSnapshot], text_of: Callable[[int], str], count: int, besides: int | None = None
) -> ChainTrace:
    """The steps and candidates of snapshots, the first of which is the distribution of the model.

    The candidates are the `count` most likely ones before and after the chain, the most likely one that each step
    removed, and the token `besides`. Probabilities are a softmax over the live candidates, which are not masked to
    -inf.
    """
    import numpy as np  # takes 80 ms, so only here

    model = np.frombuffer(snapshots[0].rows, ROW_TYPE)
    order = np.argsort(-model["logit"], kind="stable")
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(1, len(order) + 1)
    ps = [_probabilities(snapshot, len(order)) for snapshot in snapshots]
    final = np.argsort(-ps[-1], kind="stable")[: min(count, int((~np.isnan(ps[-1])).sum()))]  # NaN sorts last
    selected: set[int] = {*order[:count].tolist(), *final.tolist(), *([] if besides is None else [besides])}
    steps = []
    for snapshot, (before, after) in zip(snapshots[1:], pairwise(ps), strict=True):
        removed = ~np.isnan(before) & np.isnan(after)
        selected |= {*order[removed[order]][:1].tolist()}
        moved = float(np.abs(np.nan_to_num(after) - np.nan_to_num(before)).sum() / 2)
        n_before, n_live = (int((~np.isnan(p)).sum()) for p in (before, after))
        share = float(ps[0][removed].sum())
        steps.append(ChainStep(snapshot.name, n_before, n_live, share, moved if moved > _ROUNDING else 0.0))
    candidates = []
    for token in sorted(selected, key=ranks.__getitem__):
        course = [float(p[token]) for p in ps]
        last = max((at for at, p in enumerate(course) if not math.isnan(p)), default=0)
        # infill adds the end token, also where a step before has removed it: until then its probability is 0.
        at_first, *later = [0.0 if math.isnan(p) else p for p in course[: last + 1]]
        candidates.append(Candidate(token, text_of(token), int(ranks[token]), at_first, tuple(later)))
    return ChainTrace(len(order), tuple(steps), tuple(candidates))


def _probabilities(snapshot: CandidateSnapshot, n_vocab: int) -> "NDArray[np.float64]":
    import numpy as np

    rows = np.frombuffer(snapshot.rows, ROW_TYPE)
    live = rows[rows["logit"] > -np.inf]
    weights = np.exp(live["logit"].astype(np.float64) - live["logit"].max())
    p = np.full(n_vocab, np.nan)
    p[live["id"]] = weights / weights.sum()
    return p
