"""The table of named policies: our own, those of installed packages, and those of the user's files."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Function = Callable[..., Any]  # of a TokenStep, numbers and temperatures -> the temperature of the token
GROUP = "llmcli.temperature_policies"  # the entry points of a package that brings policies


@dataclass(frozen=True)
class Kind:
    """A named policy: how it is written (a form of the grammar), an example, and where its function comes from.

    A `positive` one takes no temperature of 0. `origin` is empty for ours, else a file or a package.
    """

    name: str
    form: str
    example: str
    load: Callable[[], Function]
    positive: bool = False
    origin: str = ""


_OURS: dict[str, Kind] = {}
_ANNOUNCED: dict[str, Kind] = {}


def policy(form: str, example: str, positive: bool = False) -> Callable[[Function], Function]:
    """Make a pure function the policy of its own name."""

    def register(function: Function) -> Function:
        name = function.__name__
        _OURS[name] = Kind(name, form, example, lambda: function, positive)
        return function

    return register


def ours() -> dict[str, Kind]:
    """The policies that come with the program, by name."""
    import_module("llmcli.params.policy.rules")
    return _OURS


def announce(name: str, origin: str, load: Callable[[], Function]) -> None:
    """Let `name` stand for a policy of the user's own; nothing of it is loaded yet.

    Raises:
        ValueError: when the name is one of ours; completes the sentence "must be ...".
    """
    if name in ours():
        raise ValueError(f"a function with a name of its own ({name} comes with llmcli)")
    _ANNOUNCED[name] = Kind(name, "numbers", name, load, origin=origin)


def find_kind(name: str) -> Kind | None:
    """The policy called `name`, if there is one."""
    return ours().get(name) or _ANNOUNCED.get(name) or _from_package(name)


def known_names() -> list[str]:
    """The names that begin a policy, without a look at the installed packages."""
    return [name for name in (*ours(), *_ANNOUNCED) if name != "clamp"]


def _from_package(name: str) -> Kind | None:
    from importlib.metadata import entry_points  # 10 ms, only where a name is not known otherwise

    found = next((point for point in entry_points(group=GROUP) if point.name == name), None)
    if found is None:
        return None
    return Kind(name, "numbers", name, found.load, origin=found.dist.name if found.dist else found.value)
