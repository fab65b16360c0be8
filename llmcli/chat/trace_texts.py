"""Which text of an answer became certain with which token: the traces of the engine, joined with what was said."""

from collections.abc import Callable, Sequence

from llmcli.engine.generation import Generation
from llmcli.engine.record import Record
from llmcli.engine.trace import TokenTrace

Said = Sequence[tuple[str, str]]  # ("answer" or "think", text)


class TraceTexts:
    """Hands on the trace of each token with its text, in order, once it will not be taken back.

    The texts joined are the answer exactly; what no token stands for comes as one without an id.
    """

    def __init__(self, generation: Generation, hear: Callable[[TokenTrace], None]) -> None:
        self._generation = generation
        self._hear = hear
        self._said: list[tuple[str, str]] = []  # answer and reasoning of each token
        self._given = 0

    def said(self, parts: Said, record: Record | None = None) -> None:
        """Take the parts of the text that came with one record, or with none: a prefill, the end of what was held."""
        if self._generation.trace is None:
            return
        traces, drawn = self._generation.traces, record is not None and record.id is not None
        del self._said[len(traces) - drawn :]  # tokens were taken back
        if drawn:
            self._said.append(_by_kind(parts))
        while self._given < min(self._generation.settled, len(self._said)):
            text, reasoning = self._said[self._given]
            self._hear(traces[self._given]._replace(text=text, reasoning=reasoning))
            self._given += 1
        if not drawn:
            self._aside(*_by_kind(parts))

    def _aside(self, text: str, reasoning: str) -> None:
        """Text that no token stands for."""
        if text or reasoning:
            self._hear(TokenTrace(self._given, None, text, None, None, None, None, None, (), "", 0, 0.0, reasoning))


def _by_kind(parts: Said) -> tuple[str, str]:
    if len(parts) == 1 and parts[0][0] == "answer":  # as nearly always
        return parts[0][1], ""
    answer = "".join(text for kind, text in parts if kind == "answer")
    return answer, "".join(text for kind, text in parts if kind == "think")
