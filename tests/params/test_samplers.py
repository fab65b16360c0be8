"""The sampler chain: its names, and its steps with their arguments."""

import re
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.sampler_chain import DEFAULT_ORDER, SamplerStep, TemperaturePlan, build_chain
from llmcli.params.samplers import SAMPLERS
from llmcli.params.settings import Settings, fields

FIELD = fields()["samplers"]
# Each sampler switched on, and the step it then is.
ON: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "penalties": (
        {"repeat_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.3, "repeat_last_n": 32},
        (32, 1.1, 0.2, 0.3),
    ),
    "dry": (
        {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 99},
        (0.8, 2.0, 3, 99, ("\n", ":", '"', "*")),
    ),
    "top_n_sigma": ({"top_n_sigma": 1.5}, (1.5,)),
    "top_k": ({"top_k": 7}, (7,)),
    "top_a": ({"top_a": 0.2}, (0.2, 1)),
    "tfs_z": ({"tfs_z": 0.9, "min_keep": 2}, (0.9, 2)),
    "typical_p": ({"typical_p": 0.9, "min_keep": 2}, (0.9, 2)),
    "top_p": ({"top_p": 0.5, "min_keep": 2}, (0.5, 2)),
    "min_p": ({"min_p": 0.1, "min_keep": 2}, (0.1, 2)),
    "xtc": ({"xtc_probability": 0.5, "xtc_threshold": 0.2, "min_keep": 2}, (0.5, 0.2, 2, 9)),
    "temperature": ({"temperature": Fixed(0.5)}, (TemperaturePlan(Fixed(0.5), (0.5, 0.0, 1.0)),)),
    "smoothing": ({"smoothing_factor": 0.3, "smoothing_curve": 1.5}, (0.3, 1.5)),
}
# Each sampler at the value where it does nothing.
OFF: dict[str, tuple[dict[str, Any], ...]] = {
    "penalties": ({"repeat_penalty": 1.0}, {"repeat_penalty": 1.5, "repeat_last_n": 0}),
    "dry": ({"dry_multiplier": 0.0}, {"dry_multiplier": 0.8, "dry_penalty_last_n": 0}),
    "top_n_sigma": ({"top_n_sigma": -1.0},),
    "top_k": ({"top_k": 0},),
    "top_a": ({"top_a": 0.0},),
    "tfs_z": ({"tfs_z": 1.0},),
    "typical_p": ({"typical_p": 1.0},),
    "top_p": ({"top_p": 1.0},),
    "min_p": ({"min_p": 0.0},),
    "xtc": ({"xtc_probability": 0.0}, {"xtc_probability": 0.5, "xtc_threshold": 0.51}),
    "temperature": ({"temperature": Fixed(1.0)}, {"temperature": Entropy(1.0, 1.0)}),
    "smoothing": ({"smoothing_factor": 0.0, "smoothing_curve": 2.0},),
}
NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": Fixed(1.0), "seed": 9}


