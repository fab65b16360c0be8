"""A series of numbers as SVG paths: a step for each number, or a band where there are many."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

_MOST_STEPS = 500  # the line and the area below it have two points for each
_MOST_BINS, _LEAST = 500, 6  # bins of a longer series, and numbers in each; line and band have three points for each


@dataclass(frozen=True)
class Span:
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


def curve(values: Sequence[float | None], span: Span, base: int, scale: float, color: str) -> Iterator[str]:
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


def ticks(high: float, most: int) -> list[float]:
    """Round numbers from 0 to at least `high`, in at most `most` steps of 1, 2 or 5 times 10^n."""
    unit = 10.0 ** math.floor(math.log10(high / most))
    step = next(unit * size for size in (1, 2, 5, 10) if unit * size * most >= high * (1 - 1e-9))
    return [float(f"{step * at:.6g}") for at in range(math.ceil(high / step - 1e-9) + 1)]


_Stretch = Sequence[tuple[range, list[float]]]


def _stairs(stretch: _Stretch, span: Span, base: int, scale: float) -> tuple[str, str]:
    """The line of steps, and the area below it."""
    heights = [f"{base - values[0] * scale:.1f}" for _, values in stretch]
    left = span.x(stretch[0][0].start)
    steps = "".join(f"V{y}H{span.x(part.stop)}" for (part, _), y in zip(stretch, heights, strict=True))
    return f"M{left} {heights[0]}{steps}", f"M{left} {base}{steps}V{base}Z"


def _band(stretch: _Stretch, span: Span, base: int, scale: float) -> tuple[str, str]:
    """The line of the means, and the band from the minimum to the maximum."""
    middles = [span.x((part.start + part.stop) / 2) for part, _ in stretch]

    def points(heights: Sequence[float]) -> list[str]:
        return [f"{x} {base - height * scale:.1f}" for x, height in zip(middles, heights, strict=True)]

    means = points([sum(values) / len(values) for _, values in stretch])
    low, high = points([min(values) for _, values in stretch]), points([max(values) for _, values in stretch])
    return f"M{'L'.join(means)}", f"M{'L'.join([*high, *reversed(low)])}Z"
