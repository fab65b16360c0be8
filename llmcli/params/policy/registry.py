"""The table of named policies: built-in ones, those of installed packages, and those of the user's files."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Function = Callable[..., Any]  # (TokenStep, numbers and Temperatures...) -> the temperature of the token
GROUP = "llmcli.temperature_policies"  # the entry point group for packages with policies


@dataclass(frozen=True)
class Kind:
    """A named policy: its form in the grammar, an example, and how to load its function.

    A `positive` policy accepts only temperatures above 0. `origin` is empty for built-in policies, else a file or a
    package.
    """

    name: str
    form: str
    example: str
    load: Callable[[], Function]
    positive: bool = False
    origin: str = ""


_BUILTIN: dict[str, Kind] = {}
_ANNOUNCED: dict[str, Kind] = {}


def policy(form: str, example: str, positive: bool = False) -> Callable[[Function], Function]:
    """Decorator that registers a pure function as the built-in policy of the same name."""

    def register(function: Function) -> Function:
        name = function.__name__
        _BUILTIN[name] = Kind(name, form, example, lambda: function, positive)
        return function

    return register


def ours() -> dict[str, Kind]:
    """The built-in policies by name."""
    import_module("llmcli.params.policies.rules")
    return _BUILTIN


def announce(name: str, origin: str, load: Callable[[], Function]) -> None:
    """Register `name` as a user's policy; its code is loaded when it is first used.

    Raises:
        ValueError: when a built-in policy has this name; the text completes "must be ...".
    """
    if name in ours():
        raise ValueError(f"a function that is not named like a built-in policy ({name})")
    _ANNOUNCED[name] = Kind(name, "numbers", name, load, origin=origin)


def find_kind(name: str) -> Kind | None:
    """The policy called `name`, if it exists."""
    return ours().get(name) or _ANNOUNCED.get(name) or _from_package(name)


def known_names() -> list[str]:
    """The names of policies, without those of installed packages (reading these takes 10 ms)."""
    return [name for name in (*ours(), *_ANNOUNCED) if name != "clamp"]


def _from_package(name: str) -> Kind | None:
    from importlib.metadata import entry_points  # takes 10 ms, so only for names that are not registered

    found = next((point for point in entry_points(group=GROUP) if point.name == name), None)
    if found is None:
        return None
    return Kind(name, "numbers", name, found.load, origin=found.dist.name if found.dist else found.value)
