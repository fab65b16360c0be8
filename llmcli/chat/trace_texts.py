"""Join the traces of the engine with the texts of the answer: which token made which text certain."""

from collections.abc import Callable, Sequence

from llmcli.engine.events import Record, TokenTrace
from llmcli.engine.generation import Generation

_Parts = Sequence[tuple[str, str]]  # ("answer" or "think", text)


class TraceTexts:
    """Passes on the trace of each token with its text, in order, once the token cannot be removed any more.

    All texts joined are the answer exactly. Text that belongs to no token is passed on as a token without an id.
    """

    def __init__(self, generation: Generation, on_token: Callable[[TokenTrace], None]) -> None:
        self._generation = generation
        self._on_token = on_token
        self._texts: list[tuple[str, str]] = []  # answer and reasoning of each token
        self._n_passed = 0

    def said(self, parts: _Parts, record: Record | None = None) -> None:
        """Add the text of one record, or text without a record: a prefill, or text that was held back to the end."""
        if self._generation.trace is None:
            return
        traces, has_token = self._generation.traces, record is not None and record.id is not None
        del self._texts[len(traces) - has_token :]  # tokens that were removed
        if has_token:
            self._texts.append(_by_kind(parts))
        while self._n_passed < min(self._generation.settled, len(self._texts)):
            text, reasoning = self._texts[self._n_passed]
            self._on_token(traces[self._n_passed]._replace(text=text, reasoning=reasoning))
            self._n_passed += 1
        if not has_token:
            self._pass_text(*_by_kind(parts))

    def _pass_text(self, text: str, reasoning: str) -> None:
        """Pass on text that belongs to no token."""
        if text or reasoning:
            index = self._n_passed
            self._on_token(TokenTrace(index, None, text, None, None, None, None, None, (), "", 0, 0.0, reasoning))


def _by_kind(parts: _Parts) -> tuple[str, str]:
    if len(parts) == 1 and parts[0][0] == "answer":  # the usual case
        return parts[0][1], ""
    answer = "".join(text for kind, text in parts if kind == "answer")
    return answer, "".join(text for kind, text in parts if kind == "think")
