"""Every declared setting has every surface: one walk over them all."""

import json
from pathlib import Path

import pytest
import typer

from llmcli.cli.completion import completer
from llmcli.cli.options import help_text
from llmcli.cli.typer_app import make_app
from llmcli.config.config_file import config_layer, set_value
from llmcli.params.param import Field
from llmcli.params.settings import Settings, environment_layer, fields, parse_data, to_data
from tools import docs

PARAMETERS = (docs.ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(make_app()).commands  # type: ignore[attr-defined]
OPTIONS = {option.name: option for name in ("chat", "generate") for option in COMMANDS[name].params}
# Texts whose values are free: nothing but a file name could be offered.
FREE = {
    "prompt",
    "choices",
    "system",
    "template_arg",
    "prefill",
    "stop",
    "banned_strings",
    "logit_bias",
    "dry_sequence_breakers",
    "grammar",
    "override_kv",
    "regex",
}


@pytest.mark.parametrize("field", fields().values(), ids=lambda field: field.key)
def test_a_setting_has_every_surface(field: Field, home: Path) -> None:
    option = OPTIONS[field.key]
    assert set(field.flags) <= set(option.opts), "flag"
    assert option.help == help_text(field), "help"
    assert field.help.endswith("."), "help is a sentence"
    assert field.group, "heading"

    data = to_data(Settings())
    assert field.key in data, "JSON field"
    assert parse_data({field.key: json.loads(json.dumps(data[field.key]))}, "test") == {field.key: field.default}

    if field.default is not None:
        set_value(field.key, field.default)
        assert config_layer().values == {field.key: field.default}, "config key"
        shown = field.format(field.default)
        assert environment_layer({field.env: shown}).values == ({field.key: field.default} if shown else {}), "variable"

    row = next((line for line in PARAMETERS.splitlines() if f"| `{field.key}` |" in line), "")
    assert f"`{field.flags[0]}`" in row, "row of docs/parameters.md"

    number = field.kind in (int, float)
    assert completer(field) or number or field.kind is bool or field.path or field.key in FREE, "completion"


@pytest.mark.parametrize("field", fields().values(), ids=lambda field: field.key)
def test_every_help_text_contains_its_bounds_and_default(field: Field) -> None:
    text = OPTIONS[field.key].help
    assert text.startswith(field.help)
    if not field.choices and field.key != "seed":  # choices are in the metavar; the bounds of a seed help nobody
        assert field.valid_values in text
    default = field.format(field.default)
    assert default in text or default in ("none", "false")


def test_the_help_of_a_setting_reads_like_this() -> None:
    assert OPTIONS["top_p"].help.startswith("Top-p (nucleus) sampling: cumulative probability to keep (1 = off).")
    assert "between 0 and 1" in OPTIONS["top_p"].help
    assert "at least 0" in OPTIONS["top_k"].help
    assert "above 0" in OPTIONS["repeat_penalty"].help
    assert "default random" in OPTIONS["seed"].help
