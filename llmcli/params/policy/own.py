"""Policies of the user's own: a function of a Python file, named FILE.py:NAME."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.policy.registry import announce


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
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except OSError as error:
        raise UsageError(f"cannot read the policy file {file}: {error.strerror or error}") from None
    except SyntaxError as error:
        raise UsageError(f"the policy file {file} does not parse: line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # no UTF-8, or null bytes
        raise UsageError(f"the policy file {file} is no Python: {error}") from None
    space: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(code, space)
    except Exception as error:
        raise UsageError(f"the policy file {file} failed: {said(error)}") from None
    if not callable(space.get(name)):
        functions = [key for key, value in space.items() if callable(value) and not key.startswith("_")]
        raise UsageError(
            f"there is no function {name} in {file}", f"it has {', '.join(functions)}" if functions else ""
        )
    function: Callable[..., Any] = space[name]
    return function


def said(error: BaseException) -> str:
    """What went wrong and in which line, in one line."""
    trace, place = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename.endswith(".py"):
            place = f" (line {trace.tb_lineno})"
        trace = trace.tb_next
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}{place}"
