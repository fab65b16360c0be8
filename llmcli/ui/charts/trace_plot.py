"""Plot temperature, entropy and probability over an answer: three panels in one self-contained SVG."""

import json
import math
from collections.abc import Iterator, Sequence
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


def plot_svg(tokens: Sequence[TokenTrace], title: str) -> str:
    """The plot, with tooltips; a long trace is drawn in bins of several tokens. The same trace gives the same bytes."""
    title = " ".join(title.split())
    height = _BASE + _BOTTOM + (_NAMES if len(tokens) <= _MOST_NAMED else 0)
    policies = dict.fromkeys(token.policy for token in tokens if token.policy)  # in order of appearance
    about = ellipsize(" · ".join([plural(len(tokens), "token"), *policies]), 60)
    sentences = [at for at in range(1, len(tokens)) if tokens[at].sentence != tokens[at - 1].sentence]
    if len(sentences) > _MOST_SENTENCES:
        sentences = []
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" fill="{_INK}">',
        f"<title>{xml_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="{_GROUND}"/>',
        f'<text x="{_LEFT}" y="36" style="font-size:17px;font-weight:600">{xml_text(ellipsize(title, 60))}</text>',
        f'<text x="{_RIGHT}" y="36" text-anchor="end" fill="{_FAINT}">{xml_text(about)}</text>',
        *_marks(tokens, sentences),
    ]
    for top, (key, name, unit, color) in zip(_TOPS, _PANELS, strict=True):
        parts += _panel([getattr(token, key) for token in tokens], top, name, unit, color)
    parts += [*_axis(tokens, bool(sentences), height), *_tooltips(tokens), "</svg>", ""]
    return "\n".join(parts)


def _x(place: float, count: int) -> str:
    """Where token `place` of `count` begins, in pixels."""
    return f"{_LEFT + (_RIGHT - _LEFT) * place / max(count, 1):.1f}"


def _bins(count: int) -> list[range]:
    """The tokens that are drawn together; one each where they are few."""
    number = min(_MOST_BINS, count // _LEAST) if count > _MOST_STEPS else count
    return [range(at * count // number, (at + 1) * count // number) for at in range(number)]


def _marks(tokens: Sequence[TokenTrace], sentences: Sequence[int]) -> Iterator[str]:
    """A shaded background for the reasoning, and a dotted line at the start of each sentence."""
    at, count = 0, len(tokens)
    for thinking, group in groupby(tokens, key=lambda token: token.thinking):
        start, at = at, at + len(list(group))
        for top in _TOPS if thinking else ():
            yield f'<path d="M{_x(start, count)} {top}H{_x(at, count)}v{_PANEL}H{_x(start, count)}Z" fill="{_TINT}"/>'
    if lines := "".join(f"M{_x(start, count)} {top}v{_PANEL}" for start in sentences for top in _TOPS):
        yield f'<path d="{lines}" stroke="{_LINE}" stroke-dasharray="2 3"/>'


def _panel(values: Sequence[float | None], top: int, name: str, unit: str, color: str) -> Iterator[str]:
    known = [value for value in values if value is not None]
    marks = ticks(max([1.0, *known]), 4)
    yield f'<text x="{_LEFT}" y="{top - 10}" fill="{color}" style="font-weight:600">{name}</text>'
    if known:
        facts = f"min {min(known):.2f} · mean {sum(known) / len(known):.2f} · max {max(known):.2f}{unit}"
        yield f'<text x="{_RIGHT}" y="{top - 10}" text-anchor="end" fill="{_FAINT}">{facts}</text>'
    for mark in marks:
        y = top + _PANEL - mark / marks[-1] * _PANEL
        yield f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_FAINT}">{mark:g}</text>'
    yield from curve(values, top + _PANEL, _PANEL / marks[-1], color)


def ticks(high: float, most: int) -> list[float]:
    """Round numbers from 0 to at least `high`, in at most `most` steps of 1, 2 or 5 times 10^n."""
    unit = 10.0 ** math.floor(math.log10(high / most))
    step = next(unit * size for size in (1, 2, 5, 10) if unit * size * most >= high * (1 - 1e-9))
    return [float(f"{step * at:.6g}") for at in range(math.ceil(high / step - 1e-9) + 1)]


def curve(values: Sequence[float | None], base: int, scale: float, color: str) -> Iterator[str]:
    """The paths of a series with its zero at `base` and `scale` pixels per unit; None is a gap.

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
            line, ground, opacity = f"M{'L'.join(means)}", f"M{'L'.join([*high, *reversed(low)])}Z", 0.35
        else:
            heights = [f"{base - value * scale:.1f}" for (value,) in numbers]
            steps = "".join(f"V{y}H{_x(part.stop, count)}" for part, y in zip(parts, heights, strict=True))
            left = _x(parts[0].start, count)
            line, ground, opacity = f"M{left} {heights[0]}{steps}", f"M{left} {base}{steps}V{base}Z", 0.16
        yield f'<path d="{ground}" fill="{color}" fill-opacity="{opacity}"/>'
        yield f'<path d="{line}" fill="none" stroke="{color}" stroke-width="1.5" stroke-linejoin="round"/>'


def _axis(tokens: Sequence[TokenTrace], has_sentences: bool, height: int) -> Iterator[str]:
    """The numbers of the tokens, in a short trace their texts, and the legend, below the lowest panel."""
    yield f'<path d="M{_LEFT} {_BASE}H{_RIGHT}" stroke="{_FAINT}"/>'
    below, count = _BASE + 18, len(tokens)
    for tick in ticks(max(count, 10), 10):
        if tick < count:
            yield f'<text x="{_x(tick + 0.5, count)}" y="{below}" text-anchor="middle" fill="{_FAINT}">{tick:g}</text>'
    if count <= _MOST_NAMED:
        yield '<g class="n" text-anchor="end">'
        for at, token in enumerate(tokens):
            text, ink = token.text or token.reasoning, _FAINT if token.thinking else _INK
            turned = f"translate({_x(at + 0.5, count)} {below + 10}) rotate(-90) translate(0 4)"
            yield f'<text transform="{turned}" fill="{ink}">{xml_text(token_text(text.strip() or text, _NAME))}</text>'
        yield "</g>"
    marks = {
        "token": True,
        "line: mean, band: minimum to maximum": count > _MOST_STEPS,
        "dotted: start of a sentence": has_sentences,
        "shaded: reasoning": any(token.thinking for token in tokens),
    }
    legend = " · ".join(mark for mark, is_drawn in marks.items() if is_drawn)
    yield f'<text x="{_RIGHT}" y="{height - 16}" text-anchor="end" fill="{_FAINT}">{legend}</text>'


def _tooltips(tokens: Sequence[TokenTrace]) -> Iterator[str]:
    yield f'<g class="t" fill="{_INK}">'
    count = len(tokens)
    for part in _bins(count):
        left, right, own = _x(part.start, count), _x(part.stop, count), tokens[part.start : part.stop]
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
