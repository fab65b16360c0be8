"""Every setting: its names, its range, and that its text and its JSON parse back to the same value."""

import json
import math
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.param import Field
from llmcli.params.settings import Layer, Settings, fields, find, parse_data, resolve, to_data, to_datum
from llmcli.text import did_you_mean, nearest
from tests.params.samples import legal_values

NUMBERS = [field for field in fields().values() if field.kind in (int, float) and field.key != "n_gpu_layers"]
FLOATS = [field for field in NUMBERS if field.kind is float and field.key != "temperature"]
INTS = [field for field in NUMBERS if field.kind is int]


def parse(key: str, text: str) -> Any:
    return fields()[key].parse_text(text)


@pytest.mark.parametrize("key", fields())
def test_a_formatted_value_parses_back(key: str) -> None:
    field = fields()[key]
    for value in legal_values(field):
        back = field.parse_text(field.format(value))
        assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize("key", fields())
def test_a_value_survives_json(key: str) -> None:
    field = fields()[key]
    for value in legal_values(field):
        back = field.parse_data(json.loads(json.dumps(to_datum(field, value), allow_nan=False)))
        assert (back, type(back)) == (value, type(value))


def test_all_settings_survive_json() -> None:
    settings = Settings(seed=7, stop=("\n",), logit_bias=((5, -math.inf),), n_gpu_layers=3)
    assert resolve([Layer("test", parse_data(json.loads(json.dumps(to_data(settings))), "x"))]).settings == settings


@pytest.mark.parametrize("spellings", ["flags", "keys", "env"])
def test_no_two_settings_share_a_name(spellings: str) -> None:
    def of(field: Field) -> tuple[str, ...]:
        return {"flags": field.flags, "keys": field.keys, "env": (field.env,)}[spellings]

    names = [name for field in fields().values() for name in of(field)]
    assert len(names) == len(set(names)) >= len(fields())


@pytest.mark.parametrize("field", fields().values(), ids=lambda field: field.key)
def test_every_setting_has_help_and_a_valid_default(field: Field) -> None:
    assert field.help.endswith(".")
    assert field.parse_text(field.format(field.default)) == field.default


@pytest.mark.parametrize("field", fields().values(), ids=lambda field: field.key)
def test_every_alias_finds_its_setting(field: Field) -> None:
    for name in (*field.keys, field.key.replace("_", "-"), "--" + field.key.upper()):
        assert find(name) is field


def test_a_long_flag_is_a_key_too() -> None:
    assert find("predict") is find("num_predict") is fields()["max_tokens"]
    assert fields()["n_threads"].flags == ("--threads", "-t")
    assert fields()["n_threads"].keys == ("n_threads", "threads", "num_thread")
    assert fields()["temperature"].flags == ("--temperature", "--temp")


@pytest.mark.parametrize("field", FLOATS, ids=lambda field: field.key)
def test_a_float_rejects_text_that_is_not_finite(field: Field) -> None:
    for word in ["nan", "inf", "-inf", "abc", "", "1e400", "0x10", "1,5"]:
        with pytest.raises(UsageError, match=f"^{field.key} must be .*, got "):
            field.parse_text(word)


@pytest.mark.parametrize("field", INTS, ids=lambda field: field.key)
def test_an_int_rejects_text_that_is_not_an_integer(field: Field) -> None:
    for word in ["3.7", "nan", "inf", "1e3", "true", "", "four"]:
        with pytest.raises(UsageError, match=f"^{field.key} must be an integer.*, got "):
            field.parse_text(word)


@pytest.mark.parametrize("field", INTS, ids=lambda field: field.key)
def test_an_int_rejects_data_that_is_not_an_integer(field: Field) -> None:
    for value in [3.7, math.nan, math.inf, True, False, [1], {}]:
        with pytest.raises(UsageError, match=f"^{field.key} must be an integer"):
            field.parse_data(value)


@pytest.mark.parametrize("field", FLOATS, ids=lambda field: field.key)
def test_a_float_rejects_data_that_is_not_finite(field: Field) -> None:
    for value in [math.nan, math.inf, -math.inf, True, [1.0], {}, 10**400]:
        with pytest.raises(UsageError, match=f"^{field.key} must be "):
            field.parse_data(value)


@pytest.mark.parametrize("field", INTS, ids=lambda field: field.key)
def test_an_int_rejects_numbers_beyond_int32(field: Field) -> None:
    for text in ["99999999999", "-99999999999", "9" * 400]:
        with pytest.raises(UsageError, match=f"^{field.key} must be "):
            field.parse_text(text)


@pytest.mark.parametrize("field", FLOATS, ids=lambda field: field.key)
def test_a_float_rejects_numbers_beyond_a_c_float(field: Field) -> None:
    for text in ["1e39", "-1e39", "1e308"]:
        with pytest.raises(UsageError, match=f"^{field.key} must be "):
            field.parse_text(text)


