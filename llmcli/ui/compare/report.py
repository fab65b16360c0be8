"""What is said of answers that were compared: their texts one after the other, their figures as a table."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.errors import DiskError
from llmcli.params.inert import inert
from llmcli.params.layers import Resolved
from llmcli.ui.console import console
from llmcli.ui.output import aside, put_line
from llmcli.ui.stream import AnswerWriter
from llmcli.ui.table import put_rows
from llmcli.ui.units import plural

if TYPE_CHECKING:  # it stands on the engine
    from llmcli.chat.comparison import Comparison

_HEADS = ("N", "VARIANT", "TOKENS", "WORDS", "DIST-1", "DIST-2", "DIST-3", "P", "REPEAT", "END")
_SPARE = ("WORDS", "DIST-3", "DIST-1", "VARIANT", "END")  # left out where the window is narrow, the first one first


def warn_inert(asked: Sequence[tuple[str, Resolved]]) -> None:
    """Say which settings are ignored, and in the answers of which labels, if not in all."""
    found: dict[tuple[str, str], list[str]] = {}
    for label, resolved in asked:
        for key, reason in inert(resolved.settings, resolved.origins).items():
            found.setdefault((key, reason), []).append(label)
    for (key, reason), labels in found.items():
        where = "" if len(labels) == len(asked) else f" in {', '.join(labels)}"
        console.warn(f"{key} has no effect{where}: {reason}")


def put_texts(comparison: "Comparison", think: bool) -> None:
    """The answers on stdout, each under its label; the reasoning before it on stderr, if wanted.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    for one in comparison.compared:
        put_line(f"== {one.variant.label} ==")
        if think and one.answer.reasoning:
            console.think(one.answer.reasoning + "\n\n")
        writer = AnswerWriter()
        writer.write(one.answer.text)
        writer.end()


def tell(comparison: "Comparison", live: bool) -> None:
    """The figures below the answers: on the terminal that shows them, else on stderr."""
    if live:
        put_line("")
        put_figures(comparison)
    elif not console.quiet:
        with aside(True), suppress(DiskError):  # there is nobody to tell
            put_line("")
            put_figures(comparison)
    _tell_speed(comparison)


def put_figures(comparison: "Comparison") -> None:
    """A row for each answer; see `chat.statistics` for what the figures are."""
    rows = []
    for number, one in enumerate(comparison.compared, 1):
        s = one.statistics
        shares = [_share(value) for value in (s.distinct_1, s.distinct_2, s.distinct_3, s.mean_p, s.repetition)]
        rows.append((str(number), one.variant.label, str(s.tokens), str(s.words), *shares, one.answer.finish_reason))
    right = [head for head in _HEADS if head not in ("VARIANT", "END")]
    put_rows(_HEADS, rows, right=right, spare=_SPARE)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tell_speed(comparison: "Comparison") -> None:
    """How fast all of them came together, and how much of the prompt was read for it."""
    timings = [one.answer.generation.timings for one in comparison.compared]
    drawn, read = sum(t.predicted_n for t in timings), sum(t.prompt_n for t in timings)
    speed = f" in {comparison.seconds:.1f} s, {drawn / comparison.seconds:.0f} tokens/s" if comparison.seconds else ""
    whole = f"{plural(len(timings), 'answer')}, {plural(drawn, 'token')}"
    console.note(f"{whole}{speed}; {plural(read, 'prompt token')} read")


def tell_failures(comparison: "Comparison") -> None:
    """Why answers ended before the others."""
    for one in comparison.compared:
        if one.failure:
            console.error(f"{one.variant.label}: {one.failure}", one.failure.hint)
