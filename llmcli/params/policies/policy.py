"""Temperature policies as objects: called with the step of a token, a policy gives its temperature."""

import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import read_limited
from llmcli.params.param import format_value
from llmcli.params.policies.rules import BUILTIN, Function, TokenStep
from llmcli.text import ellipsize

ENTRY_POINTS = "llmcli.temperature_policies"  # the entry point group for packages with policies
_PACKAGE = str(Path(__file__).parents[2]) + os.sep  # the folder of llmcli's own code
# The text of a policy by its form; all other forms are NAME:ARGUMENT,ARGUMENT.
_TEXTS = {"schedule": "{name}:{0}->{1}@{2}", "split": "think={0},answer={1}", "clamp": "{0},clamp={1}..{2}"}


class Policy:
    """A temperature policy."""

    def __call__(self, step: TokenStep) -> float:
        """The temperature of the token; 0 is greedy."""
        raise NotImplementedError

    def explain(self, _step: TokenStep) -> str:
        """The part of the policy that the token uses, such as "0.7" of "think=1,answer=0.7"."""
        return str(self)

    def load(self) -> None:
        """Load the functions of users.

        Raises:
            UsageError: when one cannot be loaded, or does not accept its arguments.
        """


@dataclass(frozen=True)
class Fixed(Policy):
    """The same temperature for each token; 0 is greedy."""

    value: float

    def __call__(self, _step: TokenStep) -> float:
        return self.value

    def __str__(self) -> str:
        return format_value(self.value)


@dataclass(frozen=True)
class Entropy(Policy):
    """low + (high - low) * (H / Hmax) ^ exponent, with Hmax = ln(candidates); `low` for a single candidate.

    Source: llama.cpp `llama_sampler_temp_ext` (which leaves a single candidate alone), KoboldCpp `sample_entropy`. H is
    in nats over the live candidates.
    """

    low: float
    high: float
    exponent: float = 1.0

    def __call__(self, step: TokenStep) -> float:
        return self.at(step.entropy, step.candidates)

    def at(self, nats: float, candidates: int) -> float:
        """The temperature for an entropy in nats over `candidates` tokens."""
        if candidates < 2:
            return self.low
        return self.low + (self.high - self.low) * math.pow(min(nats / math.log(candidates), 1.0), self.exponent)

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else "^" + format_value(self.exponent)
        return f"{format_value(self.low)}..{format_value(self.high)}{power}"


@dataclass(frozen=True)
class PolicySource:
    """Where the function of a user's policy is: `origin` names its file or package in errors."""

    origin: str
    load: Callable[[], Any]


@dataclass(frozen=True)
class PolicyCall(Policy):
    """A policy by name with its arguments: numbers or other policies, and options.

    The name is that of a built-in policy or of a user's function; `bind` adds the source of that function.
    """

    name: str
    args: tuple[float | Policy, ...] = ()
    options: tuple[tuple[str, float], ...] = ()
    source: PolicySource | None = field(default=None, compare=False, repr=False)

    def __call__(self, step: TokenStep) -> float:
        value: float = self._function(step, *self.args, **dict(self.options))
        return value

    def explain(self, step: TokenStep) -> str:
        rule = BUILTIN.get(self.name)
        if not rule or rule.form not in ("parts", "split"):
            return str(self)
        # Such a policy calls one of its arguments, here one that gives its text.
        return str(rule.function(step, *(part.explain for part in self.args if isinstance(part, Policy))))

    def __str__(self) -> str:
        form = BUILTIN[self.name].form if self.name in BUILTIN else "numbers"
        texts = [
            f"({arg})" if isinstance(arg, PolicyCall) and form != "clamp" else format_value(arg) for arg in self.args
        ]
        if form in _TEXTS:
            return _TEXTS[form].format(*texts, name=self.name)
        arguments = ",".join([*texts, *(f"{key}={format_value(value)}" for key, value in self.options)])
        return f"{self.name}:{arguments}" if arguments else self.name

    def load(self) -> None:
        _ = self._function
        for arg in self.args:
            if isinstance(arg, Policy):
                arg.load()

    @cached_property
    def _function(self) -> Function:
        if self.name in BUILTIN:
            return BUILTIN[self.name].function
        if not self.source:
            hint = "give its file with --temp-policy-file, or change the temperature"
            raise UsageError(f"unknown temperature policy {self.name!r}", hint)
        origin = self.source.origin
        try:
            with redirect_stdout(sys.stderr):  # what the file prints is not a part of the answer
                function = _preloaded.pop((origin, self.name), None) or self.source.load()
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # an imported package can raise anything
            reason = describe_exception(error)
            raise UsageError(f"cannot load the policy {self.name!r} of {origin}: {reason}") from None
        if not callable(function):
            raise UsageError(f"{self.name!r} of {origin} is not a function")
        try:
            signature(function).bind(None, *self.args, **dict(self.options))
        except TypeError as error:
            raise UsageError(f"{self.name!r} of {origin} does not accept the arguments of '{self}': {error}") from None
        except ValueError:  # a function written in C may have no signature
            pass
        loaded: Function = function
        return loaded


