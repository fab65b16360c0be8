"""Configuration layers: the last one with a value wins, and each value records its layer."""

import itertools

import pytest

from llmcli.errors import UsageError
from llmcli.params.settings import Layer, Settings, environment_layer, fields, resolve

NAMES = ("model", "config", "env", "flag")


def test_without_layers_every_value_is_the_default() -> None:
    resolved = resolve([])
    assert resolved.settings == Settings()
    assert set(resolved.origins.values()) == {"default"}
    assert set(resolved.origins) == set(fields())


@pytest.mark.parametrize("present", [names for n in range(1, 5) for names in itertools.combinations(NAMES, n)])
def test_the_highest_layer_with_a_value_wins(present: tuple[str, ...]) -> None:
    layers = [Layer(name, {"top_k": 100 + index} if name in present else {}) for index, name in enumerate(NAMES)]
    resolved = resolve(layers)
    assert resolved.settings.top_k == 100 + NAMES.index(present[-1])
    assert resolved.origins["top_k"] == present[-1]
    assert resolved.origins["top_p"] == "default"


def test_a_default_in_a_layer_overrides_lower_layers() -> None:
    resolved = resolve([Layer("config", {"top_k": 7}), Layer("flag", {"top_k": 40})])
    assert (resolved.settings.top_k, resolved.origins["top_k"]) == (40, "flag")


def test_the_environment_is_a_layer_of_typed_values() -> None:
    layer = environment_layer(
        {"LLMCLI_TOP_K": "7", "LLMCLI_IGNORE_EOS": "false", "LLMCLI_STOP": '["a", "b"]', "LLMCLI_SEED": "random"}
        | {"PATH": "/bin", "LLMCLI_HOME": "x", "LLMCLI_DEBUG": "1", "LLMCLI_TOP_P": ""}
    )
    assert (layer.name, layer.values) == ("env", {"top_k": 7, "ignore_eos": False, "stop": ("a", "b"), "seed": None})


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("LLMCLI_TOP_P", "2", "LLMCLI_TOP_P: top_p must be between 0 and 1, got 2", ""),
        (
            "LLMCLI_SAMPLERS",
            "topk",
            "LLMCLI_SAMPLERS: unknown sampler .topk.",
            "did you mean 'top_k'?",
        ),
        ("LLMCLI_TEMP", "1", "unknown environment variable LLMCLI_TEMP", "did you mean 'LLMCLI_TEMPERATURE'?"),
        ("LLMCLI_CTX_SIZE", "9", "unknown environment variable LLMCLI_CTX_SIZE", "did you mean 'LLMCLI_N_CTX'?"),
        (
            "LLMCLI_LORA",
            "1",
            "unknown environment variable LLMCLI_LORA",
            "llmcli does not have this option of llama.cpp yet",
        ),
        ("LLMCLI_TOPP", "1", "unknown environment variable LLMCLI_TOPP", "did you mean 'LLMCLI_TOP_P'?"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match="^" + message) as caught:
        environment_layer({name: text})
    assert caught.value.hint == hint


def test_a_layer_gives_a_value_of_the_kind_asked_for() -> None:
    layer = Layer("flag", {"model": "x", "seed": None})
    assert layer.get("model", str) == "x"
    assert layer.get("seed", int) is layer.get("top_k", int) is None
