"""Temperature policies of users: Python functions in a file or in an installed package."""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import read_limited
from llmcli.params.policies.rules import BUILTIN, Function
from llmcli.text import ellipsize

ENTRY_POINTS = "llmcli.temperature_policies"  # the entry point group for packages with policies
_PACKAGE = str(Path(__file__).parents[2]) + os.sep  # the folder of llmcli's own code


@dataclass(eq=False)
class PolicySource:
    """Where the function `name` of a user's policy is: `origin` names its file or package in errors.

    The first answer uses the function that a check loaded. Each later one loads it again, as its file may keep a state.
    """

    name: str
    origin: str
    load: Callable[[], object]
    checked: Function | None = None

    def function(self) -> Function:
        """The function of the policy. Raises UsageError when it cannot be loaded, or is not a function."""
        try:
            with redirect_stdout(sys.stderr):  # what the file prints is not a part of the answer
                loaded = self.checked or self.load()
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # an imported package can raise anything
            reason = describe_exception(error)
            raise UsageError(f"cannot load the policy {self.name!r} of {self.origin}: {reason}") from None
        if not callable(loaded):
            raise UsageError(f"{self.name!r} of {self.origin} is not a function")
        self.checked = None
        return loaded


def file_source(reference: str) -> PolicySource:
    """The function of a FILE.py:NAME; the file is not read yet."""
    file, _, name = reference.rpartition(":")
    return PolicySource(name, file, partial(load_function, file, name))


def package_source(name: str) -> PolicySource | None:
    """The function `name` of an installed package."""
    from importlib.metadata import entry_points  # takes 10 ms, so only for the names of users' functions

    point = next((point for point in entry_points(group=ENTRY_POINTS) if point.name == name), None)
    return PolicySource(name, point.dist.name if point.dist else point.value, point.load) if point else None


def parse_function_reference(text: str) -> str:
    """`text`, checked to be FILE.py:NAME; the file is not read yet."""
    file, colon, name = text.strip().rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError("FILE.py:NAME, a Python file and a function in it")
    if name in BUILTIN:
        raise ValueError(f"a function that is not named like a built-in policy ({name})")
    return f"{file}:{name}"


def load_function(file: str, name: str) -> Function:
    """Run the file and return its function `name`. Raises UsageError when the file fails, or has no such function."""
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
    namespace: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(code, namespace)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"the policy file {file} failed: {describe_exception(error)}") from None
    function = namespace.get(name)
    if not callable(function):
        functions = [key for key, value in namespace.items() if callable(value) and not key.startswith("_")]
        hint = f"use one of its functions: {', '.join(functions)}" if functions else ""
        raise UsageError(f"function {name!r} not found in {file}", hint)
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