_preloaded: dict[tuple[str, str], Function] = {}  # by origin and name, for the next answer


def preload(policy: Policy) -> None:
    """Load the functions of users before the model; the next answer uses them, and later ones load them again.

    Raises:
        UsageError: when one cannot be loaded, or does not accept its arguments.
    """
    policy.load()
    if isinstance(policy, PolicyCall) and policy.source:
        _preloaded[policy.source.origin, policy.name] = policy._function
    for arg in policy.args if isinstance(policy, PolicyCall) else ():
        if isinstance(arg, Policy):
            preload(arg)


def names_in(policy: Policy) -> list[str]:
    """The names of `policy` and of all policies inside it."""
    if not isinstance(policy, PolicyCall):
        return []
    return [policy.name, *(name for arg in policy.args if isinstance(arg, Policy) for name in names_in(arg))]


def bind(policy: Policy, file: str | None) -> Policy:
    """`policy` with the sources of users' functions in it; `file` is the setting `temp_policy_file`."""
    if not isinstance(policy, PolicyCall) or BUILTIN.keys() >= {*names_in(policy)}:
        return policy
    source = policy.source or (None if policy.name in BUILTIN else find_source(policy.name, file))
    args = tuple(bind(arg, file) if isinstance(arg, Policy) else arg for arg in policy.args)
    return replace(policy, args=args, source=source)


def find_source(name: str, file: str | None) -> PolicySource | None:
    """The function `name` of the FILE.py:NAME in `file`, or of an installed package."""
    path, _, function = (file or "").rpartition(":")
    if name == function:
        return PolicySource(path, partial(load_function, path, name))
    from importlib.metadata import entry_points  # takes 10 ms, so only for the names of users' functions

    point = next((point for point in entry_points(group=ENTRY_POINTS) if point.name == name), None)
    return PolicySource(point.dist.name if point.dist else point.value, point.load) if point else None


def parse_function_reference(text: str) -> str:
    """`text`, checked to be FILE.py:NAME; the file is not read yet."""
    file, colon, name = text.strip().rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError("FILE.py:NAME, a Python file and a function in it")
    if name in BUILTIN:
        raise ValueError(f"a function that is not named like a built-in policy ({name})")
    return f"{file}:{name}"


def load_function(file: str, name: str) -> Function:
    """Run the file and return its function `name`.

    Raises:
        UsageError: when the file cannot be read, is not valid Python, raises an error, or has no such function.
    """
    path = Path(file).expanduser()
    try:
        code = compile(read_limited(path).decode("utf-8-sig"), str(path), "exec")
    except (OSError, DiskError) as error:
        raise UsageError(f"cannot read the policy file {file}: {error_text(error)}") from None
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise UsageError(f"the policy file {file} is not valid Python: {line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8, null bytes, or nested too deep
        raise UsageError(f"the policy file {file} is not valid Python: {error}") from None
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(code, namespace)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"the policy file {file} failed: {describe_exception(error)}") from None
    if not callable(namespace.get(name)):
        functions = [key for key, value in namespace.items() if callable(value) and not key.startswith("_")]
        hint = f"use one of its functions: {', '.join(functions)}" if functions else ""
        raise UsageError(f"function {name!r} not found in {file}", hint)
    function: Function = namespace[name]
    return function


def describe_exception(error: BaseException) -> str:
    """The type, the message and the line of an error in a user's file, in one line of text."""
    from traceback import walk_tb  # takes 2 ms

    text = ""
    with suppress(BaseException):  # `__str__` is the user's code too
        text = ellipsize(str(error), 200)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # The user's file is the first one that is not part of llmcli. Of its frames the last one counts; the frames of
    # libraries that it calls come later.
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    user_file = next((file for file, _ in places if not file.startswith(_PACKAGE)), "")
    line = next((line for file, line in reversed(places) if file == user_file), 0)
    return f"{message} (line {line})" if line else message
