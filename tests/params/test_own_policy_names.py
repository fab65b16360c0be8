"""The name of a policy of the user's own: found in packages, used by every layer of settings, and what it puts out."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.inert import inert
from llmcli.params.layers import Layer, environment_layer, resolve
from llmcli.params.policy import registry
from llmcli.params.policy.compiled import compiled
from llmcli.params.policy.grammar import parse_policy
from llmcli.params.policy.step import TokenStep
from llmcli.params.policy.tree import Fixed, Named, Policy
from llmcli.params.samplers import DEFAULT_ORDER, check, plan
from llmcli.params.settings import Settings, fields, parse_data

WAVE = Named("wave", (1.0,))


@pytest.fixture(autouse=True)
def _no_other_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ANNOUNCED", {})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `weather` that brings policies, one of them broken; returns where it is."""
    info = tmp_path / "weather-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weather\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llmcli.temperature_policies]\nbreeze = llmcli_weather:breeze\nstorm = llmcli_weather:missing\n"
        "gale = llmcli_weather_broken:gale\ncalm = llmcli_weather:CALM\nedt = llmcli_weather:breeze\n"
        "[console_scripts]\nfrost = llmcli_weather:breeze\n"
    )
    (tmp_path / "llmcli_weather.py").write_text("CALM = 3\n\n\ndef breeze(step, by=0.5):\n    return by * step.index\n")
    (tmp_path / "llmcli_weather_broken.py").write_text("import sys\n\nsys.exit('gone')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def over(policy: Policy) -> list[float]:
    at = compiled(policy)
    return [at(TokenStep(lambda: ((1.0,), 0.0), index)) for index in range(3)]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("text", "values"),
    [("breeze", [0, 0.5, 1]), ("breeze:0.25", [0, 0.25, 0.5]), ("line:breeze:by=2,clamp=1..3,7", [1, 2, 3])],
)
def test_a_policy_of_an_installed_package_is_found_by_its_name(text: str, values: list[float]) -> None:
    policy = parse_policy(text)
    assert over(policy) == values
    assert parse_policy(str(policy)) == policy


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "storm",
            "the policy storm of weather cannot be loaded: AttributeError: module 'llmcli_weather' has no attribu",
        ),
        ("gale", "the policy gale of weather cannot be loaded: SystemExit: gone"),
        ("calm", "calm of weather is no function"),
        ("breeze:1,2,by=3", "must be"),
        ("breeze:1,up=3", "breeze of weather does not take breeze:1,up=3: got an unexpected keyword argument 'up'"),
    ],
)
def test_a_policy_of_a_package_that_cannot_be_used_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(fields()["temperature"].parse_text(text))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("package")
def test_a_package_takes_no_name_of_ours_and_its_other_entry_points_are_no_policies() -> None:
    assert over(parse_policy("edt:0.8")) == [0, 0, 0]
    with pytest.raises(ValueError, match="there is no policy frost"):
        parse_policy("frost")


@pytest.mark.usefixtures("package")
def test_a_function_of_a_file_goes_before_that_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def breeze(step):\n    return 9\n")
    fields()["temp_policy_file"].parse_text(f"{tmp_path / 'mine.py'}:breeze")
    assert over(parse_policy("breeze")) == [9, 9, 9]


def test_a_name_that_nobody_knows_any_more_is_said_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="there is no temperature policy wave") as caught:
        compiled(WAVE)
    assert "--temp-policy-file" in caught.value.hint


@pytest.mark.parametrize(
    "table",
    [
        {"temperature": "wave:1", "temp_policy_file": "a.py:wave"},
        {"temp_policy_file": "a.py:wave", "temperature": "wave:1"},
        {"temp": "wave:1", "temp_policy_file": "a.py:wave"},
        {"temp": "wave:1", "temp-policy-file": "a.py:wave"},
        {"TEMP": "wave:1", "temp_policy_file": "a.py:wave"},
    ],
)
def test_a_table_may_use_the_name_before_it_gives_the_file(table: dict[str, Any]) -> None:
    assert parse_data(table, "config.toml") == {"temperature": WAVE, "temp_policy_file": "a.py:wave"}


