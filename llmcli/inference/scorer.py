"""Log-probabilities of given tokens by a loaded model, in a context of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, ScoredPrompt, common_prefix
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scoring import WIDTH, score, score_prompt
from llmcli.errors import TimeLimitError
from llmcli.inference import sizing
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.inference.context_states import ContextStates

_BESIDE = 512  # tokens of a context beyond those of the longest text: several short ones at a time


class Scorer:
    """Keeps its context, which grows with the texts, and what it has evaluated; see `Engine.score`."""

    def __init__(
        self,
        model: Model,
        shape: sizing.ModelShape,
        settings: Settings,
        note: Callable[[str], None],
        on_context: Callable[[float], None],
        states: "ContextStates | None" = None,
    ) -> None:
        """`note` is called with what the user should know of a new context, `on_context` with when it was begun."""
        self._model, self._shape, self._settings = model, shape, settings
        self._note, self._on_context = note, on_context
        self._states = states
        self.context: Context | None = None
        self._n_cells = 0  # tokens of the context
        self._last: tuple[int, ScoredPrompt] | None = None  # with how many alternatives, and the last prompt

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None
    ) -> list[list[float]]:
        context = self._context_for(len(prefix) + max(map(len, continuations), default=0))
        with self._until(context, cancellation):
            return score(context, self._n_cells, prefix, continuations)

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None) -> ScoredPrompt:
        context = self._context_for(len(tokens))
        n_last, last = self._last or (n_top, ScoredPrompt((), (), ()))
        n_known = max(common_prefix(last.tokens, tokens) - 1, 0) if n_last == n_top else 0
        self._last = None
        with self._until(context, cancellation):
            scored = score_prompt(context, tokens, n_top, last.logprobs[:n_known])
        self._last = n_top, scored
        return scored

    def close(self) -> None:
        """Free the context."""
        if self.context:
            self.context.close()
            self.context = None

    def _context_for(self, longest: int) -> Context:
        """The context, made anew where a longer text comes; it grows by half at least."""
        if self.context and longest <= self.context.n_ctx:
            return self.context
        begin, before = perf_counter(), self.context.n_ctx if self.context else 0
        grown = max(longest, min(before * 3 // 2, self._shape.n_ctx_train))
        n_ctx, note = sizing.choose_context(self._shape, replace(self._settings, max_tokens=0), grown - 1)
        if note:
            self._note(note)
        self.close()
        self._n_cells = n_ctx + _BESIDE
        self.context = Context(self._model, replace(self._settings, n_ctx=self._n_cells), WIDTH + 1, n_ctx)
        self._on_context(begin)
        return self._states.attach(self.context) if self._states else self.context

    @contextmanager
    def _until(self, context: Context, cancellation: Cancellation | None) -> Iterator[None]:
        """Within this block the cancellation ends an evaluation. Raises what it is for."""
        context.watch([cancellation] if cancellation else [])
        try:
            yield
        except AbortedError:
            if cancellation and cancellation.reason == "timeout":
                message = f"stopped by --timeout after {self._settings.timeout:g} s"
                raise TimeLimitError(message, "raise --timeout") from None
            raise KeyboardInterrupt from None
