"""Policies as functions of a token's step."""

from collections.abc import Callable
from inspect import signature
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.policies import rules
from llmcli.params.policies.plugins import said
from llmcli.params.policies.policy import Entropy, Fixed, Named, Policy
from llmcli.params.policy.registry import find_kind
from llmcli.params.policy.step import Temperature, TokenStep


def compiled(policy: Policy) -> Temperature:
    """The function that computes the temperature of a token under `policy`.

    Raises:
        UsageError: when a user's policy cannot be loaded, or does not accept its arguments.
    """
    if isinstance(policy, Fixed):
        return lambda step: rules.fixed(step, policy.value)
    if isinstance(policy, Entropy):
        return lambda step: rules.entropy(step, policy.low, policy.high, policy.exponent)
    function = _load(policy)
    args = [arg if isinstance(arg, float) else compiled(arg) for arg in policy.args]
    options = dict(policy.options)
    return lambda step: function(step, *args, **options)


def spoken(policy: Policy) -> Callable[[TokenStep], str]:
    """The function that names the part of the policy that a token uses, such as "0.7" of "think=1,answer=0.7"."""
    if isinstance(policy, Named) and (kind := find_kind(policy.name)) and kind.form in ("parts", "split"):
        function, parts = kind.load(), [spoken(part) for part in policy.args if not isinstance(part, float)]
        return lambda step: str(function(step, *parts))
    text = str(policy)
    return lambda _step: text


def _load(policy: Named) -> Callable[..., Any]:
    kind = find_kind(policy.name)
    if not kind:
        raise UsageError(f"unknown temperature policy {policy.name!r}", "give its file with --temp-policy-file")
    if not kind.origin:
        return kind.load()
    try:
        function = kind.load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # an imported package can raise anything
        raise UsageError(f"cannot load the policy {policy.name!r} of {kind.origin}: {said(error)}") from None
    if not callable(function):
        raise UsageError(f"{policy.name!r} of {kind.origin} is not a function")
    try:
        signature(function).bind(None, *policy.args, **dict(policy.options))
    except TypeError as error:
        raise UsageError(
            f"{policy.name!r} of {kind.origin} does not accept the arguments of '{policy}': {error}"
        ) from None
    except ValueError:  # a function written in C may have no signature
        pass
    return function
