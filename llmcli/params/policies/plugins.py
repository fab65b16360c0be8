"""A user's policies: functions in Python files, written FILE.py:NAME."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.policy.registry import announce

_PACKAGE = str(Path(__file__).parents[2]) + os.sep  # the folder of llmcli's own code
PLACE_SHAPE = "FILE.py:NAME, a Python file and a function in it"


def parse_place(text: str) -> str:
    """`text`, checked to be FILE.py:NAME. NAME is registered as a policy; the file is not read yet.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    file, colon, name = text.strip().rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError(PLACE_SHAPE)
    announce(name, file, lambda: load(file, name))
    return f"{file}:{name}"


def name_of(place: str) -> str:
    """NAME of FILE.py:NAME."""
    return place.rpartition(":")[2]


def load(file: str, name: str) -> Callable[..., Any]:
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
        raise UsageError(f"the policy file {file} failed: {said(error)}") from None
    if not callable(namespace.get(name)):
        functions = [key for key, value in namespace.items() if callable(value) and not key.startswith("_")]
        hint = f"use one of its functions: {', '.join(functions)}" if functions else ""
        raise UsageError(f"function {name!r} not found in {file}", hint)
    function: Callable[..., Any] = namespace[name]
    return function


def said(error: BaseException) -> str:
    """The type, the message and the line of an error in a user's file, in one line of text."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:197] + "..."
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
