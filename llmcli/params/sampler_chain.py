"""The sampler chain as data: its steps in order, with their arguments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from llmcli.errors import UsageError
from llmcli.params import temperature
from llmcli.params.param import Param, quote
from llmcli.params.policies.policy import to_callable
from llmcli.params.samplers import (
    adaptive_p,
    dist,
    dry,
    min_p,
    mirostat,
    penalties,
    top_a,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
    xtc,
)
from llmcli.text import did_you_mean

# llama.cpp's order (common.h), plus top_a and smoothing at KoboldCpp's positions.
SAMPLERS: dict[str, Callable[[Any], tuple[Any, ...] | None]] = {
    "penalties": penalties,
    "dry": dry,
    "top_n_sigma": top_n_sigma,
    "top_k": top_k,
    "top_a": top_a,
    "typical_p": typical_p,
    "top_p": top_p,
    "min_p": min_p,
    "xtc": xtc,
    "temperature": temperature.temperature,
    "smoothing": temperature.smoothing,
}
DEFAULT_ORDER = tuple(SAMPLERS)
# Not in the default order: infill has no setting, adaptive_p replaces the draw at the end of the chain.
ON_REQUEST = ("infill", "adaptive_p")
_TRUNCATING = {"top_k", "top_p", "min_p", "typical_p", "top_a"}
_ALIASES = {"typ_p": "typical_p", "typical": "typical_p", "typ": "typical_p", "temp": "temperature"} | {
    "top_nsigma": "top_n_sigma",
    "nucleus": "top_p",
    "adaptive": "adaptive_p",
}
NEUTRAL_TEMPERATURE = (1.0, 0.0, 1.0)  # base, half width and exponent of `temp_ext` that change nothing


@dataclass(frozen=True)
class SamplerStep:
    """One sampler of the chain, with the arguments of its `llama_sampler_init_*` after the vocabulary."""

    name: str
    args: tuple[Any, ...] = ()


def parse_samplers(text: str) -> tuple[str, ...]:
    """Names separated by `,` or `;`; `default` is llama.cpp's order, `none` an empty chain."""
    if text.strip() in ("default", "none"):
        return DEFAULT_ORDER if text.strip() == "default" else ()
    return samplers_from_data([name for name in text.replace(";", ",").split(",") if name.strip()])


def samplers_from_data(value: Any) -> tuple[str, ...]:
    """A list of sampler names."""
    if isinstance(value, str):
        return parse_samplers(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of sampler names")
    names = tuple(_sampler_name(name) for name in value)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise ValueError(f"a list without duplicates (duplicate: {duplicate})")
    return names


def _sampler_name(text: Any) -> str:
    key = str(text).strip().lower().replace("-", "_")
    name = _ALIASES.get(key, key)
    known = (*DEFAULT_ORDER, *ON_REQUEST)
    if name not in known:
        hint = did_you_mean(name, known) or f"use one of {', '.join(known)}"
        raise UsageError(f"unknown sampler {quote(text)}", hint)
    return name


@dataclass(frozen=True, kw_only=True)
class ChainParams:
    """The order of the samplers."""

    TITLE: ClassVar[str] = "Sampler chain"

    samplers: Annotated[
        tuple[str, ...],
        Param(
            "Samplers to apply, in order, separated by commas. Omitted samplers are off.",
            metavar="NAME,NAME",
            suggest=("default", "top_k,top_p,temperature", "min_p,temperature", "temperature"),
            text=parse_samplers,
            data=samplers_from_data,
            show=lambda names: ",".join(names) or "none",
        ),
    ] = DEFAULT_ORDER


def build_chain(p: Any, needs_temperature: bool = False) -> tuple[SamplerStep, ...]:
    """The steps of the chain for sampling settings `p`, whose seed is set. Samplers that are off are absent.

    With `needs_temperature` there is always a temperature step, with which the engine traces and shifts the
    temperature: one with neutral arguments where the temperature is 1, and one without arguments, which only reads,
    where `samplers` does not contain it.

    Follows `common_sampler_init` of llama.cpp: mirostat has only a temperature before it, and adaptive_p replaces the
    draw at the end wherever it is named. Logit biases come first; the engine adds them, as they need the vocabulary.
    """
    if p.mirostat:
        base, _, _ = temperature.base_delta_exponent(p)
        before = () if base == 1 and not needs_temperature else (SamplerStep("temperature", (base, 0.0, 1.0)),)
        return (*before, SamplerStep("mirostat" if p.mirostat == 1 else "mirostat_v2", mirostat(p)))
    steps = [*_steps(p, needs_temperature)]
    _check_infill([step.name for step in steps])
    last = SamplerStep("adaptive_p", adaptive_p(p)) if "adaptive_p" in p.samplers else SamplerStep("dist", dist(p))
    return (*steps, last)


def _steps(p: Any, needs_temperature: bool) -> Iterator[SamplerStep]:
    for name in p.samplers:
        args = () if name == "infill" else None if name == "adaptive_p" else SAMPLERS[name](p)
        if args is None and needs_temperature and name == "temperature":
            args = NEUTRAL_TEMPERATURE
        if args is not None:
            yield SamplerStep(name, args)
    if needs_temperature and "temperature" not in p.samplers:
        yield SamplerStep("temperature")


def check_chain(p: Any) -> None:
    """Check that the chain of these settings can be built, before a model is loaded.

    Raises:
        UsageError: for invalid samplers, an invalid temperature, or a policy file that cannot be used.
    """
    to_callable(temperature.effective_policy(p))
    build_chain(replace(p, seed=0))


def _check_infill(names: list[str]) -> None:
    """llama.cpp's infill is quadratic: for a whole vocabulary it takes minutes and cannot be aborted."""
    if "infill" in names and not _TRUNCATING & set(names[: names.index("infill")]):
        raise UsageError("the sampler infill needs a truncating sampler before it", "use for example top_k,infill")
