"""What a series of numbers looks like in one row of text."""

import math
from collections.abc import Sequence

_BARS, _DIGITS = "▁▂▃▄▅▆▇█", "12345678"
STEPS = len(_BARS)


def levels(unicode: bool) -> str:
    """The signs for a low to a high value: bars, or digits for a terminal that has none."""
    return _BARS if unicode else _DIGITS


def step(value: float, low: float, high: float) -> int:
    """The level, from 0, of a value on a scale from `low` to `high`; what is beyond it has the nearest."""
    if not high > low:
        return 0
    return min(max(int((value - low) / (high - low) * STEPS), 0), STEPS - 1)


def sparkline(values: Sequence[float | None], width: int, unicode: bool = True) -> str:
    """A row of at most `width` signs from the lowest value to the highest; a longer series is drawn by its means.

    None, and what is no finite number, is a gap. A series that does not change is drawn at mid height.
    """
    signs, means = levels(unicode), _means(values, min(width, len(values)))
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # such as means of equal numbers may differ by
        return "".join(" " if mean is None else signs[STEPS // 2 - 1] for mean in means)
    return "".join(" " if mean is None else signs[step(mean, low, high)] for mean in means)


def _means(values: Sequence[float | None], width: int) -> list[float | None]:
    """The mean of each of `width` parts of the series, as even as can be."""
    means: list[float | None] = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        known = [value for value in part if value is not None and math.isfinite(value)]
        means.append(sum(known) / len(known) if known else None)
    return means
