"""Settings without effect are reported, those with an effect are not."""

from typing import Any

import pytest

from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.sampler_chain import DEFAULT_ORDER
from llmcli.params.settings import Layer, ineffective_settings, resolve

RANGE = Entropy(0.3, 1.3)
ADAPTIVE = (*DEFAULT_ORDER, "adaptive_p")


def reasons_for(**values: Any) -> dict[str, str]:
    resolved = resolve([Layer("flag", values)])
    return ineffective_settings(resolved.settings, resolved.origins)


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({"mirostat": 2, "top_p": 0.5}, {"top_p": "mirostat 2 replaces the chain"}),
        ({"mirostat": 1, "repeat_penalty": 1.5}, {"repeat_penalty": "mirostat 1 replaces the chain"}),
        ({"mirostat": 1, "samplers": ("top_k",)}, {"samplers": "mirostat 1 replaces the chain"}),
        ({"mirostat": 1, "min_keep": 3}, {"min_keep": "mirostat 1 replaces the chain"}),
        ({"mirostat": 2, "dynatemp_range": 0.5}, {"dynatemp_range": "mirostat 2 needs a fixed temperature"}),
        (
            {"mirostat": 2, "temperature": RANGE},
            {"temperature": "mirostat 2 uses the middle of the range"},
        ),
        ({"adaptive_target": 0.3}, {"adaptive_target": "adaptive_p is not in samplers"}),
        ({"samplers": ADAPTIVE, "adaptive_decay": 0.5}, {"adaptive_decay": "needs adaptive_target"}),
        ({"xtc_threshold": 0.2}, {"xtc_threshold": "needs xtc_probability"}),
        ({"dry_base": 2.0}, {"dry_base": "needs dry_multiplier"}),
        ({"dry_sequence_breakers": ()}, {"dry_sequence_breakers": "needs dry_multiplier"}),
        (
            {"repeat_last_n": 9},
            {"repeat_last_n": "needs repeat_penalty or presence_penalty or frequency_penalty"},
        ),
        ({"smoothing_curve": 2.0}, {"smoothing_curve": "needs smoothing_factor"}),
        ({"mirostat_tau": 3.0}, {"mirostat_tau": "needs mirostat"}),
        ({"dynatemp_exponent": 2.0}, {"dynatemp_exponent": "needs dynatemp_range"}),
        ({"constraint_retries": 5}, {"constraint_retries": "needs json_schema"}),
        ({"constraint_retries": 5, "json_schema": "{}"}, {}),
        ({"top_k": 5, "samplers": ("temperature",)}, {"top_k": "top_k is not in samplers"}),
        (
            {"temperature": RANGE, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
            dict.fromkeys(("dynatemp_range", "dynatemp_exponent"), "the temperature '0.3..1.3' has its own range"),
        ),
        ({"min_keep": 3, "top_p": 1.0, "min_p": 0.0}, {"min_keep": "no active sampler uses it"}),
        (
            {"xtc_probability": 0.5, "xtc_threshold": 0.6},
            {"xtc_probability": "other settings turn xtc off"},
        ),
        (
            {"repeat_penalty": 1.2, "repeat_last_n": 0},
            {"repeat_penalty": "other settings turn penalties off"},
        ),
        ({"dry_multiplier": 0.8, "dry_penalty_last_n": 0}, {"dry_multiplier": "other settings turn dry off"}),
        ({"raw": True, "system": "Be brief."}, {"system": "raw completion has no chat template"}),
    ],
)
def test_a_setting_without_effect_is_reported_with_the_reason(values: dict[str, Any], reasons: dict[str, str]) -> None:
    assert reasons_for(**values) == reasons


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": Fixed(1.0)},
        {"temperature": RANGE},
        {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
        {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2, "temperature": Fixed(0.5), "seed": 3},
        {"xtc_probability": 0.5, "xtc_threshold": 0.2},
        {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 4},
        {"presence_penalty": 0.5, "repeat_last_n": 9},
        {"samplers": ADAPTIVE, "adaptive_target": 0.3, "adaptive_decay": 0.5},
        {"samplers": ADAPTIVE, "adaptive_target": 0.0, "adaptive_decay": 0.5},
        {"smoothing_factor": 0.3, "smoothing_curve": 2.0},
        {"min_keep": 3},
        {"top_a": 0.2, "min_keep": 3, "top_p": 1.0, "min_p": 0.0},
        {"tfs_z": 0.9, "min_keep": 3, "top_p": 1.0, "min_p": 0.0},
        {"seed": 1, "stop": ("a",), "max_tokens": 3, "logit_bias": ((5, 1.0),)},
        {"raw": True},
    ],
)
def test_a_setting_in_use_is_not_reported(values: dict[str, Any]) -> None:
    assert reasons_for(**values) == {}


def test_a_default_without_effect_is_not_reported() -> None:
    resolved = resolve([Layer("flag", {"mirostat": 2})])
    assert ineffective_settings(resolved.settings, resolved.origins) == {}


def test_a_value_set_to_the_default_is_not_reported() -> None:
    assert reasons_for(mirostat=2, top_p=0.95) == {}
