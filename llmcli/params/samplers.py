"""The sampler chain as a plan: which steps run, in which order, with which arguments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from llmcli.errors import UsageError
from llmcli.params import penalties, selection, temperature, truncation
from llmcli.params.param import Param
from llmcli.params.suggest import did_you_mean
from llmcli.params.values import quote

# llama.cpp's order (common.h), with KoboldCpp's top_a and smoothing where KoboldCpp has them.
SAMPLERS: dict[str, Callable[[Any], tuple[Any, ...] | None]] = {
    "penalties": penalties.penalties,
    "dry": penalties.dry,
    "top_n_sigma": truncation.top_n_sigma,
    "top_k": truncation.top_k,
    "top_a": truncation.top_a,
    "typical_p": truncation.typical_p,
    "top_p": truncation.top_p,
    "min_p": truncation.min_p,
    "xtc": truncation.xtc,
    "temperature": temperature.temperature,
    "smoothing": temperature.smoothing,
}
DEFAULT_ORDER = tuple(SAMPLERS)
# Only where they are asked for by name: infill has no setting, adaptive_p replaces the draw at the end.
ON_REQUEST = ("infill", "adaptive_p")
_CUTS = {"top_k", "top_p", "min_p", "typical_p", "top_a"}
_ALIASES = {"typ_p": "typical_p", "typical": "typical_p", "typ": "typical_p", "temp": "temperature"} | {
    "top_nsigma": "top_n_sigma",
    "nucleus": "top_p",
    "adaptive": "adaptive_p",
}


@dataclass(frozen=True)
class Step:
    """One sampler of the chain and the arguments that `llama_sampler_init_*` gets after the vocabulary."""

    name: str
    args: tuple[Any, ...] = ()


def parse_samplers(text: str) -> tuple[str, ...]:
    """Names parted by `,` or `;`; `default` is llama.cpp's order, `none` an empty chain.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
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
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"a list with each sampler once ({twice} is there twice)")
    return names


def _sampler_name(text: Any) -> str:
    key = str(text).strip().lower().replace("-", "_")
    name = _ALIASES.get(key, key)
    known = (*DEFAULT_ORDER, *ON_REQUEST)
    if name not in known:
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise UsageError(f"samplers: there is no sampler called {quote(text)}", hint)
    return name


@dataclass(frozen=True, kw_only=True)
class ChainParams:
    """Chain"""

    samplers: Annotated[
        tuple[str, ...],
        Param(
            help="The samplers in the order they run, parted by commas; those left out are off.",
            metavar="NAME,NAME",
            suggest=("default", "top_k,top_p,temperature", "min_p,temperature", "temperature"),
            text=parse_samplers,
            data=samplers_from_data,
            show=lambda names: ",".join(names) or "none",
        ),
    ] = DEFAULT_ORDER


def plan(p: Any, steered: bool = False) -> tuple[Step, ...]:
    """The steps of the chain for sampling settings `p` (with a seed drawn); a sampler that is off is absent.

    A `steered` chain has a step for the temperature even where it is 1, and one without values (which only reads)
    where the samplers leave it out.

    Follows `common_sampler_init` of llama.cpp: with mirostat only a plain temperature stands before it, and
    adaptive_p, wherever it is named, takes the place of the draw at the end. Logit biases come before all of
    this and need the vocabulary, so the engine adds them.
    """
    if p.mirostat:
        base, _, _ = temperature.base_delta_exponent(p)
        warm = () if base == 1 and not steered else (Step("temperature", (base, 0.0, 1.0)),)
        return (*warm, Step("mirostat" if p.mirostat == 1 else "mirostat_v2", selection.mirostat(p)))
    steps = [*_steps(p, steered)]
    _check_infill([step.name for step in steps])
    last = (
        Step("adaptive_p", selection.adaptive_p(p)) if "adaptive_p" in p.samplers else Step("dist", selection.dist(p))
    )
    return (*steps, last)


def _steps(p: Any, steered: bool) -> Iterator[Step]:
    for name in p.samplers:
        args = () if name == "infill" else None if name == "adaptive_p" else SAMPLERS[name](p)
        if args is None and steered and name == "temperature":
            args = (1.0, 0.0, 1.0)
        if args is not None:
            yield Step(name, args)
    if steered and "temperature" not in p.samplers:
        yield Step("temperature")


def check(p: Any) -> None:
    """Say what would be wrong with the chain of these settings, before a model is loaded for it.

    Raises:
        UsageError: for samplers or a temperature that cannot be, and for a policy file that cannot be used.
    """
    temperature.compiled(temperature.policy_in_force(p))
    plan(replace(p, seed=0))


def _check_infill(names: list[str]) -> None:
    """llama.cpp's infill compares all candidates with each other: minutes for a whole vocabulary, past any abort."""
    if "infill" in names and not _CUTS & set(names[: names.index("infill")]):
        raise UsageError("samplers: infill needs a sampler before it that cuts candidates off", "as in top_k,infill")
