"""Policies of the user's own: a function of a Python file, named FILE.py:NAME."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.policy.registry import announce

_PROGRAM = str(Path(__file__).parents[2]) + os.sep


def parse_place(text: str) -> str:
    """FILE.py:NAME, made known under NAME; nothing of the file is read yet.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    file, colon, name = text.strip().rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError("FILE.py:NAME, a Python file and a function of it")
    announce(name, file, lambda: load(file, name))
    return f"{file}:{name}"


def name_of(place: str) -> str:
    """The name of FILE.py:NAME."""
    return place.rpartition(":")[2]


def load(file: str, name: str) -> Callable[..., Any]:
    """Run the file and return its function.

    Raises:
        UsageError: when it cannot be read, does not parse, raises, or has no such function.
    """
    path = Path(file).expanduser()
    try:
        code = compile(path.read_text(encoding="utf-8-sig"), str(path), "exec")
    except OSError as error:
        raise UsageError(f"cannot read the policy file {file}: {error.strerror or error}") from None
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise UsageError(f"the policy file {file} does not parse: {line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # no UTF-8, null bytes, or nested without end
        raise UsageError(f"the policy file {file} is no Python: {error}") from None
    space: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(code, space)
    except (Exception, SystemExit) as error:
        raise UsageError(f"the policy file {file} failed: {said(error)}") from None
    if not callable(space.get(name)):
        functions = [key for key, value in space.items() if callable(value) and not key.startswith("_")]
        raise UsageError(
            f"there is no function {name} in {file}", f"it has {', '.join(functions)}" if functions else ""
        )
    function: Callable[..., Any] = space[name]
    return function


def said(error: BaseException) -> str:
    """What went wrong and in which line of the file of the user's own, in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    line = _line(error)
    return f"{type(error).__name__}{': ' + text if text else ''}{f' (line {line})' if line else ''}"


def _line(error: BaseException) -> int:
    """The last line of the first file on the way to the error that is none of ours; 0 when there is none."""
    trace, file, line = error.__traceback__, "", 0
    while trace:
        at = trace.tb_frame.f_code.co_filename
        if not file and not at.startswith(_PROGRAM):
            file = at
        if at == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
