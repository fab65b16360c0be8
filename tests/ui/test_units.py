"""Sizes, counts and times are short, and right at every border."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.text import format_age, format_count, format_size


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [
        (0, "0 kB"),
        (1500, "2 kB"),
        (999_000, "999 kB"),
        (10**6, "1 MB"),
        (98_362_432, "98 MB"),
        (986_000_000, "986 MB"),
        (10**9, "1.00 GB"),
        (4_920_739_232, "4.92 GB"),
        (404_000_000_000, "404.00 GB"),
    ],
)
def test_sizes_are_in_decimal_units(n_bytes: int, shown: str) -> None:
    assert format_size(n_bytes) == shown


@pytest.mark.parametrize(("n_bytes", "shown"), [(999_700, "1 MB"), (999_700_000, "1.00 GB")])
def test_a_size_just_below_a_unit_is_rounded_up(n_bytes: int, shown: str) -> None:
    assert format_size(n_bytes) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (134_515_008, "135M"),
        (7_615_616_512, "7.62B"),
        (671_000_000_000, "671B"),
    ],
)
def test_counts_have_three_digits(number: int, shown: str) -> None:
    assert format_count(number) == shown


@pytest.mark.parametrize(("number", "shown"), [(999_950, "1M"), (999_600_000, "1B"), (1_026_000_000_000, "1.03T")])
def test_a_count_never_has_an_exponent(number: int, shown: str) -> None:
    assert format_count(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-50, "just now"),
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (47 * 3600, "1 day ago"),
        (3 * 86400, "3 days ago"),
        (45 * 86400, "1 month ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_times_are_in_the_largest_unit(seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert format_age(now - seconds) == shown


@pytest.mark.parametrize("then", [None, float("inf"), float("-inf"), float("nan")])
def test_no_time_is_never(then: float | None) -> None:
    assert format_age(then) == "never"


@given(st.integers(min_value=0, max_value=10**15))
def test_a_size_is_right_to_half_a_percent_or_half_a_unit(n_bytes: int) -> None:
    match = re.fullmatch(r"([0-9.]+) (kB|MB|GB)", format_size(n_bytes))
    assert match is not None
    unit = {"kB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]]
    assert abs(float(match[1]) * unit - n_bytes) <= max(unit / 2 if unit < 10**9 else 0, n_bytes * 0.0051)
