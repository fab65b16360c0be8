"""A series of numbers as one row of text."""

import math
from collections.abc import Sequence

_BARS, _DIGITS = "▁▂▃▄▅▆▇█", "12345678"
STEPS = len(_BARS)


def levels(unicode: bool) -> str:
    """The characters from a low to a high value: bars, or digits for a terminal without them."""
    return _BARS if unicode else _DIGITS


def step(value: float, low: float, high: float) -> int:
    """The level, from 0, of a value on a scale from `low` to `high`; values outside get the nearest level."""
    if not high > low:
        return 0
    return min(max(int((value - low) / (high - low) * STEPS), 0), STEPS - 1)


def sparkline(values: Sequence[float | None], width: int, unicode: bool = True) -> str:
    """At most `width` characters, scaled from the minimum to the maximum; a longer series is drawn by its means.

    None, and a number that is not finite, is a gap. A series that does not change is drawn at mid height.
    """
    signs, means = levels(unicode), _means(values, min(width, len(values)))
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # rounding of the means of equal numbers
        return "".join(" " if mean is None else signs[STEPS // 2 - 1] for mean in means)
    return "".join(" " if mean is None else signs[step(mean, low, high)] for mean in means)


def _means(values: Sequence[float | None], width: int) -> list[float | None]:
    """The mean of each of `width` parts of the series, of nearly equal size."""
    means: list[float | None] = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        known = [value for value in part if value is not None and math.isfinite(value)]
        means.append(sum(known) / len(known) if known else None)
    return means
