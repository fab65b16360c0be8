"""Keys that move the temperature of an answer, and the texts about it."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.engine.events import TemperatureShift
from llmcli.params.policies.policy import parse_policy
from llmcli.params.settings import Settings
from llmcli.ui.chat.busy_screen import TemperatureKeys
from tests.chat.controllers import ask, controller_with
from tests.inference.fake_engine import FakeEngine, without


def keys_of(
    temperature: str = "0.8", drawn_with: str = "", **settings: Any
) -> tuple[TemperatureKeys, TemperatureShift]:
    """The keys of a new answer, or of one whose last token used the part `drawn_with` of its policy."""
    resolved = SimpleNamespace(settings=Settings(temperature=parse_policy(temperature), seed=1, **settings))
    traces = [SimpleNamespace(policy=drawn_with)] if drawn_with else []
    shift = TemperatureShift()
    answer = SimpleNamespace(traces=traces, engine=FakeEngine(), request=SimpleNamespace(live_shift=shift))
    turn: Any = SimpleNamespace(answer=answer, resolved=resolved)
    return TemperatureKeys(turn), shift


def test_an_engine_that_cannot_move_the_temperature_is_named() -> None:
    turn = ask(controller_with(FakeEngine(capabilities=without(live_temperature=False))), "one")
    assert turn.answer.request.live_shift is None
    keys = TemperatureKeys(turn)
    assert keys.row() == ""
    keys.step(1)
    assert keys.row() == "↑↓ fake does not support it"
    assert keys.note() == "↑↓ had no effect: fake does not support it"


@pytest.mark.parametrize(
    ("policy", "drawn_with", "steps", "row"),
    [
        ("0.8", "", (1, 1), "↑↓ temp 0.8 → 1.0"),
        ("0.85", "0.85", (1, 1), "↑↓ temp 0.85 → 1.05"),
        ("0.8", "0.8", (-1,), "↑↓ temp 0.8 → 0.7"),
        ("0.8", "0.8", (1, -1), "↑↓ temp 0.8"),
        ("0", "", (1,), "↑↓ temp 0.0 → 0.1"),
        ("0.3..1.3", "", (1, 1), "↑↓ temp 0.3..1.3 +0.2"),
        ("0.3..1.3^0.7", "0.3..1.3^0.7", (-1,), "↑↓ temp 0.3..1.3^0.7 -0.1"),
        ("0.3..1.3", "", (1, -1), "↑↓ temp 0.3..1.3"),
        ("sentence:1.1,0.7,0.4", "0.7", (1,), "↑↓ temp 0.7 → 0.8"),
        ("sentence:1.1,0.3..0.9", "0.3..0.9", (1,), "↑↓ temp 0.3..0.9 +0.1"),
        ("linear:1.2->0.5@200", "linear:1.2->0.5@200", (-1,), "↑↓ temp linear:1.2->0.5@200 -0.1"),
        ("linear:1.5->0.1@200,clamp=0.2..1.2", "", (1,), "↑↓ temp linear:1.5->0.1@200… +0.1"),
    ],
)
def test_the_row_shows_the_temperature_and_its_move(
    policy: str, drawn_with: str, steps: tuple[int, ...], row: str
) -> None:
    keys, _ = keys_of(policy, drawn_with)
    for step in steps:
        keys.step(step)
    assert keys.row() == row
    assert len(row) < 40


def test_dynatemp_range_is_shown_as_a_range() -> None:
    keys, _ = keys_of("0.8", dynatemp_range=0.5)
    keys.step(1)
    assert keys.row() == "↑↓ temp 0.3..1.3 +0.1"


def test_keys_have_no_effect_without_a_temperature_sampler() -> None:
    keys, shift = keys_of(samplers=("top_k",))
    assert keys.note() == ""
    keys.step(1)
    assert keys.row() == "↑↓ no temperature in the samplers"
    assert keys.note() == "↑↓ had no effect: the sampler chain has no temperature"
    assert shift.shift == 0


def test_the_row_names_the_keys_until_one_is_pressed() -> None:
    keys, _ = keys_of()
    assert keys.row() == "↑↓ warmer, colder"
    keys.step(1)
    assert keys.row() == "↑↓ temp 0.8 → 0.9"
    without, _ = keys_of(samplers=("top_k",))
    assert without.row() == ""


def test_mirostat_takes_a_temperature() -> None:
    keys, shift = keys_of(mirostat=2)
    keys.step(1)
    assert (keys.row(), shift.shift) == ("↑↓ temp 0.8 → 0.9", 0.1)


def test_the_note_lists_each_move_and_its_first_token() -> None:
    keys, shift = keys_of()
    assert keys.note() == ""
    for at, step in ((0, 0), (12, 1), (13, 1), (40, -1), (41, -1), (50, -1)):
        if step:
            keys.step(step)
        shift.start_draw(at)
    assert keys.note() == "temperature moved: +0.1 from token 1, 3 more, -0.1 from token 5"


def test_a_step_after_the_last_token_is_not_a_move() -> None:
    keys, shift = keys_of()
    shift.start_draw(0)
    keys.step(1)
    assert keys.note() == ""


def test_down_stops_at_zero_and_up_works_at_once() -> None:
    keys, shift = keys_of("0.8")
    shift.observe(0.8)  # as the sampler does when it is created
    for _ in range(20):
        keys.step(-1)
    assert keys.row() == "↑↓ temp 0.8 → 0.0"
    keys.step(1)
    assert keys.row() == "↑↓ temp 0.8 → 0.1"
