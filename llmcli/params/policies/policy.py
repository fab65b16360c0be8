"""A temperature policy: as data, as text, and as a function of the step of a token."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.param import format_value
from llmcli.params.policies import rules
from llmcli.params.policies.rules import Temperature, TokenStep, get_policy, register_policy
from llmcli.text import ellipsize

_PACKAGE = str(Path(__file__).parents[2]) + os.sep  # the folder of llmcli's own code
_FUNCTION_SHAPE = "FILE.py:NAME, a Python file and a function in it"


@dataclass(frozen=True)
class Fixed:
    """The same temperature for each token; 0 is greedy."""

    value: float

    def __str__(self) -> str:
        return format_value(self.value)


@dataclass(frozen=True)
class Entropy:
    """Between `low` and `high`, by the entropy of the candidates: low + (high - low) * (H / Hmax) ^ exponent.

    Source: llama.cpp `llama_sampler_temp_ext`, KoboldCpp `sample_entropy`. H is in nats over the live candidates.
    """

    low: float
    high: float
    exponent: float = 1.0

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else "^" + format_value(self.exponent)
        return f"{format_value(self.low)}..{format_value(self.high)}{power}"


@dataclass(frozen=True)
class PolicyCall:
    """A named policy with its arguments: numbers or other policies, and options."""

    name: str
    args: "tuple[float | Policy, ...]" = ()
    options: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return format_policy(self)


Policy = Fixed | Entropy | PolicyCall


def names_in(policy: Policy) -> set[str]:
    """The names of `policy` and of all policies inside it."""
    if not isinstance(policy, PolicyCall):
        return set()
    inner = (names_in(arg) for arg in policy.args if not isinstance(arg, float))
    return {policy.name}.union(*inner)


def format_policy(policy: PolicyCall) -> str:
    """The text that `parse_policy` reads back as `policy`."""
    args = [format_value(arg) if isinstance(arg, float) else str(arg) for arg in policy.args]
    inner = [f"({text})" if isinstance(arg, PolicyCall) else text for arg, text in zip(policy.args, args, strict=True)]
    if policy.name == "think":
        return f"think={inner[0]},answer={inner[1]}"
    if policy.name == "clamp":
        return f"{args[0]},clamp={args[1]}..{args[2]}"
    spec = get_policy(policy.name)
    if spec and spec.form == "schedule":
        return f"{policy.name}:{args[0]}->{args[1]}@{args[2]}"
    arguments = [*inner, *(f"{key}={format_value(value)}" for key, value in policy.options)]
    return f"{policy.name}:{','.join(arguments)}" if arguments else policy.name


def to_callable(policy: Policy) -> Temperature:
    """The function that computes the temperature of a token under `policy`.

    Raises:
        UsageError: when a user's policy cannot be loaded, or does not accept its arguments.
    """
    if isinstance(policy, Fixed):
        return lambda step: rules.fixed(step, policy.value)
    if isinstance(policy, Entropy):
        return lambda step: rules.entropy(step, policy.low, policy.high, policy.exponent)
    function = _policy_function(policy)
    args = [arg if isinstance(arg, float) else to_callable(arg) for arg in policy.args]
    options = dict(policy.options)
    return lambda step: function(step, *args, **options)


def explain_policy(policy: Policy) -> Callable[[TokenStep], str]:
    """The function that names the part of the policy that a token uses, such as "0.7" of "think=1,answer=0.7"."""
    if isinstance(policy, PolicyCall) and (spec := get_policy(policy.name)) and spec.form in ("parts", "split"):
        function, parts = spec.load(), [explain_policy(part) for part in policy.args if not isinstance(part, float)]
        return lambda step: str(function(step, *parts))
    text = str(policy)
    return lambda _step: text


def _policy_function(policy: PolicyCall) -> Callable[..., Any]:
    spec = get_policy(policy.name)
    if not spec:
        raise UsageError(f"unknown temperature policy {policy.name!r}", "give its file with --temp-policy-file")
    if not spec.origin:
        return spec.load()
    try:
        function = spec.load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # an imported package can raise anything
        reason = describe_exception(error)
        raise UsageError(f"cannot load the policy {policy.name!r} of {spec.origin}: {reason}") from None
    if not callable(function):
        raise UsageError(f"{policy.name!r} of {spec.origin} is not a function")
    try:
        signature(function).bind(None, *policy.args, **dict(policy.options))
    except TypeError as error:
        raise UsageError(
            f"{policy.name!r} of {spec.origin} does not accept the arguments of '{policy}': {error}"
        ) from None
    except ValueError:  # a function written in C may have no signature
        pass
    return function


def parse_function_reference(text: str) -> str:
    """`text`, checked to be FILE.py:NAME. NAME is registered as a policy; the file is not read yet."""
    file, colon, name = text.strip().rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError(_FUNCTION_SHAPE)
    register_policy(name, file, lambda: load_function(file, name))
    return f"{file}:{name}"


def load_function(file: str, name: str) -> Callable[..., Any]:
    """Run the file and return its function `name`.

    Raises:
        UsageError: when the file cannot be read, is not valid Python, raises an error, or has no such function.
    """
    path = Path(file).expanduser()
    try:
        code = compile(path.read_text(encoding="utf-8-sig"), str(path), "exec")
    except OSError as error:
        raise UsageError(f"cannot read the policy file {file}: {error.strerror or error}") from None
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise UsageError(f"the policy file {file} is not valid Python: {line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8, null bytes, or nested too deep
        raise UsageError(f"the policy file {file} is not valid Python: {error}") from None
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(code, namespace)
    except (Exception, SystemExit) as error:
        raise UsageError(f"the policy file {file} failed: {describe_exception(error)}") from None
    if not callable(namespace.get(name)):
        functions = [key for key, value in namespace.items() if callable(value) and not key.startswith("_")]
        hint = f"use one of its functions: {', '.join(functions)}" if functions else ""
        raise UsageError(f"function {name!r} not found in {file}", hint)
    function: Callable[..., Any] = namespace[name]
    return function


def describe_exception(error: BaseException) -> str:
    """The type, the message and the line of an error in a user's file, in one line of text."""
    text = ellipsize(str(error), 200)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    line = _line(error)
    return f"{message} (line {line})" if line else message


def _line(error: BaseException) -> int:
    """The line that raised the error in the user's file; 0 if it is unknown.

    The user's file is the first one in the traceback that is not part of llmcli. Of its frames the last one counts;
    the frames of libraries that it calls come later.
    """
    trace, file, line = error.__traceback__, "", 0
    while trace:
        filename = trace.tb_frame.f_code.co_filename
        if not file and not filename.startswith(_PACKAGE):
            file = filename
        if filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
