"""A trace as a table: a row for each token, its alternatives below, and a summary."""

import math
import shutil
import sys
from collections.abc import Sequence

from llmcli.engine.events import Alternative, TokenTrace
from llmcli.text import plural
from llmcli.ui.terminal.cells import fit, plain, wrap
from llmcli.ui.terminal.console import is_terminal
from llmcli.ui.terminal.output import put_line, stream
from llmcli.ui.terminal.sanitize import safe
from llmcli.ui.terminal.table import put_rows, width

_HEADS = ("#", "TEXT", "P", "RANK", "TEMP", "ENTROPY", "CANDIDATES", "SENTENCE", "POLICY")
_SPARE = ("POLICY", "SENTENCE", "CANDIDATES", "RANK")
_SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})  # to show blanks
_WIDEST, _NARROW = 16, 10  # columns of the text of a token; the second in a small window
_INDENT = 2


def put_trace(tokens: Sequence[TokenTrace]) -> None:
    """Print the table and a summary.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    rows = [_row(token) for token in tokens]
    below = [_alternatives(token.top) for token in tokens]
    put_rows(
        _HEADS, rows, right=tuple(head for head in _HEADS if head not in ("TEXT", "POLICY")), below=below, spare=_SPARE
    )
    put_line("")
    for line in wrap([("", summary_line(tokens))], _room()):
        put_line(plain(line))


def summary(tokens: Sequence[TokenTrace]) -> dict[str, float | int | None]:
    """Number of tokens, means, and perplexity exp(mean(-ln p)) in the distributions they were sampled from."""
    drawn = [token for token in tokens if token.id is not None]
    surprise = _mean([None if token.p is None else -math.log(max(token.p, sys.float_info.min)) for token in drawn])
    return {
        "tokens": len(drawn),
        "mean_temperature": _mean([token.temperature for token in drawn]),
        "mean_p": _mean([token.p for token in drawn]),
        "mean_entropy": _mean([token.entropy for token in drawn]),
        "perplexity": None if surprise is None else math.exp(surprise),
    }


def summary_line(tokens: Sequence[TokenTrace]) -> str:
    """The summary as text, without values that no token has."""
    facts = summary(tokens)
    texts = {
        "mean_temperature": "mean temperature {:.2f}",
        "mean_p": "mean probability {:.2f}",
        "mean_entropy": "mean entropy {:.2f} nats",
        "perplexity": "perplexity {:.2f}",
    }
    known = [text.format(facts[key]) for key, text in texts.items() if facts[key] is not None]
    return ", ".join([plural(int(facts["tokens"] or 0), "token"), *known])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _row(token: TokenTrace) -> tuple[str, ...]:
    return (
        str(token.i),
        _text(token.text or token.reasoning),
        _number(token.p, 4),
        _number(token.rank, 0),
        _number(token.temperature, 2),
        _number(token.entropy, 2),
        _number(token.candidates, 0),
        str(token.sentence),
        f"{token.policy} (thinking)" if token.thinking else token.policy,
    )


def token_text(text: str, columns: int) -> str:
    """The text of a token in at most so many columns, with visible blanks and newlines."""
    text = safe(text).translate(_SIGNS)
    return text if width(text) <= columns else text[: fit(text, 0, columns - 1)] + "…"


def _text(text: str) -> str:
    return token_text(text, _NARROW if _room() < 60 else _WIDEST)


def _room() -> int:
    """The columns of a row; without a limit in a file."""
    return shutil.get_terminal_size().columns if is_terminal(stream()) else 10**6


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _alternatives(top: Sequence[Alternative]) -> str:
    """The alternatives, each with its probability before and after the sampler chain; wrapped on a terminal."""
    room = _room() - _INDENT
    lines, line = [], ""
    for one in top:
        part = f"{_text(one.text)} {one.before:.3f}→{f'{one.p:.3f}' if one.p else 'out'}"
        if line and width(line) + len(", ") + width(part) > room:
            lines.append(line + ",")
            line = part
        else:
            line += f", {part}" if line else part
    return f"\n{' ' * _INDENT}".join([*lines, line])