def steps(**settings: Any) -> tuple[SamplerStep, ...]:
    return build_chain(Settings(**(NEUTRAL | settings)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("top_k,top_p", ("top_k", "top_p")),
        ("top_k;top_p", ("top_k", "top_p")),
        (" top_k ; top-p,, ", ("top_k", "top_p")),
        ("TOP_K", ("top_k",)),
        ("temp,typ_p", ("temperature", "typical_p")),
        ("typical,nucleus,top_nsigma,adaptive", ("typical_p", "top_p", "top_n_sigma", "adaptive_p")),
        ("tfs", ("tfs_z",)),
        ("tail-free", ("tfs_z",)),
        ("infill", ("infill",)),
        ("default", DEFAULT_ORDER),
        ("none", ()),
        ("", ()),
    ],
)
def test_a_chain_is_parsed_from_names(text: str, names: tuple[str, ...]) -> None:
    assert FIELD.parse_text(text) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topk", "unknown sampler 'topk' / did you mean 'top_k'?"),
        ("min_p,tmperature", "unknown sampler 'tmperature' / did you mean 'temperature'?"),
        ("zzz", "unknown sampler 'zzz' / use one of penalties, dry, "),
        ("default,none", "unknown sampler 'default'"),
        ("top_k,top_p,top_k", "samplers must be a list without duplicates (duplicate: top_k)"),
        ("temp,temperature", "samplers must be a list without duplicates (duplicate: temperature)"),
    ],
)
def test_an_unknown_or_duplicate_sampler_is_an_error(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        FIELD.parse_text(text)
    assert f"{caught.value} / {caught.value.hint}".startswith(words)


@pytest.mark.parametrize("value", [5, {"top_k": 1}, [1], [["top_k"]], None])
def test_a_chain_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^(samplers must be|unknown sampler) "):
        FIELD.parse_data(value)


def test_default_order_is_llama_cpp_plus_three_of_koboldcpp() -> None:
    assert ",".join(DEFAULT_ORDER) == (
        "penalties,dry,top_n_sigma,top_k,top_a,tfs_z,typical_p,top_p,min_p,xtc,temperature,smoothing"
    )


def test_the_default_chain_equals_that_of_llama_cpp() -> None:
    assert build_chain(Settings(seed=9)) == (
        SamplerStep("top_k", (40,)),
        SamplerStep("top_p", (0.95, 0)),
        SamplerStep("min_p", (0.05, 0)),
        SamplerStep("temperature", (TemperaturePlan(Fixed(0.8), (0.8, 0.0, 1.0)),)),
        SamplerStep("dist", (9,)),
    )


def test_every_sampler_is_in_both_tables() -> None:
    assert set(ON) == set(OFF) == set(DEFAULT_ORDER)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_names_its_settings_formula_and_source(name: str) -> None:
    sampler = SAMPLERS[name]
    assert name == "infill" or {*sampler.fields, *sampler.switches} <= fields().keys()
    assert re.match(r"[\w.]+ .*`\w+`", sampler.arguments.__doc__ or "")


@pytest.mark.parametrize("name", DEFAULT_ORDER)
def test_an_active_sampler_is_one_step_with_its_arguments(name: str) -> None:
    settings, args = ON[name]
    assert steps(**settings) == (SamplerStep(name, args), SamplerStep("dist", (9,)))


@pytest.mark.parametrize(("name", "settings"), [(name, case) for name, cases in OFF.items() for case in cases])
def test_a_sampler_at_its_neutral_value_is_absent(name: str, settings: dict[str, Any]) -> None:
    assert steps(**settings) == (SamplerStep("dist", (9,)),)


@pytest.mark.parametrize("name", DEFAULT_ORDER)
def test_a_sampler_that_is_not_listed_is_absent(name: str) -> None:
    rest = tuple(other for other in DEFAULT_ORDER if other != name)
    assert steps(**ON[name][0], samplers=rest) == (SamplerStep("dist", (9,)),)


@pytest.mark.parametrize(
    "order",
    [DEFAULT_ORDER, tuple(reversed(DEFAULT_ORDER)), ("temperature", "xtc", "min_p"), (), ("top_p", "infill", "top_k")],
)
def test_the_chain_follows_the_order_of_the_samplers(order: tuple[str, ...]) -> None:
    everything = {key: value for settings, _ in ON.values() for key, value in settings.items()}
    assert tuple(step.name for step in steps(**everything, samplers=order)) == (*order, "dist")


@pytest.mark.parametrize("order", [("adaptive_p", "top_k", "min_p"), ("top_k", "adaptive_p", "min_p")])
def test_adaptive_p_replaces_the_draw_at_the_end(order: tuple[str, ...]) -> None:
    assert steps(samplers=order, top_k=5, adaptive_target=0.3, adaptive_decay=0.5) == (
        SamplerStep("top_k", (5,)),
        SamplerStep("adaptive_p", (0.3, 0.5, 9)),
    )


@pytest.mark.parametrize(
    ("version", "last"),
    [(1, SamplerStep("mirostat", (9, 4.0, 0.2, 100))), (2, SamplerStep("mirostat_v2", (9, 4.0, 0.2)))],
)
@pytest.mark.parametrize(
    ("policy", "warm"),
    [
        (Fixed(0.5), (SamplerStep("temperature", (TemperaturePlan(Fixed(0.5), (0.5, 0.0, 1.0)),)),)),
        (Entropy(0.5, 1.0), (SamplerStep("temperature", (TemperaturePlan(Fixed(0.75), (0.75, 0.0, 1.0)),)),)),
        (Fixed(1.0), ()),
    ],
)
def test_mirostat_replaces_all_except_the_temperature(
    version: int, last: SamplerStep, policy: Fixed | Entropy, warm: tuple[SamplerStep, ...]
) -> None:
    everything = {key: value for settings, _ in ON.values() for key, value in settings.items()}
    given = everything | {"mirostat": version, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "temperature": policy}
    assert steps(**given) == (*warm, last)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mirostat": 1},
        {"mirostat": 2},
        {"samplers": ("adaptive_p",)},
        {"xtc_probability": 0.5},
    ],
)
def test_the_largest_seed_is_not_random_in_llama_cpp(settings: dict[str, Any]) -> None:
    seeds = [
        arg for step in steps(**settings | {"seed": 2**32 - 1}) for arg in step.args if arg in (2**32 - 1, 2**32 - 2)
    ]
    assert seeds
    assert 2**32 - 1 not in seeds


@pytest.mark.parametrize(
    "settings",
    [{"repeat_penalty": 1.1, "repeat_last_n": 2**31 - 1}, {"dry_multiplier": 1.0, "dry_penalty_last_n": 2**31 - 1}],
)
def test_a_window_longer_than_any_context_is_not_allocated(settings: dict[str, Any]) -> None:
    assert max(arg for arg in steps(**settings)[0].args if isinstance(arg, int)) == 2**24


@pytest.mark.parametrize("order", [("infill",), ("infill", "top_k"), ("temperature", "infill")])
def test_infill_without_truncation_is_an_error(order: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="infill needs a truncating sampler before it"):
        steps(samplers=order, top_k=5)
    assert steps(samplers=("top_k", "infill"), top_k=5) == (
        SamplerStep("top_k", (5,)),
        SamplerStep("infill"),
        SamplerStep("dist", (9,)),
    )


def test_infill_after_an_inactive_sampler_is_an_error() -> None:
    with pytest.raises(UsageError, match="infill"):
        steps(samplers=("top_k", "infill"), top_k=0)


@pytest.mark.parametrize(
    "settings", [{"repeat_penalty": 1.1, "repeat_last_n": -1}, {"dry_multiplier": 1.0, "dry_penalty_last_n": -1}]
)
def test_a_window_of_minus_one_is_the_whole_context(settings: dict[str, Any]) -> None:
    assert max(arg for arg in steps(**settings)[0].args if isinstance(arg, int)) == 2**20
