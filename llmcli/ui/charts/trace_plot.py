"""Plot temperature, entropy and probability over an answer: three panels in one self-contained SVG."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from llmcli.engine.events import TokenTrace
from llmcli.text import ellipsize, plural, sanitize
from llmcli.ui.charts.trace_table import token_text
from llmcli.ui.export_file import fill_template

_LEFT, _RIGHT = 56, 896  # pixels; they bound the panels
_TOP, _PANEL, _GAP, _BOTTOM = 84, 124, 44, 56
_PANELS = (
    ("temperature", "temperature", "", "#f0935f"),
    ("entropy", "entropy", " nats", "#6fa8f0"),
    ("p", "probability", "", "#8fc27a"),
)
_BASE = _TOP + len(_PANELS) * (_PANEL + _GAP) - _GAP  # of the lowest panel
_MOST_NAMED = 60  # tokens; the texts of more do not fit below the axis
_NAME, _NAMES = 12, 86  # columns of such a text, and pixels below the axis for it
_MOST_SENTENCES = 160  # more lines are not readable
_MOST_TIP = 60  # characters of text in a tooltip
_MOST_STEPS = 500  # of the line and the area below it, with two points for each
_MOST_BINS, _LEAST = 500, 6  # of a longer series, and numbers in each bin; line and band have three points for each


def plot_svg(tokens: Sequence[TokenTrace], title: str) -> str:
    """The plot, with tooltips; a long trace is drawn in bins of several tokens. The same trace gives the same bytes."""
    title, count = " ".join(title.split()), len(tokens)
    policies = dict.fromkeys(token.policy for token in tokens if token.policy)  # in order of appearance
    sentences = [at for at in range(1, count) if tokens[at].sentence != tokens[at - 1].sentence]
    if len(sentences) > _MOST_SENTENCES:
        sentences = []
    reasoning, end = [], 0
    for thinking, group in groupby(tokens, key=lambda token: token.thinking):
        start, end = end, end + len(list(group))
        reasoning += [(_x(start, count), _x(end, count))] if thinking else []
    names = []
    for at, token in enumerate(tokens if count <= _MOST_NAMED else ()):
        text = token.text or token.reasoning
        names.append((_x(at + 0.5, count), token_text(text.strip() or text, _NAME), token.thinking))
    legend = {
        "token": True,
        "line: mean, band: minimum to maximum": count > _MOST_STEPS,
        "dotted: start of a sentence": bool(sentences),
        "shaded: reasoning": bool(reasoning),
    }
    return fill_template(
        Path(__file__).with_name("trace_plot.svg"),
        title=title,
        heading=ellipsize(title, 60),
        about=ellipsize(" · ".join([plural(count, "token"), *policies]), 60),
        height=_BASE + _BOTTOM + (_NAMES if count <= _MOST_NAMED else 0),
        left=_LEFT,
        right=_RIGHT,
        size=_PANEL,
        base=_BASE,
        is_long=count > _MOST_STEPS,
        sentences=[_x(at, count) for at in sentences],
        reasoning=reasoning,
        panels=[_panel(tokens, at) for at in range(len(_PANELS))],
        numbers=[(_x(at + 0.5, count), at) for at in ticks(max(count, 10), 10) if at < count],
        names=names,
        legend=" · ".join(mark for mark, is_drawn in legend.items() if is_drawn),
        tips=[_tip(tokens, part) for part in _bins(count)],
    )


def _x(place: float, count: int) -> str:
    """Where token `place` of `count` begins, in pixels."""
    return f"{_LEFT + (_RIGHT - _LEFT) * place / max(count, 1):.1f}"


def _bins(count: int) -> list[range]:
    """The tokens that are drawn together; one each where they are few."""
    number = min(_MOST_BINS, count // _LEAST) if count > _MOST_STEPS else count
    return [range(at * count // number, (at + 1) * count // number) for at in range(number)]


def _panel(tokens: Sequence[TokenTrace], at: int) -> dict[str, object]:
    key, name, unit, color = _PANELS[at]
    top = _TOP + at * (_PANEL + _GAP)
    values: list[float | None] = [getattr(token, key) for token in tokens]
    known = [value for value in values if value is not None]
    marks, facts = ticks(max([1.0, *known]), 4), ""
    if known:
        facts = f"min {min(known):.2f} · mean {sum(known) / len(known):.2f} · max {max(known):.2f}{unit}"
    curves = list(curve(values, top + _PANEL, _PANEL / marks[-1]))
    return {"top": top, "name": name, "color": color, "facts": facts, "marks": marks, "curves": curves}


def ticks(high: float, most: int) -> list[float]:
    """Round numbers from 0 to at least `high`, in at most `most` steps of 1, 2 or 5 times 10^n."""
    unit = 10.0 ** math.floor(math.log10(high / most))
    step = next(unit * size for size in (1, 2, 5, 10) if unit * size * most >= high * (1 - 1e-9))
    return [float(f"{step * at:.6g}") for at in range(math.ceil(high / step - 1e-9) + 1)]


def curve(values: Sequence[float | None], base: int, scale: float) -> Iterator[tuple[str, str]]:
    """The paths of ground and line of a series with its zero at `base` and `scale` pixels per unit; None is a gap.

    A short series is drawn in steps; a long one as the line of its means, on a band from the minimum to the maximum.
    """
    count = len(values)
    bins = [(part, [value for at in part if (value := values[at]) is not None]) for part in _bins(count)]
    for _, group in groupby(bins, key=lambda one: bool(one[1])):
        parts, numbers = zip(*group, strict=True)
        if not numbers[0]:
            continue
        if count > _MOST_STEPS:
            places = [_x((part.start + part.stop) / 2, count) for part in parts]
            spots = list(zip(places, numbers, strict=True))
            means = [f"{x} {base - sum(own) / len(own) * scale:.1f}" for x, own in spots]
            high = [f"{x} {base - max(own) * scale:.1f}" for x, own in spots]
            low = [f"{x} {base - min(own) * scale:.1f}" for x, own in spots]
            yield f"M{'L'.join([*high, *reversed(low)])}Z", f"M{'L'.join(means)}"
        else:
            heights = [f"{base - value * scale:.1f}" for (value,) in numbers]
            steps = "".join(f"V{y}H{_x(part.stop, count)}" for part, y in zip(parts, heights, strict=True))
            left = _x(parts[0].start, count)
            yield f"M{left} {base}{steps}V{base}Z", f"M{left} {heights[0]}{steps}"


def _tip(tokens: Sequence[TokenTrace], part: range) -> tuple[str, str, str]:
    """Left edge, width and text of the tooltip of these tokens."""
    left, right, own = _x(part.start, len(tokens)), _x(part.stop, len(tokens)), tokens[part.start : part.stop]
    text = sanitize("".join(token.text or token.reasoning for token in own)[:_MOST_TIP])
    facts = []
    for name, key in (("T", "temperature"), ("H", "entropy"), ("p", "p")):
        values = [value for token in own if (value := getattr(token, key)) is not None]
        facts.append(f"{name} {sum(values) / len(values):.4g}" if values else f"{name} none")
    about = f"tokens {own[0].i} to {own[-1].i}, means" if len(own) > 1 else f"token {own[0].i}"
    tip = "\n".join([json.dumps(text, ensure_ascii=False), f"{about}: {', '.join(facts)}"])
    return left, f"{float(right) - float(left):.1f}", tip
