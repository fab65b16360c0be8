"""The entry of the program, and the one place that catches errors and exits."""

import os
import sys
from typing import Any

from llmcli.cli import headstart
from llmcli.errors import ExitStatus, LlmcliError, ReaderGoneError
from llmcli.ui.console import console
from llmcli.ui.output import put_line


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    if not _completing():
        headstart.begin(arguments)
    try:
        return _run(arguments)
    finally:
        headstart.end()


def _run(arguments: list[str]) -> int:
    """Errors are told here and nowhere else."""
    wanted = "" if _completing() else next((word for word in arguments if not word.startswith("-")), "")
    try:
        from llmcli.cli.tree import PROGRAM, make_app  # Typer takes 50 ms, while the model is loading already

        return _status(make_app(wanted)(arguments, prog_name=PROGRAM, standalone_mode=False))
    except ReaderGoneError as error:
        return error.status
    except LlmcliError as error:
        _debug(error)
        console.error(str(error), error.hint)
        return error.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except OSError as error:
        _debug(error)
        console.error(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitStatus.IO
    except Exception as error:
        _debug(error)
        return _tell(error)


def _completing() -> bool:
    return "_LLMCLI_COMPLETE" in os.environ


def _status(result: Any) -> int:
    return result if isinstance(result, int) else ExitStatus.OK


def _tell(error: Exception) -> int:
    """Typer's own errors (bad flags) by their message, anything else as the fault of the program that it is."""
    message = getattr(error, "format_message", None)
    if message is None:
        if type(error).__name__ == "Abort":  # Typer's word for Ctrl-C at a question
            return ExitStatus.INTERRUPTED
        console.error(f"{type(error).__name__}: {error}", "this is a bug; run again with --debug and report it")
        return ExitStatus.FAILED
    if type(error).__name__ == "NoArgsIsHelpError":  # a bare `llmcli`: its message is the whole help
        put_line(message())
        return ExitStatus.USAGE
    text = " ".join(message().split()).rstrip(".")
    place = getattr(getattr(error, "ctx", None), "command_path", "llmcli")
    console.error(text[:1].lower() + text[1:], "" if text.endswith("?") else f"see {place} --help")
    return int(getattr(error, "exit_code", ExitStatus.USAGE))


def _debug(error: BaseException) -> None:
    if console.debug:
        import traceback

        traceback.print_exception(error)


def main() -> None:
    """The console script."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        status = status or ExitStatus.IO
    sys.exit(status)
