"""Several answers to compare: generated side by side, each with its own settings and statistics."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from llmcli.chat.statistics import Statistics, statistics_of
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer, Part
from llmcli.inference.batch import Asked, generate_together, side_by_side
from llmcli.inference.local import LocalModel
from llmcli.inference.variants import Variant, settings_data

END = "end"  # the kind of the last part of each answer, whose text is its finish reason
Piece = tuple[int, str, str]  # index of the answer, "answer", "think" or "end", text


@dataclass
class Compared:
    """One of the answers with its variant and its statistics."""

    variant: Variant
    answer: Answer

    @property
    def failure(self) -> LlmcliError | None:
        """The error that ended it, if it failed."""
        return self.answer.generation.failure

    @property
    def statistics(self) -> Statistics:
        """The statistics of the answer so far."""
        return statistics_of(self.answer)

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        head = {
            "label": self.variant.label,
            "settings": settings_data(self.variant),
            "stats": self.statistics.to_data(),
        }
        error = {"error": str(self.failure)} if self.failure else {}
        return {**head, **self.answer.data(), **error}


class Comparison:
    """Iterate over `parts()` to its end, then read the answers. `progress` is called while the prompt is evaluated."""

    def __init__(self, local: LocalModel, answers: Sequence[tuple[Variant, Answer]]) -> None:
        """`answers` are for this model and have not started; they are traced."""
        self.local = local
        self.compared = [Compared(variant, answer) for variant, answer in answers]
        self.seconds = 0.0  # from the first token to the last
        self.progress: Callable[[int, int], None] | None = None
        for one in self.compared:
            one.answer.trace = one.answer.trace or 0

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before all answers ended."""
        return any(one.answer.finish_reason == "interrupt" for one in self.compared)

    def parts(self) -> Generator[Piece, None, None]:
        """The parts of all answers as they are generated; an answer that fails ends alone.

        Raises:
            ContextOverflowError, UsageError: before the first part.
        """
        answers = [one.answer for one in self.compared]
        with side_by_side(self.local, [one.prompt for one in answers], [one.settings for one in answers]) as width:
            for first in range(0, len(answers), width):
                yield from self._round(first, self.compared[first : first + width])

    def _round(self, first: int, compared: Sequence[Compared]) -> Iterator[Piece]:
        """The answers that are generated at a time; `first` is the index of the first one."""
        requests = [
            Asked(one.answer.prompt, one.answer.settings, one.answer.grammar, one.answer.watched(), one.variant.label)
            for one in compared
        ]
        generations, records = generate_together(self.local, requests, self.progress)
        for index, (one, generation) in enumerate(zip(compared, generations, strict=True), first):
            yield from _tagged(index, one.answer.begin(generation))
        start: float | None = None
        for record in records:
            start = start or perf_counter()
            index, answer = first + record.seq_id, compared[record.seq_id].answer
            yield from _tagged(index, answer.take(record))
            if record.finish_reason:
                yield from _tagged(index, answer.end())
                yield index, END, record.finish_reason
        self.seconds += perf_counter() - (start or perf_counter())


def _tagged(index: int, parts: Iterator[Part]) -> Iterator[Piece]:
    return ((index, kind, text) for kind, text in parts)
