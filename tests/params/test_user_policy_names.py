"""The names of users' policies: from packages, in every layer of settings, and the settings that they override."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.policies.policy import Fixed, PolicyCall, parse_policy
from llmcli.params.policies.rules import Policy, TokenStep
from llmcli.params.sampler_chain import DEFAULT_ORDER, TemperaturePlan, build_chain, check_chain, effective_policy
from llmcli.params.settings import (
    Layer,
    Settings,
    check_policy,
    environment_layer,
    fields,
    ineffective_settings,
    parse_data,
    resolve,
)

WAVE = PolicyCall("wave", (1.0,))

FIELD = fields()["temperature"]


def parse(text: str) -> Policy:
    policy = FIELD.parse_text(text)
    assert isinstance(policy, Policy)
    return policy


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


def temperatures(policy: Policy, file: str | None = None) -> list[float]:
    policy = effective_policy(Settings(temperature=policy, temp_policy_file=file))
    return [policy(TokenStep(lambda: ((1.0,), 0.0), index)) for index in range(3)]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("text", "values"),
    [("breeze", [0, 0.5, 1]), ("breeze:0.25", [0, 0.25, 0.5]), ("line:breeze:by=2,clamp=1..3,7", [1, 2, 3])],
)
def test_a_policy_of_a_package_is_found_by_name(text: str, values: list[float]) -> None:
    policy = parse_policy(text)
    assert temperatures(policy) == values
    assert parse_policy(str(policy)) == policy


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "storm",
            "cannot load the policy 'storm' of weather: AttributeError: module 'llmcli_weather' has no attribu",
        ),
        ("gale", "cannot load the policy 'gale' of weather: SystemExit: gone"),
        ("calm", "'calm' of weather is not a function"),
        ("breeze:1,2,by=3", "must be"),
        (
            "breeze:1,up=3",
            "'breeze' of weather does not accept the arguments of 'breeze:1,up=3': got an unexpected keyword argument",
        ),
    ],
)
def test_an_unusable_policy_of_a_package_is_an_error(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        effective_policy(Settings(temperature=parse(text))).load()
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("package")
def test_a_package_cannot_replace_a_builtin_policy() -> None:
    assert temperatures(parse_policy("edt:0.8")) == [0, 0, 0]
    with pytest.raises(UsageError, match="unknown policy 'frost'"):
        check_policy(parse_policy("frost"), None)


@pytest.mark.usefixtures("package")
def test_a_policy_of_a_file_precedes_that_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def breeze(step):\n    return 9\n")
    assert temperatures(parse_policy("breeze"), f"{tmp_path / 'mine.py'}:breeze") == [9, 9, 9]


def test_a_policy_without_a_function_cannot_be_loaded() -> None:
    with pytest.raises(UsageError, match="unknown temperature policy 'wave'") as caught:
        WAVE.load()
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
def test_a_table_can_use_the_policy_before_its_file(table: dict[str, Any]) -> None:
    assert parse_data(table, "config.toml") == {"temperature": WAVE, "temp_policy_file": "a.py:wave"}


def test_the_environment_can_use_the_policy_before_its_file() -> None:
    environ = {"LLMCLI_TEMPERATURE": "wave:1", "LLMCLI_TEMP_POLICY_FILE": "a.py:wave"}
    for names in (environ, dict(reversed(environ.items()))):
        assert environment_layer(names).values == {"temperature": WAVE, "temp_policy_file": "a.py:wave"}


def test_a_policy_without_its_file_is_unknown() -> None:
    layer = Layer("config", parse_data({"temperature": "wave:1"}, "config.toml"), "config.toml")
    with pytest.raises(UsageError, match=r"^config.toml: temperature must be .*unknown policy 'wave'") as caught:
        resolve([layer, Layer("flag", {"temp_policy_file": "a.py:waves"})])
    assert caught.value.hint == "did you mean 'waves'?"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_layer_can_use_the_policy_file_of_another_one(order: tuple[int, int]) -> None:
    layers = [Layer("config", {"temperature": WAVE}), Layer("flag", {"temp_policy_file": "a.py:wave"})]
    assert resolve([layers[index] for index in order]).settings.temperature == WAVE


def test_a_session_keeps_a_policy_whose_file_it_cannot_name() -> None:
    settings = resolve([Layer("session", {"temperature": WAVE})]).settings
    assert settings.temperature == WAVE
    with pytest.raises(UsageError, match="unknown temperature policy 'wave'"):
        check_chain(settings)


def reasons_for(**values: Any) -> dict[str, str]:
    resolved = resolve([Layer("flag", values)])
    return ineffective_settings(resolved.settings, resolved.origins)


OWN = "a.py:wave"
EDT = PolicyCall("edt", (0.7,))


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        (
            {"temp_policy_file": OWN, "temperature": Fixed(0.5)},
            {"temperature": "temp_policy_file replaces it (use the policy wave in temperature to combine them)"},
        ),
        (
            {"temp_policy_file": OWN, "temperature": EDT},
            {"temperature": "temp_policy_file replaces it (use the policy wave in temperature to combine them)"},
        ),
        ({"temp_policy_file": OWN, "temperature": WAVE}, {}),
        ({"temp_policy_file": OWN, "temperature": PolicyCall("sentence", (WAVE, Fixed(0.5)))}, {}),
        ({"temp_policy_file": OWN}, {}),
        ({"temperature": EDT}, {}),
        (
            {"temperature": EDT, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
            dict.fromkeys(("dynatemp_range", "dynatemp_exponent"), "the temperature 'edt:0.7' has its own range"),
        ),
        (
            {"temp_policy_file": OWN, "dynatemp_range": 0.5},
            {"dynatemp_range": "the temperature 'wave' has its own range"},
        ),
        ({"temperature": EDT, "samplers": ("top_k",)}, {"temperature": "temperature is not in samplers"}),
        ({"temp_policy_file": OWN, "samplers": ("top_k",)}, {"temp_policy_file": "temperature is not in samplers"}),
        ({"temperature": EDT, "samplers": (*DEFAULT_ORDER, "adaptive_p"), "adaptive_target": 0.3}, {}),
    ],
)
def test_a_setting_that_a_policy_overrides_is_reported(values: dict[str, Any], reasons: dict[str, str]) -> None:
    assert reasons_for(**values) == reasons


@pytest.mark.parametrize("mirostat", [1, 2])
@pytest.mark.parametrize(
    ("values", "policy"),
    [
        ({"temperature": EDT}, "edt:0.7"),
        ({"temperature": PolicyCall("sentence", (Fixed(1.0), Fixed(0.5)))}, "sentence:1,0.5"),
        ({"temp_policy_file": "a.py:wave"}, "wave"),
    ],
)
def test_mirostat_rejects_a_policy(mirostat: int, values: dict[str, Any], policy: str) -> None:
    settings = Settings(mirostat=mirostat, seed=1, **values)
    for needs_temperature in (False, True):
        with pytest.raises(UsageError, match=f"^mirostat needs a number as temperature, got '{policy}'$") as caught:
            build_chain(settings, needs_temperature)
        assert caught.value.hint == "use a number, or set mirostat to 0"
    with pytest.raises(UsageError):
        check_chain(settings)


def test_mirostat_uses_a_number_or_the_middle_of_a_range() -> None:
    for text in ("0.8", "0.3..1.3"):
        steps = build_chain(Settings(mirostat=2, seed=1, temperature=parse_policy(text)))
        assert [step.name for step in steps] == ["temperature", "mirostat_v2"]
        assert steps[0].args == (TemperaturePlan(Fixed(0.8), (0.8, 0.0, 1.0)),)


@pytest.mark.parametrize(
    ("file", "temperature", "policy"),
    [
        ("config", "flag", "0.5"),
        ("flag", "session", "0.5"),
        ("flag", "retry", "0.5"),
        ("flag", "flag", "wave"),
        ("flag", "config", "wave"),
        ("session", "flag", "wave"),
    ],
)
def test_the_higher_of_a_temperature_and_a_policy_file_wins(file: str, temperature: str, policy: str) -> None:
    values: dict[str, dict[str, Any]] = {name: {} for name in ("config", "flag", "session", "retry")}
    values[file]["temp_policy_file"] = "a.py:wave"
    values[temperature]["temperature"] = Fixed(0.5)
    resolved = resolve([Layer(name, table) for name, table in values.items()])
    assert str(effective_policy(resolved.settings)) == policy
    reported = ineffective_settings(resolved.settings, resolved.origins)
    assert ("temperature" in reported) == (policy == "wave")


def test_a_temperature_with_the_function_keeps_the_policy_file() -> None:
    file = Layer("flag", {"temp_policy_file": "a.py:wave"})
    settings = resolve([file, Layer("session", {"temperature": Fixed(0.5)}), Layer("retry", {"temperature": WAVE})])
    assert (settings.settings.temp_policy_file, settings.settings.temperature) == ("a.py:wave", WAVE)
