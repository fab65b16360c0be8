"""The record of a sampler: all that the program knows about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec

Args = tuple[Any, ...]
Arguments = Callable[..., Args | None]  # of settings
P = ParamSpec("P")


@dataclass(frozen=True)
class Sampler:
    """A sampler. Lists, constructors, columns and checks are made from its record.

    Attributes:
        arguments: a function of the settings; None if the sampler is off and adds no step to the chain. It has the name
            of the sampler, and a docstring with formula and source.
        fields: the settings that it uses; the one of its name by default. `/why` shows the value of the first.
        switches: the settings that turn it on; without them, the others have no effect.
        aliases: names that `samplers` accepts too.
        place: in the default order, only on request in `samplers`, or added by the program.
        constructor: llama.cpp has it as `llama_sampler_init_<constructor>`; its name by default.
        first_argument: what the constructor takes before the arguments.
        keep: in Python instead: of the probabilities of the live candidates (a numpy array) and the arguments, it makes
            the index of those to keep: a mask, or positions by probability, the most likely first.
        transform: in Python instead: of the logits of the live candidates and the arguments, it makes new ones.
        heading: of its column in `/why`; its name by default.
        is_truncating: it removes unlikely candidates.
        is_stateful: it has a state that depends on the draws before, not only on the tokens.
        draws: it draws the token.
        breaks_on_masks: it computes NaN for a candidate that is masked to -inf.
    """

    arguments: Arguments
    fields: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    place: Literal["default", "request", "program"] = "default"
    constructor: str = ""
    first_argument: Literal["", "vocab", "n_vocab"] = ""
    keep: Callable[..., Any] | None = None
    transform: Callable[..., Any] | None = None
    heading: str = ""
    is_truncating: bool = False
    is_stateful: bool = False
    draws: bool = False
    breaks_on_masks: bool = False

    def __post_init__(self) -> None:
        for key, default in {"fields": (self.name,), "constructor": self.name, "heading": self.name}.items():
            if not getattr(self, key):
                object.__setattr__(self, key, default)

    @property
    def name(self) -> str:
        return self.arguments.__name__


def _decorator(declare: Callable[Concatenate[Arguments, P], Sampler]) -> Callable[P, Callable[[Arguments], Sampler]]:
    def decorate(*args: P.args, **facts: P.kwargs) -> Callable[[Arguments], Sampler]:
        return lambda arguments: declare(arguments, *args, **facts)

    return decorate


sampler = _decorator(Sampler)  # makes a sampler of the function of its arguments, with the other attributes


@dataclass(frozen=True)
class SamplerStep:
    """One sampler of the chain, with its arguments."""

    name: str
    args: Args = ()
