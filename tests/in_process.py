"""Runs a command line in the process of the tests, and restores the process afterwards."""

import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from tempfile import TemporaryFile
from typing import Any

import pytest
import typer.main

from llmcli.cli import app, typer_app
from llmcli.cli.typer_app import make_app
from llmcli.ui.terminal.console import Console, console
from tests.cli_result import CliResult


def run_in_process(*args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> CliResult:
    """Run a command line as `python -m llmcli` would, with streams that are files and a console as at the start."""
    handler, environment = signal.getsignal(signal.SIGINT), dict(os.environ)
    try:
        result = _run(args, stdin.encode() if isinstance(stdin, str) else stdin or b"", env or {})
    finally:
        os.environ.clear()
        os.environ.update(environment)
    assert signal.getsignal(signal.SIGINT) is handler
    return result


def _run(arguments: Sequence[str], data: bytes, env: Mapping[str, str]) -> CliResult:
    with (
        pytest.MonkeyPatch.context() as patch,
        TemporaryFile() as stdin,
        TemporaryFile() as out,
        TemporaryFile() as err,
    ):
        stdin.write(data)
        stdin.seek(0)
        for name, file in (("stdin", stdin), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, io.TextIOWrapper(file, "utf-8"))
        os.environ.update(env)
        for name, value in vars(Console()).items():
            patch.setattr(console, name, value)
        patch.setattr(typer_app, "make_app", lambda wanted="", _subcommand="": _command(wanted))
        status = _status(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        out.seek(0)
        err.seek(0)
        return CliResult(out.read(), err.read().decode(), status)


@cache
def _command(wanted: str) -> Callable[..., Any]:
    """The parser of a command, which Typer would make for each call from the signature."""
    return typer.main.get_command(make_app(wanted))


def _status(arguments: Sequence[str]) -> int:
    try:
        return app.run(list(arguments))
    except SystemExit as end:  # of completion in a shell
        return int(end.code or 0)