def test_an_int_accepts_an_integral_float() -> None:
    value = fields()["top_k"].parse_data(40.0)
    assert (value, type(value)) == (40, int)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("top_p", "1.5", "top_p must be between 0 and 1, got 1.5"),
        ("top_p", "-0.1", "top_p must be between 0 and 1, got -0.1"),
        ("top_p", "nan", "top_p must be between 0 and 1, got nan"),
        ("top_k", "-1", "top_k must be at least 0, got -1"),
        ("top_k", "3.7", "top_k must be an integer, got '3.7'"),
        ("top_k", "4294967296", "top_k must be at most 2147483647 in absolute value, got 4294967296"),
        ("presence_penalty", "inf", "presence_penalty must be finite, got inf"),
        ("repeat_penalty", "0", "repeat_penalty must be above 0, got 0"),
        ("repeat_penalty", "1e-40", "repeat_penalty must be at least 1.18e-38, got '1e-40'"),
        ("dynatemp_exponent", "0", "dynatemp_exponent must be above 0, got 0"),
        ("top_n_sigma", "0", "top_n_sigma must be above 0, or -1, got 0"),
        ("top_n_sigma", "-2", "top_n_sigma must be above 0, or -1, got -2"),
        ("adaptive_target", "-0.5", "adaptive_target must be between 0 and 1, or -1, got -0.5"),
        ("max_tokens", "-2", "max_tokens must be at least 0, or -1, got -2"),
        ("mirostat", "3", "mirostat must be one of 0, 1, 2, got 3"),
        ("seed", "4294967296", "seed must be between 0 and 4294967295, got 4294967296"),
        ("seed", "x", "seed must be an integer or random, got 'x'"),
        ("flash_attn", "maybe", "flash_attn must be one of on, off, auto, got 'maybe'"),
        ("ignore_eos", "2", "ignore_eos must be true or false, got '2'"),
        ("n_gpu_layers", "some", "n_gpu_layers must be an integer of at least 0, auto or all, got 'some'"),
        ("n_batch", "0", "n_batch must be at least 1, got 0"),
        ("smoothing_curve", "0.99", "smoothing_curve must be at least 1, got 0.99"),
    ],
)
def test_an_error_names_the_key_the_rule_and_the_value(key: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fields()[key].parse_text(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "text", "hint"),
    [
        ("top_k", "-1", "use 0 to turn it off"),
        ("top_n_sigma", "0", "use -1 to turn it off"),
        ("tfs_z", "-1", "use 1 to turn it off"),
        ("top_k", "-2", ""),
        ("n_gpu_layers", "-1", "use all"),
    ],
)
def test_the_off_value_of_another_program_gets_a_hint(key: str, text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        fields()[key].parse_text(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("top_p", "between 0 and 1"),
        ("top_k", "at least 0"),
        ("repeat_penalty", "above 0"),
        ("top_n_sigma", "above 0, or -1"),
        ("think", "one of show, hide, off"),
        ("presence_penalty", ""),
        ("stop", ""),
    ],
)
def test_the_valid_values_of_a_setting_are_words(key: str, text: str) -> None:
    assert fields()[key].valid_values == text


@pytest.mark.parametrize(("key", "text", "value"), [("top_n_sigma", "-1", -1.0), ("max_tokens", "-1", -1)])
def test_a_special_value_outside_the_range_is_valid(key: str, text: str, value: float) -> None:
    assert parse(key, text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [(word, True) for word in ("true", "Yes", "on", "1")] + [(word, False) for word in ("false", "NO", " off ", "0")],
)
def test_a_bool_accepts_words_for_true_and_false(text: str, value: bool) -> None:
    assert parse("ignore_eos", text) is value
    assert fields()["ignore_eos"].parse_data(text) is value


@pytest.mark.parametrize(
    ("key", "value", "meaning"), [("flash_attn", True, "on"), ("flash_attn", False, "off"), ("numa", False, "off")]
)
def test_true_and_false_are_on_and_off_among_choices(key: str, value: bool, meaning: str) -> None:
    assert fields()[key].parse_data(value) == meaning
    assert parse(key, str(value)) == meaning


