"""How the tokens of an answer were sampled: the answer is evaluated, or generated, again."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from llmcli.engine import token_inspection
from llmcli.engine.events import Cancellation, TemperatureShift, TokenInspection
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.token_inspection import CandidateCapture, InspectTarget
from llmcli.inference.engine import Progress, Request
from llmcli.params.settings import Settings


class LocalInspector:
    """Inspects the answer `tokens` to a request in the context that generated it; `start` makes its generations."""

    def __init__(
        self, context: Context, request: Request, tokens: Sequence[int], start: Callable[..., Generation]
    ) -> None:
        self._context = context
        self._request = request
        self._start = start
        self._target = InspectTarget(request.settings, request.grammar, tokens, self._make)
        self._cancellation = Cancellation()
        self.stateful_steps = self._target.stateful_steps

    def _make(self, settings: Settings, grammar: str | None, capture: CandidateCapture) -> Generation:
        shift = TemperatureShift(self._request.live_shift.moves if self._request.live_shift else ())
        again = replace(
            self._request,
            settings=settings,
            grammar=grammar,
            progress=None,
            live_shift=shift,
            trace=0,
            cancellation=self._cancellation,
        )
        return self._start(again, on_step=capture.record)

    def inspect(
        self, number: int, count: int, cancellation: Cancellation | None = None, progress: Progress | None = None
    ) -> TokenInspection | None:
        self._cancellation = cancellation or Cancellation()
        with suppress(AbortedError):
            return token_inspection.inspect_token(self._context, self._target, number, count, progress)
        return None

    def entropies(
        self, cancellation: Cancellation | None = None, progress: Progress | None = None
    ) -> list[float] | None:
        self._cancellation = cancellation or Cancellation()
        with suppress(AbortedError):
            return token_inspection.entropies(self._context, self._target, progress)
        return None

    def token_at_rank(
        self, number: int, rank: int, cancellation: Cancellation | None = None, progress: Progress | None = None
    ) -> int | None:
        self._cancellation = cancellation or Cancellation()
        with suppress(AbortedError):
            return token_inspection.token_at_rank(self._context, self._target, number, rank, progress)
        return None
