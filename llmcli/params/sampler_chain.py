"""The sampler chain as data: its steps in order, with their arguments."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmcli.errors import UsageError
from llmcli.params.param import SamplerStep, quote, setting, settings_group
from llmcli.params.policies.policy import preload
from llmcli.params.samplers import SAMPLERS, SamplerParams
from llmcli.params.temperature import NEUTRAL, ONLY_READS, TemperatureParams, effective_policy, plan_temperature
from llmcli.text import did_you_mean

DEFAULT_ORDER = tuple(one.name for one in SAMPLERS.values() if one.place == "default")
SAMPLER_NAMES = tuple(one.name for one in SAMPLERS.values() if one.place != "program")
_ALIASES = {alias: one.name for one in SAMPLERS.values() for alias in one.aliases}


def parse_samplers(value: object) -> tuple[str, ...]:
    """A list of names, or names separated by `,` or `;`; `default` is llama.cpp's order, `none` an empty chain."""
    if isinstance(value, str):
        if value.strip() in ("default", "none"):
            return DEFAULT_ORDER if value.strip() == "default" else ()
        value = [name for name in value.replace(";", ",").split(",") if name.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of sampler names")
    names: list[str] = []
    for text in value:
        key = str(text).strip().lower().replace("-", "_")
        name = _ALIASES.get(key, key)
        if name not in SAMPLER_NAMES:
            hint = did_you_mean(name, SAMPLER_NAMES) or f"use one of {', '.join(SAMPLER_NAMES)}"
            raise UsageError(f"unknown sampler {quote(text)}", hint)
        names.append(name)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise ValueError(f"a list without duplicates (duplicate: {duplicate})")
    return tuple(names)


@settings_group("Sampler chain")
class ChainParams:
    samplers: tuple[str, ...] = setting(
        DEFAULT_ORDER,
        "Samplers to apply, in order, separated by commas. Omitted samplers are off.",
        metavar="NAME,NAME",
        suggest=("default", "top_k,top_p,temperature", "min_p,temperature", "temperature"),
        data=parse_samplers,
        show=lambda names: ",".join(names) or "none",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingParams(TemperatureParams, SamplerParams, ChainParams):
    """Settings of the sampler chain."""


def build_chain(p: SamplingParams, needs_temperature: bool = False) -> tuple[SamplerStep, ...]:
    """The steps of the chain for sampling settings `p`, whose seed is set. Samplers that are off are absent.

    With `needs_temperature` there is always a temperature step, with which the engine traces and shifts the
    temperature: a neutral one where the temperature is 1, and one that only reads where `samplers` does not contain it.

    Follows `common_sampler_init` of llama.cpp: mirostat has only a temperature before it, and adaptive_p replaces the
    draw at the end wherever it is named. Logit biases come first; the engine adds them, as they need the vocabulary.
    """
    if p.mirostat:
        plan = plan_temperature(p, has_mirostat=True)
        before = [SamplerStep("temperature", (plan,))] if plan != NEUTRAL or needs_temperature else []
        draw = "mirostat" if p.mirostat == 1 else "mirostat_v2"
    else:
        before = [*_steps_before_draw(p, needs_temperature)]
        draw = "adaptive_p" if "adaptive_p" in p.samplers else "dist"
    return (*before, SamplerStep(draw, SAMPLERS[draw].arguments(p) or ()))


def _steps_before_draw(p: SamplingParams, needs_temperature: bool) -> Iterator[SamplerStep]:
    is_truncated = False
    for one in (SAMPLERS[name] for name in p.samplers):
        args = None if one.draws else one.arguments(p)
        if args is None and one.name == "temperature" and needs_temperature:
            args = (NEUTRAL,)
        if args is None:
            continue
        if one.name == "infill" and not is_truncated:  # it is quadratic: a whole vocabulary takes minutes
            raise UsageError("the sampler infill needs a truncating sampler before it", "use for example top_k,infill")
        is_truncated |= one.is_truncating
        yield SamplerStep(one.name, args)
    if needs_temperature and "temperature" not in p.samplers:
        yield SamplerStep("temperature", (ONLY_READS,))


def check_chain(p: SamplingParams) -> None:
    """Check that the chain of these settings can be built, before a model is loaded.

    Raises:
        UsageError: for invalid samplers, an invalid temperature, or a policy file that cannot be used.
    """
    preload(effective_policy(p))
    build_chain(replace(p, seed=0))