@pytest.mark.parametrize(("key", "value"), [("numa", True), ("flash_attn", 1), ("cache_type_k", False), ("numa", [])])
def test_other_data_is_refused_with_the_choices(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{key} must be one of "):
        fields()[key].parse_data(value)


@pytest.mark.parametrize("value", [0, 1, None, [], "falsch"])
def test_a_bool_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^ignore_eos must be true or false"):
        fields()["ignore_eos"].parse_data(value)


@pytest.mark.parametrize(("text", "value"), [("random", None), ("Random", None), ("-1", None), (" 7 ", 7)])
def test_a_seed_is_a_number_or_random(text: str, value: int | None) -> None:
    assert parse("seed", text) == value


@pytest.mark.parametrize("value", [True, 3.7, math.nan, [1]])
def test_a_seed_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^seed must be an integer or random"):
        fields()["seed"].parse_data(value)


def test_an_error_shortens_a_long_value() -> None:
    with pytest.raises(UsageError, match=r"^top_k must be an integer, got 'x{55}\.\.\.'$"):
        parse("top_k", "x" * 1000)


@pytest.mark.parametrize(
    ("name", "hint"), [("temperatur", "temperature"), ("--top_pp", "top_p"), ("Repeat-Penalti", "repeat_penalty")]
)
def test_an_unknown_setting_gets_the_nearest_name_as_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown setting") as caught:
        find(name)
    assert caught.value.hint == f"did you mean '{hint}'?"


def test_an_unknown_setting_without_similar_names_has_no_hint() -> None:
    with pytest.raises(UsageError) as caught:
        find("zzzzzzzz")
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rep_pen", "repeat_penalty"),
        ("repetition_penalty", "repeat_penalty"),
        ("rep-pen-range", "repeat_last_n"),
        ("xtc", "xtc_probability"),
        ("dry", "dry_multiplier"),
        ("nsigma", "top_n_sigma"),
        ("num_ctx", "n_ctx"),
        ("num_predict", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("reasoning_budget", "think_budget"),
    ],
)
def test_a_setting_has_its_name_in_other_programs(name: str, key: str) -> None:
    assert find(name).key == key


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dynatemp", "use a range as temperature, such as 0.3..1.3"),
        ("rep_pen_slope", "use repeat_penalty: llama.cpp has no slope for it"),
        ("lora", "llmcli does not have this option of llama.cpp yet"),
        ("personality", ""),
    ],
)
def test_a_setting_that_llmcli_does_not_have_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(name)
    assert (str(caught.value), caught.value.hint) == (f"unknown setting '{name}'", hint)


@pytest.mark.parametrize(
    ("word", "known", "names"),
    [
        ("--top_p", ["--stop", "--top-k", "--top-p"], ["--top-p", "--top-k", "--stop"]),
        ("/personality", ["/xtc_probability", "/presence_penalty"], []),
        ("crea", ["precise", "creative"], ["creative"]),
        ("cr", ["precise", "creative"], []),
    ],
)
def test_the_nearest_names_come_in_order_of_similarity(word: str, known: list[str], names: list[str]) -> None:
    assert nearest(word, known) == names
    assert did_you_mean(word, known) == (f"did you mean '{names[0]}'?" if names else "")


def test_only_the_beginning_of_a_long_word_is_compared() -> None:
    assert nearest("a" * 10_000, ["b", "a" * 200]) == ["a" * 200]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"top-pp": 1}, "file.toml: unknown setting 'top-pp'"),
        ({"top_p": 2}, "file.toml: top_p must be between 0 and 1, got 2"),
    ],
)
def test_an_error_in_a_file_starts_with_the_file_name(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match="^" + message):
        parse_data(table, "file.toml")


def test_a_file_can_use_aliases() -> None:
    table = {"temp": 0.5, "n-predict": 3, "typ_p": 0.9, "gpu_layers": "all"}
    assert {key: fields()[key].format(value) for key, value in parse_data(table, "x").items()} == {
        "temperature": "0.5",
        "max_tokens": "3",
        "typical_p": "0.9",
        "n_gpu_layers": "all",
    }


@pytest.mark.parametrize("key", ["n_threads", "n_threads_batch"])
def test_more_threads_than_llama_cpp_can_have_are_refused(key: str) -> None:
    field = fields()[key]
    assert field.parse_text("512") == 512
    with pytest.raises(UsageError, match="between 0 and 512"):
        field.parse_text("513")


@pytest.mark.parametrize("key", ["grammar", "grammar_file", "json_schema", "regex"])
def test_a_constraint_is_never_an_empty_text(key: str) -> None:
    for text in ("", " "):
        with pytest.raises(UsageError, match=f"{key} must be a non-empty text"):
            parse(key, text)
    assert parse(key, "none") is None


@pytest.mark.parametrize(("value", "expected"), [("on", "show"), ("True", "show"), (True, "show"), (False, "off")])
def test_think_can_be_turned_on_and_off_as_in_ollama(value: object, expected: str) -> None:
    assert fields()["think"].parse_data(value) == expected
    assert parse("think", str(value)) == expected
    with pytest.raises(UsageError, match="think must be one of show, hide, off, got 'maybe'"):
        parse("think", "maybe")
