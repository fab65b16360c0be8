"""The limits of the temperature shift."""

import pytest

from llmcli.engine.sampling.temperature import Dial, TemperatureSampler
from llmcli.engine.sentences import Place
from llmcli.params.policies.parser import parse_policy


def turn_repeatedly(dial: Dial, steps: int, by: float) -> float:
    for _ in range(steps):
        dial.turn(by)
    return dial.shift


def test_a_shift_has_no_limit_before_the_first_temperature() -> None:
    assert turn_repeatedly(Dial(), 30, -0.1) == -3.0


def test_a_shift_stops_where_all_temperatures_are_zero() -> None:
    dial = Dial()
    dial.gave(0.75)
    assert turn_repeatedly(dial, 30, -0.1) == -0.75
    assert dial.turn(0.1) == -0.65


def test_a_shift_below_the_limit_moves_up_from_the_limit() -> None:
    dial = Dial()
    turn_repeatedly(dial, 30, -0.1)
    dial.gave(0.8)
    assert dial.turn(0.1) == -0.7


def test_the_highest_recent_temperature_limits_the_shift() -> None:
    dial = Dial()
    for value in (1.2, 0.4, 0.6, 0.5):
        dial.gave(value)
    assert turn_repeatedly(dial, 30, -0.1) == -1.2
    for _ in range(16):
        dial.gave(0.5)
    assert dial.turn(0.1) == -0.4


@pytest.mark.parametrize(("args", "most"), [((0.8, 0.0, 1.0), 0.8), ((0.8, 0.5, 1.0), 1.3), ((0.0, 0.0, 1.0), 0.0)])
def test_the_sampler_records_the_maximum_of_a_policy(args: tuple[float, ...], most: float) -> None:
    dial = Dial()
    sampler = TemperatureSampler(args, Place(), dial)
    assert turn_repeatedly(dial, 30, -0.1) == pytest.approx(-most)
    sampler.close()


def test_a_python_policy_records_no_maximum_in_advance() -> None:
    dial = Dial()
    sampler = TemperatureSampler((parse_policy("linear:1.2->0.5@200"),), Place(), dial)
    assert turn_repeatedly(dial, 30, -0.1) == -3.0
    sampler.close()
