"""Plot temperature, entropy and probability over an answer: three panels in one self-contained SVG."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmcli.engine.events import TokenTrace
from llmcli.text import ellipsize, plural, sanitize, xml_text
from llmcli.ui.charts.trace_table import token_text

_WIDTH, _LEFT, _RIGHT = 920, 56, 896  # pixels; the last two bound the panels
_TOP, _PANEL, _GAP, _BOTTOM = 84, 124, 44, 56
_TOPS = [_TOP + at * (_PANEL + _GAP) for at in range(3)]
_BASE = _TOPS[-1] + _PANEL  # of the lowest panel
_FONTS = "system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_GROUND, _INK, _FAINT, _GRID = "#17191e", "#d5d9e0", "#8f96a3", "#2c3038"
_TINT, _LINE = "#21252d", "#565d6a"
_PANELS = (
    ("temperature", "temperature", "", "#f0935f"),
    ("entropy", "entropy", " nats", "#6fa8f0"),
    ("p", "probability", "", "#8fc27a"),
)
_MOST_NAMED = 60  # tokens; the texts of more do not fit below the axis
_NAME, _NAMES = 12, 86  # columns of such a text, and pixels below the axis for it
_MOST_SENTENCES = 160  # more lines are not readable
_MOST_TIP = 60  # characters of text in a tooltip
_STYLE = f"text{{font:12px {_FONTS}}}.n text{{font:11px {_MONO}}}.t rect{{fill-opacity:0}}.t :hover{{fill-opacity:.12}}"
_MOST_STEPS = 500  # of the line and the area below it, with two points for each
_MOST_BINS, _LEAST = 500, 6  # of a longer series, and numbers in each bin; line and band have three points for each

_Stretch = Sequence[tuple[range, list[float]]]


@dataclass(frozen=True)
class AxisRange:
    """A series of `count` numbers from `left` to `right` (pixels), each of the same width."""

    count: int
    left: float
    right: float

    @property
    def is_long(self) -> bool:
        """Whether it is drawn in bins of several numbers."""
        return self.count > _MOST_STEPS

    def bins(self) -> list[range]:
        """The ranges of numbers that are drawn together; one number each where they are few."""
        number = min(_MOST_BINS, self.count // _LEAST) if self.is_long else self.count
        return [range(at * self.count // number, (at + 1) * self.count // number) for at in range(number)]

    def x(self, place: float) -> str:
        return f"{self.left + (self.right - self.left) * place / max(self.count, 1):.1f}"


def plot_svg(tokens: Sequence[TokenTrace], title: str) -> str:
    """The plot, with tooltips; a long trace is drawn in bins of several tokens. The same trace gives the same bytes."""
    span, title = AxisRange(len(tokens), _LEFT, _RIGHT), " ".join(title.split())
    height = _BASE + _BOTTOM + (_NAMES if len(tokens) <= _MOST_NAMED else 0)
    policies = dict.fromkeys(token.policy for token in tokens if token.policy)  # in order of appearance
    about = ellipsize(" · ".join([plural(len(tokens), "token"), *policies]), 60)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" fill="{_INK}">',
        f"<title>{xml_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="{_GROUND}"/>',
        f'<text x="{_LEFT}" y="36" style="font-size:17px;font-weight:600">{xml_text(ellipsize(title, 60))}</text>',
        f'<text x="{_RIGHT}" y="36" text-anchor="end" fill="{_FAINT}">{xml_text(about)}</text>',
        *_marks(tokens, span),
    ]
    for top, (key, name, unit, color) in zip(_TOPS, _PANELS, strict=True):
        values: list[float | None] = [getattr(token, key) for token in tokens]
        marks = ticks(max([1.0, *(value for value in values if value is not None)]), 4)
        parts += _panel(values, marks, top, name, unit, color)
        parts += curve(values, span, top + _PANEL, _PANEL / marks[-1], color)
    parts += [*_axis(tokens, span, height), *_tooltips(tokens, span), "</svg>", ""]
    return "\n".join(parts)


def _marks(tokens: Sequence[TokenTrace], span: AxisRange) -> Iterator[str]:
    """A shaded background for the reasoning, and a dotted line at the start of each sentence."""
    at = 0
    for thinking, group in groupby(tokens, key=lambda token: token.thinking):
        start, at = at, at + len(list(group))
        for top in _TOPS if thinking else ():
            yield f'<path d="M{span.x(start)} {top}H{span.x(at)}v{_PANEL}H{span.x(start)}Z" fill="{_TINT}"/>'
    if lines := "".join(f"M{span.x(start)} {top}v{_PANEL}" for start in _sentences(tokens) for top in _TOPS):
        yield f'<path d="{lines}" stroke="{_LINE}" stroke-dasharray="2 3"/>'


def _sentences(tokens: Sequence[TokenTrace]) -> list[int]:
    """The start of each sentence but the first; empty where there are too many."""
    starts = [at for at in range(1, len(tokens)) if tokens[at].sentence != tokens[at - 1].sentence]
    return starts if len(starts) <= _MOST_SENTENCES else []


def _panel(
    values: Sequence[float | None], marks: Sequence[float], top: int, name: str, unit: str, color: str
) -> Iterator[str]:
    known = [value for value in values if value is not None]
    yield f'<text x="{_LEFT}" y="{top - 10}" fill="{color}" style="font-weight:600">{name}</text>'
    if known:
        facts = f"min {min(known):.2f} · mean {sum(known) / len(known):.2f} · max {max(known):.2f}{unit}"
        yield f'<text x="{_RIGHT}" y="{top - 10}" text-anchor="end" fill="{_FAINT}">{facts}</text>'
    for mark in marks:
        y = top + _PANEL - mark / marks[-1] * _PANEL
        yield f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_FAINT}">{mark:g}</text>'


def ticks(high: float, most: int) -> list[float]:
    """Round numbers from 0 to at least `high`, in at most `most` steps of 1, 2 or 5 times 10^n."""
    unit = 10.0 ** math.floor(math.log10(high / most))
    step = next(unit * size for size in (1, 2, 5, 10) if unit * size * most >= high * (1 - 1e-9))
    return [float(f"{step * at:.6g}") for at in range(math.ceil(high / step - 1e-9) + 1)]


def curve(values: Sequence[float | None], span: AxisRange, base: int, scale: float, color: str) -> Iterator[str]:
    """The paths of a series with its zero at `base` and `scale` pixels per unit; None is a gap."""
    bins = [(part, [value for at in part if (value := values[at]) is not None]) for part in span.bins()]
    for is_known, group in groupby(bins, key=lambda one: bool(one[1])):
        if not is_known:
            continue
        stretch = list(group)
        line, ground = (_band if span.is_long else _stairs)(stretch, span, base, scale)
        opacity = 0.35 if span.is_long else 0.16
        yield f'<path d="{ground}" fill="{color}" fill-opacity="{opacity}"/>'
        yield f'<path d="{line}" fill="none" stroke="{color}" stroke-width="1.5" stroke-linejoin="round"/>'


def _stairs(stretch: _Stretch, span: AxisRange, base: int, scale: float) -> tuple[str, str]:
    heights = [f"{base - values[0] * scale:.1f}" for _, values in stretch]
    left = span.x(stretch[0][0].start)
    steps = "".join(f"V{y}H{span.x(part.stop)}" for (part, _), y in zip(stretch, heights, strict=True))
    return f"M{left} {heights[0]}{steps}", f"M{left} {base}{steps}V{base}Z"


def _band(stretch: _Stretch, span: AxisRange, base: int, scale: float) -> tuple[str, str]:
    """The line of the means, and the band from the minimum to the maximum."""
    middles = [span.x((part.start + part.stop) / 2) for part, _ in stretch]

    def points(heights: Sequence[float]) -> list[str]:
        return [f"{x} {base - height * scale:.1f}" for x, height in zip(middles, heights, strict=True)]

    means = points([sum(values) / len(values) for _, values in stretch])
    low, high = points([min(values) for _, values in stretch]), points([max(values) for _, values in stretch])
    return f"M{'L'.join(means)}", f"M{'L'.join([*high, *reversed(low)])}Z"


def _axis(tokens: Sequence[TokenTrace], span: AxisRange, height: int) -> Iterator[str]:
    """The numbers of the tokens, in a short trace their texts, and the legend, below the lowest panel."""
    yield f'<path d="M{_LEFT} {_BASE}H{_RIGHT}" stroke="{_FAINT}"/>'
    below = _BASE + 18
    for tick in ticks(max(len(tokens), 10), 10):
        if tick < len(tokens):
            yield f'<text x="{span.x(tick + 0.5)}" y="{below}" text-anchor="middle" fill="{_FAINT}">{tick:g}</text>'
    if len(tokens) <= _MOST_NAMED:
        yield '<g class="n" text-anchor="end">'
        for at, token in enumerate(tokens):
            text, ink = token.text or token.reasoning, _FAINT if token.thinking else _INK
            turned = f"translate({span.x(at + 0.5)} {below + 10}) rotate(-90) translate(0 4)"
            yield f'<text transform="{turned}" fill="{ink}">{xml_text(token_text(text.strip() or text, _NAME))}</text>'
        yield "</g>"
    marks = {
        "token": True,
        "line: mean, band: minimum to maximum": span.is_long,
        "dotted: start of a sentence": bool(_sentences(tokens)),
        "shaded: reasoning": any(token.thinking for token in tokens),
    }
    legend = " · ".join(mark for mark, is_drawn in marks.items() if is_drawn)
    yield f'<text x="{_RIGHT}" y="{height - 16}" text-anchor="end" fill="{_FAINT}">{legend}</text>'


def _tooltips(tokens: Sequence[TokenTrace], span: AxisRange) -> Iterator[str]:
    yield f'<g class="t" fill="{_INK}">'
    for part in span.bins():
        left, right, own = span.x(part.start), span.x(part.stop), tokens[part.start : part.stop]
        text = sanitize("".join(token.text or token.reasoning for token in own)[:_MOST_TIP])
        facts = []
        for name, key in (("T", "temperature"), ("H", "entropy"), ("p", "p")):
            values = [value for token in own if (value := getattr(token, key)) is not None]
            facts.append(f"{name} {sum(values) / len(values):.4g}" if values else f"{name} none")
        about = f"tokens {own[0].i} to {own[-1].i}, means" if len(own) > 1 else f"token {own[0].i}"
        tip = xml_text("\n".join([json.dumps(text, ensure_ascii=False), f"{about}: {', '.join(facts)}"]))
        yield (
            f'<rect x="{left}" y="{_TOP}" width="{float(right) - float(left):.1f}" height="{_BASE - _TOP}">'
            f"<title>{tip}</title></rect>"
        )
    yield "</g>"
