"""Presets: the built-in ones, those of the user in config.toml, and what a preset can set."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmcli.config.config_file import aliases, config_layer, set_alias, set_value, unset_value
from llmcli.config.presets import describe_preset, preset_layer, preset_purpose, presets, remove_preset, save_preset
from llmcli.errors import UsageError
from llmcli.files import config_path
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.settings import Layer, Settings, fields, ineffective_settings, resolve
from tests.params.samples import legal_values

BUILT_IN = ("balanced", "brainstorm", "code", "creative", "deterministic", "precise")
NEVER = ("prompt", "file", "preset", "character", "pull", "offline", "model_folders", "endpoint")


def write(text: str) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_preset_sets_only_what_has_an_effect(name: str) -> None:
    layer = preset_layer(name)
    assert layer.name == "preset"
    assert layer.values == presets()[name]
    found = resolve([layer])
    assert not ineffective_settings(found.settings, found.origins)


def test_the_built_in_presets_need_no_configuration_file() -> None:
    assert tuple(sorted(presets())) == BUILT_IN
    assert not config_path().exists()
    assert presets()["brainstorm"]["temperature"] == Entropy(0.8, 1.6)
    assert presets()["deterministic"]["temperature"] == Fixed(0.0)


def test_a_preset_overrides_the_file_and_an_option_overrides_it() -> None:
    write("temperature = 0.5\ntop_k = 7\nseed = 3\n")
    found = resolve([config_layer(), preset_layer("precise"), Layer("flag", {"top_k": 9})])
    assert found.settings == Settings(temperature=Fixed(0.3), top_k=9, top_p=0.9, min_p=0.1, seed=3)
    assert [found.origins[key] for key in ("temperature", "top_k", "seed")] == ["preset", "flag", "config"]


def test_balanced_has_the_defaults_whatever_the_file_says() -> None:
    write("temp = 2\nrepeat_penalty = 1.3\nxtc_probability = 0.5\ntypical_p = 0.5\nmirostat = 2\ndry_multiplier = 1\n")
    found = resolve([config_layer(), preset_layer("balanced")])
    assert found.settings == Settings()


def test_a_preset_of_the_user_replaces_the_built_in_one() -> None:
    write("top_k = 1\n[presets.creative]\ntemp = 2\n[presets.pirate]\nsystem = 'Arr.'\nstop = ['!']\n")
    assert presets()["creative"] == {"temperature": Fixed(2.0)}
    assert preset_layer("pirate").values == {"system": "Arr.", "stop": ("!",)}
    assert config_layer().values == {"top_k": 1}


def test_an_unknown_preset_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown preset 'creativ'") as caught:
        preset_layer("creativ")
    assert caught.value.hint == "did you mean 'creative'?"
    with pytest.raises(UsageError) as caught:
        preset_layer("zzz")
    assert "balanced, brainstorm" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("presets = 3\n", "must give a table of settings"),
        ("[presets]\ntemperature = 1\n", "must give a table of settings"),
        ("[presets.x]\ntemperature = -1\n", r"\[presets.x\]: temperature must be finite and at least 0"),
        ("[presets.x]\ntemprature = 1\n", "unknown setting 'temprature'"),
        ("[presets.x.y]\nseed = 1\n", "unknown setting 'y'"),
        ("[presets.x]\nprompt = 'hi'\n", "prompt cannot be part of a preset"),
        ("[presets.x]\nfile = ['a']\n", "file cannot be part of a preset"),
        ("[presets.x]\npreset = 'y'\n", "preset cannot be part of a preset"),
        ("[presets.x]\npull = true\n", "pull cannot be part of a preset"),
        ("[presets.x]\noffline = true\n", "offline cannot be part of a preset"),
        ("[presets.x]\nmodel-folder = ['a']\n", "model_folders cannot be part of a preset"),
        ("[presets.x]\nendpoint = 'http://localhost'\n", "endpoint cannot be part of a preset"),
    ],
)
def test_a_preset_that_is_not_valid_is_an_error_with_its_place(text: str, telling: str) -> None:
    path = write(text)
    for call in (presets, lambda: preset_layer("x")):
        with pytest.raises(UsageError, match=telling) as caught:
            call()
        assert str(caught.value).startswith(str(path))


def test_a_preset_that_is_not_valid_leaves_the_others_usable() -> None:
    write("[presets.x]\ntemperature = -1\n[presets.y]\nseed = 1\n")
    assert preset_layer("y").values == {"seed": 1}
    assert config_layer().values == {}


@pytest.mark.parametrize("which", [0, -1])
def test_every_value_is_read_as_it_was_saved(which: int) -> None:
    legals = {
        key: [v for v in legal_values(field) if v is not None] for key, field in fields().items() if key not in NEVER
    }
    values = {key: values[which] for key, values in legals.items()}
    save_preset("all", values)
    assert preset_layer("all").values == values


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[presets.x]\ntop_k = 3\nmin_p = 0.1\n"),
        ("seed = 1 # mine\n", "seed = 1 # mine\n\n[presets.x]\ntop_k = 3\nmin_p = 0.1\n"),
        (
            "[presets.x] # hot\n# why\ntop_k = 9 # nine\nseed = 1\n\n[aliases]\na = 'b'\n",
            "[presets.x] # hot\n# why\ntop_k = 3 # nine\nmin_p = 0.1\n\n[aliases]\na = 'b'\n",
        ),
        ("[presets]\nx = {seed = 1, top_k = 2}\n", "[presets]\nx = { top_k = 3, min_p = 0.1}\n"),
    ],
)
def test_saving_a_preset_keeps_the_rest_of_the_file(before: str, after: str) -> None:
    write(before)
    assert save_preset("x", {"top_k": 3, "min_p": 0.1}) == config_path()
    assert config_path().read_text() == after


@pytest.mark.parametrize(
    "order", ["[presets.a]\nseed=1\n[aliases]\nm='x'\n[presets.z]\nseed=2\n", "presets.a.seed=1\n"]
)
def test_presets_aliases_and_settings_change_side_by_side(order: str) -> None:
    write(order)
    save_preset("b.c", {"seed": 5, "system": "a\n'''\"\"\" b"})
    set_alias("other", "y")
    set_value("top_k", 4)
    assert config_layer().values == {"top_k": 4}
    assert aliases()["other"] == "y"
    assert presets()["a"] == {"seed": 1}
    assert presets()["b.c"] == {"seed": 5, "system": "a\n'''\"\"\" b"}
    save_preset("a", {"top_k": 2})
    assert presets()["a"] == {"top_k": 2}
    remove_preset("b.c")
    set_alias("other", None)
    assert unset_value("top_k")
    assert "b.c" not in presets()
    assert presets()["a"] == {"top_k": 2}


def test_a_preset_is_saved_beside_others_on_one_line() -> None:
    path = write("presets = {y = {seed = 1}}\n")
    save_preset("x", {"seed": 2, "stop": ("a",)})
    save_preset("y", {"top_k": 3})
    assert tomllib.loads(path.read_text()) == {"presets": {"x": {"seed": 2, "stop": ["a"]}, "y": {"top_k": 3}}}


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "é", "con"])
def test_a_name_that_is_not_valid_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name for a preset"):
        save_preset(name, {"seed": 1})
    assert not config_path().exists()


@pytest.mark.parametrize(
    ("values", "telling"),
    [({"prompt": "hi"}, "prompt cannot be part"), ({"offline": True}, "offline"), ({}, "no setting to save")],
)
def test_a_setting_that_cannot_be_in_a_preset_is_not_saved(values: dict[str, Any], telling: str) -> None:
    with pytest.raises(UsageError, match=telling):
        save_preset("x", values)
    assert not config_path().exists()


def test_deleting_a_preset_of_the_user_restores_the_built_in_one() -> None:
    save_preset("code", {"seed": 1})
    remove_preset("code")
    assert presets()["code"]["temperature"] == Fixed(0.2)
    assert tomllib.loads(config_path().read_text()) == {}
    with pytest.raises(UsageError, match="cannot delete the built-in preset 'code'"):
        remove_preset("code")
    with pytest.raises(UsageError, match="unknown preset 'nobody'"):
        remove_preset("nobody")


def test_a_preset_is_described_in_one_line() -> None:
    assert describe_preset({"temperature": Fixed(1.2), "min_p": 0.02}) == "temperature 1.2, min_p 0.02"
    assert describe_preset({"temperature": Entropy(0.3, 1.3), "stop": ("a",), "ignore_eos": True}) == (
        'temperature 0.3..1.3, stop ["a"], ignore_eos true'
    )
    assert (
        describe_preset({"system": "You are\na " + "very " * 20}) == "system You are a very very very very very very…"
    )
    assert describe_preset({}) == ""


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_preset_has_a_purpose(name: str) -> None:
    text = preset_purpose(name, presets()[name])
    assert text.endswith(f" ({describe_preset(presets()[name])})")
    assert len(text) > len(describe_preset(presets()[name])) + 10


def test_a_preset_of_the_user_has_only_its_values() -> None:
    save_preset("creative", {"top_k": 3})
    assert preset_purpose("creative", presets()["creative"]) == "top_k 3"


def test_a_preset_of_the_user_can_have_a_purpose() -> None:
    write("[presets.mine]\npurpose = 'long  poems'\ntop_k = 3\n")
    assert preset_layer("mine").values == {"top_k": 3}
    save_preset("mine", {"top_k": 4})
    assert preset_purpose("mine", presets()["mine"]) == "long poems (top_k 4)"
