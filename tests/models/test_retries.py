"""Retries: transient errors are retried with growing pauses, up to a limit."""

import threading
import time
from collections.abc import Callable

import pytest

from llmcli.errors import NetworkError
from llmcli.models.download import http
from llmcli.models.download.http import MAX_PAUSE, MIN_PROGRESS, RetryPolicy, TransientError


class Clock(threading.Event):
    """Waits without waiting, and keeps how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def retries(clock: Clock, messages: list[str]) -> RetryPolicy:
    return RetryPolicy(messages.append, stop=clock)


def error_after(retries: RetryPolicy, fault: TransientError) -> tuple[int, NetworkError]:
    """How many times it waits until it gives up, and with what."""
    for number in range(100):
        try:
            retries.wait(fault)
        except NetworkError as error:
            return number, error
    raise AssertionError("it never gives up")


RESET = TransientError("the connection broke")


def test_retries_end_with_error_and_hint(retries: RetryPolicy) -> None:
    waits, error = error_after(retries, RESET)
    assert waits == 7
    assert str(error) == "the connection broke (8 attempts)"
    assert "the partial download is kept" in error.hint


@pytest.mark.parametrize("tries", [1, 3])
def test_the_number_of_tries_can_be_chosen(tries: int, clock: Clock) -> None:
    assert error_after(RetryPolicy(lambda _text: None, tries, clock), RESET)[0] == tries - 1


def test_pauses_double_up_to_a_limit_with_jitter(clock: Clock) -> None:
    error_after(RetryPolicy(lambda _text: None, 12, clock), RESET)
    longest = [min(MAX_PAUSE, 0.5 * 2**number) for number in range(11)]
    assert all(0.6 * most <= pause <= most for pause, most in zip(clock.pauses, longest, strict=True))
    assert len({round(pause / most, 6) for pause, most in zip(clock.pauses, longest, strict=True)}) > 3


def test_only_long_pauses_are_reported(retries: RetryPolicy, messages: list[str], clock: Clock) -> None:
    error_after(retries, RESET)
    assert len(messages) == sum(pause >= 1 for pause in clock.pauses)
    assert messages[-1].startswith("the connection broke, retrying in ")
    assert messages[-1].endswith("(retry 7 of 7)")


def test_progress_resets_the_attempts(retries: RetryPolicy) -> None:
    for _ in range(50):
        retries.wait(RESET)
        retries.progressed(MIN_PROGRESS)
    assert error_after(retries, RESET)[0] == 7


def test_progress_adds_up_over_several_pieces(retries: RetryPolicy) -> None:
    for _ in range(7):
        retries.wait(RESET)
    for _ in range(4):
        retries.progressed(MIN_PROGRESS // 4)
    assert error_after(retries, RESET)[0] == 7


def test_few_bytes_are_not_progress(retries: RetryPolicy) -> None:
    for _ in range(7):
        retries.progressed(1)
        retries.wait(RESET)
    retries.progressed(MIN_PROGRESS - 8)
    with pytest.raises(NetworkError):
        retries.wait(RESET)


def test_longer_retry_after_is_the_pause(retries: RetryPolicy, clock: Clock) -> None:
    retries.wait(TransientError("busy", retry_after=7))
    retries.wait(TransientError("busy", retry_after=0))
    assert clock.pauses[0] == 7
    assert clock.pauses[1] <= 1


@pytest.mark.parametrize(("asked", "ends"), [(60.0, False), (61.0, True), (3600.0, True), (99_999_999.0, True)])
def test_long_retry_after_ends_with_time_in_hint(asked: float, ends: bool, retries: RetryPolicy, clock: Clock) -> None:
    if not ends:
        retries.wait(TransientError("the hub is busy", asked))
        assert clock.pauses == [asked]
        return
    with pytest.raises(NetworkError, match=f"the hub is busy; the server asks to wait {asked:.0f} s") as caught:
        retries.wait(TransientError("the hub is busy", asked))
    form = "%H:%M" if asked < 86_400 else "%Y-%m-%d %H:%M"
    clocks = [time.strftime(form, time.localtime(time.time() + asked + shift)) for shift in (-60, 0)]
    assert caught.value.hint in [f"try again at {clock}" for clock in clocks]
    assert clock.pauses == []


def test_unreachable_host_has_few_attempts(retries: RetryPolicy) -> None:
    assert error_after(retries, TransientError("cannot reach it", unreachable=True))[0] < 4


def test_lost_network_is_retried_after_progress(retries: RetryPolicy) -> None:
    retries.progressed(1)
    assert error_after(retries, TransientError("cannot reach it", unreachable=True))[0] == 7


def test_stop_event_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(http, "MAX_PAUSE", 1000.0)
    stop = threading.Event()
    stop.set()
    begin = time.monotonic()
    RetryPolicy(lambda _text: None, stop=stop).wait(RESET)
    assert time.monotonic() - begin < 60


def test_wait_works_without_a_stop_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.02)
    begin = time.monotonic()
    say: Callable[[str], None] = lambda _text: None  # noqa: E731
    RetryPolicy(say).wait(RESET)
    assert time.monotonic() - begin >= 0.01
