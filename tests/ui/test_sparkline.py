"""Sparklines: a series in one row."""

import pytest

from llmcli.ui.charts.heatmap import sparkline


def test_the_extremes_have_the_lowest_and_the_highest_bar() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == "▁▂▃▄▅▆▇█"
    assert sparkline([7.0, -7.0], 20) == "█▁"


def test_a_long_series_is_drawn_by_the_means_of_its_parts() -> None:
    assert sparkline([0, 0, 4, 10, 7, 7], 3) == "▁██"
    assert len(sparkline([float(at) for at in range(1001)], 40)) == 40


def test_a_short_series_is_not_stretched() -> None:
    assert len(sparkline([1, 2, 3], 40)) == 3


@pytest.mark.parametrize("values", [[0.7] * 3, [0.0] * 3, [1e9] * 3])
def test_a_series_that_does_not_change_is_drawn_at_mid_height(values: list[float]) -> None:
    assert sparkline(values, 10) == "▄▄▄"


def test_means_of_equal_numbers_are_equal() -> None:
    assert set(sparkline([0.1] * 1000, 7)) == {"▄"}


def test_a_missing_value_is_a_gap() -> None:
    assert sparkline([1, None, 2, float("nan"), float("inf")], 10) == "▁ █  "
    assert sparkline([None, None, 1, None, 5, 5], 3) == " ▁█"
    assert sparkline([None, None], 10) == "  "


def test_no_values_or_no_width_give_an_empty_text() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([1, 2], 0) == ""


@pytest.mark.parametrize(("value", "bar"), [(0, "▁"), (0.124, "▁"), (0.125, "▂"), (0.5, "▅"), (0.999, "█"), (1, "█")])
def test_a_level_is_an_eighth_of_the_scale(value: float, bar: str) -> None:
    assert sparkline([0, value, 1], 3) == f"▁{bar}█"
