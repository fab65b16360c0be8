"""The report of a comparison: the texts one after the other, and the statistics as a table."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.errors import DiskError
from llmcli.params.settings import Resolved, inert
from llmcli.text import plural
from llmcli.ui.terminal.answer_writer import AnswerWriter
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import aside, put_line
from llmcli.ui.terminal.table import put_rows

if TYPE_CHECKING:  # it stands on the engine
    from llmcli.inference.comparison import Comparison

_HEADS = ("N", "VARIANT", "TOKENS", "WORDS", "DISTINCT-1", "DISTINCT-2", "DISTINCT-3", "MEAN P", "REPEATED", "END")
_SPARE = ("WORDS", "DISTINCT-3", "DISTINCT-1", "VARIANT", "END")  # dropped in a narrow window, the first one first
_LEGEND = (
    "DISTINCT-n: share of n-token sequences that are different; MEAN P: mean probability of the tokens; "
    "REPEATED: share of 4-token sequences that occurred before"
)


def warn_inert(asked: Sequence[tuple[str, Resolved]]) -> None:
    """Warn of settings that are ignored, with the labels of the answers, if it is not all of them."""
    labels_of: dict[tuple[str, str], list[str]] = {}
    for label, resolved in asked:
        for key, reason in inert(resolved.settings, resolved.origins).items():
            labels_of.setdefault((key, reason), []).append(label)
    for (key, reason), labels in labels_of.items():
        where = "" if len(labels) == len(asked) else f" in {', '.join(labels)}"
        console.warn(f"{key} has no effect{where}: {reason}")


def put_texts(comparison: "Comparison", think: bool) -> None:
    """Print the answers to stdout, each under its label, and before it with `think` the reasoning to stderr.

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
    """Print the statistics: to the terminal below the answers, else to stderr."""
    if live:
        put_line("")
        put_figures(comparison)
    elif not console.quiet:
        with aside(True), suppress(DiskError):  # stderr may be closed
            put_line("")
            put_figures(comparison)
    console.note(_LEGEND)
    _print_speed(comparison)


def put_figures(comparison: "Comparison") -> None:
    """A row for each answer; `chat.statistics` explains the columns."""
    rows = []
    for number, one in enumerate(comparison.compared, 1):
        s = one.statistics
        shares = [_share(value) for value in (s.distinct_1, s.distinct_2, s.distinct_3, s.mean_p, s.repetition)]
        rows.append((str(number), one.variant.label, str(s.tokens), str(s.words), *shares, one.answer.finish_reason))
    right = [head for head in _HEADS if head not in ("VARIANT", "END")]
    put_rows(_HEADS, rows, right=right, spare=_SPARE)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_speed(comparison: "Comparison") -> None:
    """Print the speed of all answers together, and the number of prompt tokens evaluated."""
    timings = [one.answer.generation.timings for one in comparison.compared]
    generated, read = sum(t.predicted_n for t in timings), sum(t.prompt_n for t in timings)
    seconds = comparison.seconds
    speed = f" in {seconds:.1f} s, {generated / seconds:.0f} tokens/s" if seconds else ""
    total = f"{plural(len(timings), 'answer')}, {plural(generated, 'token')}"
    console.note(f"{total}{speed}; {plural(read, 'prompt token')} evaluated")


def tell_failures(comparison: "Comparison") -> None:
    """Print the errors of answers that failed."""
    for one in comparison.compared:
        if one.failure:
            console.error(f"{one.variant.label}: {one.failure}", one.failure.hint)
