"""The limits of the temperature shift."""

import pytest

from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import TemperatureShift
from llmcli.engine.sampling.python_samplers import TemperatureSampler
from llmcli.params.policies.policy import parse_policy
from llmcli.params.sampler_chain import TemperaturePlan, plan_temperature
from llmcli.params.settings import Settings


def turn_repeatedly(shift: TemperatureShift, steps: int, by: float) -> float:
    for _ in range(steps):
        shift.add(by)
    return shift.shift


def test_a_shift_has_no_limit_before_the_first_temperature() -> None:
    assert turn_repeatedly(TemperatureShift(), 30, -0.1) == -3.0


def test_a_shift_stops_where_all_temperatures_are_zero() -> None:
    shift = TemperatureShift()
    shift.observe(0.75)
    assert turn_repeatedly(shift, 30, -0.1) == -0.75
    assert shift.add(0.1) == -0.65


def test_a_shift_below_the_limit_moves_up_from_the_limit() -> None:
    shift = TemperatureShift()
    turn_repeatedly(shift, 30, -0.1)
    shift.observe(0.8)
    assert shift.add(0.1) == -0.7


def test_the_highest_recent_temperature_limits_the_shift() -> None:
    shift = TemperatureShift()
    for value in (1.2, 0.4, 0.6, 0.5):
        shift.observe(value)
    assert turn_repeatedly(shift, 30, -0.1) == -1.2
    for _ in range(16):
        shift.observe(0.5)
    assert shift.add(0.1) == -0.4


@pytest.mark.parametrize(("text", "most"), [("0.8", 0.8), ("0.3..1.3", 1.3), ("0", 0.0)])
def test_the_sampler_records_the_maximum_of_a_policy(text: str, most: float) -> None:
    shift = TemperatureShift()
    TemperatureSampler(plan_temperature(Settings(temperature=parse_policy(text))), DrawState(), shift)
    assert turn_repeatedly(shift, 30, -0.1) == pytest.approx(-most)


def test_a_python_policy_records_no_maximum_in_advance() -> None:
    shift = TemperatureShift()
    TemperatureSampler(TemperaturePlan(parse_policy("linear:1.2->0.5@200")), DrawState(), shift)
    assert turn_repeatedly(shift, 30, -0.1) == -3.0
