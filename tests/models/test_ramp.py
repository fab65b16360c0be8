"""The ramp: connections are added as long as each one makes the download faster."""

import pytest

from llmcli.models.download.transfer import FAST_ENOUGH, MAX_CONNECTIONS, MIN_GAIN, WINDOW, ConnectionRamp


def connections(speed_with: dict[int, float]) -> int:
    """How many connections it comes to, where `speed_with` gives the bytes a second that a number of them brings."""
    ramp, done = ConnectionRamp(0.0, 0), 0.0
    for number in range(1, 50):
        done += WINDOW * speed_with[ramp.connections]
        ramp.update(number * WINDOW, int(done))
    return ramp.connections


def test_ramp_adds_one_connection_on_a_full_line() -> None:
    assert connections(dict.fromkeys(range(1, 20), 1e6)) == 2


def test_server_with_slow_connections_gets_all_connections() -> None:
    assert connections({number: number * 1e6 for number in range(1, 20)}) == MAX_CONNECTIONS


def test_ramp_stops_when_another_connection_does_not_pay() -> None:
    assert connections({number: min(number, 3) * 1e6 for number in range(1, 20)}) == 4


@pytest.mark.parametrize(("gain", "number"), [(MIN_GAIN + 0.01, 3), (MIN_GAIN - 0.01, 2)])
def test_ramp_needs_a_minimal_gain(gain: float, number: int) -> None:
    assert connections({1: 1e6, 2: gain * 1e6, 3: gain * 1e6}) == number


def test_ramp_waits_for_a_full_window() -> None:
    ramp = ConnectionRamp(100.0, 50)
    ramp.update(100.0 + WINDOW - 0.01, 10**6)
    assert ramp.connections == 1
    ramp.update(100.0 + WINDOW, 10**6)
    assert ramp.connections == 2
    ramp.update(100.0 + WINDOW + 0.01, 10**7)  # the window begins anew
    assert ramp.connections == 2


def test_ramp_uses_one_connection_at_full_machine_speed() -> None:
    assert connections({number: number * FAST_ENOUGH * 1.01 for number in range(1, 20)}) == 1


def test_ramp_ignores_bytes_from_an_earlier_run() -> None:
    ramp = ConnectionRamp(0.0, 10**12)
    ramp.update(WINDOW, 10**12)
    assert ramp.connections == 1


def test_ramp_adds_connection_after_a_stall_not_during_it() -> None:
    ramp = ConnectionRamp(0.0, 0)
    ramp.update(WINDOW, 0)
    assert ramp.connections == 1
    ramp.update(2 * WINDOW, 10**6)
    assert ramp.connections == 2


def test_resumed_download_respects_connection_limit() -> None:
    ramp = ConnectionRamp(0.0, 0, MAX_CONNECTIONS)
    for number in range(1, 5):
        ramp.update(number * WINDOW, 10 ** (6 + number))
    assert ramp.connections == MAX_CONNECTIONS


def test_ramp_stays_at_its_final_number() -> None:
    ramp = ConnectionRamp(0.0, 0)
    for number, done in ((1, 10**6), (2, 2 * 10**6), (3, 10**9), (4, 10**12)):
        ramp.update(number * WINDOW, done)
    assert ramp.connections == 2