def test_the_environment_may_use_the_name_before_it_gives_the_file() -> None:
    environ = {"LLMCLI_TEMPERATURE": "wave:1", "LLMCLI_TEMP_POLICY_FILE": "a.py:wave"}
    for names in (environ, dict(reversed(environ.items()))):
        registry._ANNOUNCED.clear()
        assert environment_layer(names).values == {"temperature": WAVE, "temp_policy_file": "a.py:wave"}


def test_the_name_without_its_file_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"^config.toml: temperature: must be .*there is no policy wave"):
        parse_data({"temperature": "wave:1"}, "config.toml")


def reported(**values: Any) -> dict[str, str]:
    resolved = resolve([Layer("flag", values)])
    return inert(resolved.settings, resolved.origins)


OWN = "a.py:wave"
EDT = Named("edt", (0.7,))


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        (
            {"temp_policy_file": OWN, "temperature": Fixed(0.5)},
            {"temperature": "temp_policy_file takes its place (name wave in it to use both)"},
        ),
        (
            {"temp_policy_file": OWN, "temperature": EDT},
            {"temperature": "temp_policy_file takes its place (name wave in it to use both)"},
        ),
        ({"temp_policy_file": OWN, "temperature": WAVE}, {}),
        ({"temp_policy_file": OWN, "temperature": Named("sentence", (WAVE, Fixed(0.5)))}, {}),
        ({"temp_policy_file": OWN}, {}),
        ({"temperature": EDT}, {}),
        (
            {"temperature": EDT, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
            dict.fromkeys(("dynatemp_range", "dynatemp_exponent"), "the temperature edt:0.7 says its own range"),
        ),
        (
            {"temp_policy_file": OWN, "dynatemp_range": 0.5},
            {"dynatemp_range": "the temperature wave says its own range"},
        ),
        ({"temperature": EDT, "samplers": ("top_k",)}, {"temperature": "temperature is not in the samplers"}),
        ({"temp_policy_file": OWN, "samplers": ("top_k",)}, {"temp_policy_file": "temperature is not in the samplers"}),
        ({"temperature": EDT, "samplers": (*DEFAULT_ORDER, "adaptive_p"), "adaptive_target": 0.3}, {}),
    ],
)
def test_what_a_policy_puts_out_is_reported_with_the_reason(values: dict[str, Any], reasons: dict[str, str]) -> None:
    assert reported(**values) == reasons


@pytest.mark.parametrize("mirostat", [1, 2])
@pytest.mark.parametrize(
    ("values", "policy"),
    [
        ({"temperature": EDT}, "edt:0.7"),
        ({"temperature": Named("sentence", (Fixed(1.0), Fixed(0.5)))}, "sentence:1,0.5"),
        ({"temp_policy_file": "a.py:wave"}, "wave"),
    ],
)
def test_mirostat_refuses_a_policy_with_the_reason(mirostat: int, values: dict[str, Any], policy: str) -> None:
    settings = Settings(mirostat=mirostat, seed=1, **values)
    for steered in (False, True):
        with pytest.raises(UsageError, match=f"^temperature: mirostat takes a plain number, not {policy}$") as caught:
            plan(settings, steered)
        assert caught.value.hint == "give a number, or set mirostat 0"
    with pytest.raises(UsageError):
        check(settings)


def test_mirostat_takes_a_plain_number_and_the_middle_of_a_range() -> None:
    for text in ("0.8", "0.3..1.3"):
        steps = plan(Settings(mirostat=2, seed=1, temperature=parse_policy(text)))
        assert [step.name for step in steps] == ["temperature", "mirostat_v2"]
        assert steps[0].args == (0.8, 0.0, 1.0)
