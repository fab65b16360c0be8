"""The entry of the program, and the one place that catches errors and exits."""

import sys
from typing import Any

_INTERRUPTED = 130  # ExitStatus.INTERRUPTED, for a Ctrl-C that comes before it is imported


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status; errors are told here and nowhere else.

    All imports happen inside, so that Ctrl-C during them ends as quietly as later.
    """
    from llmcli.cli import headstart
    from llmcli.errors import ExitStatus, LlmcliError, ReaderGoneError
    from llmcli.ui.console import console

    try:
        return _dispatch(arguments)
    except ReaderGoneError as error:
        return error.status
    except LlmcliError as error:
        _debug(error)
        console.error(str(error), error.hint)
        return error.status
    except OSError as error:
        _debug(error)
        console.error(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitStatus.IO
    except Exception as error:
        _debug(error)
        return _tell(error)
    finally:
        headstart.end()


def _dispatch(arguments: list[str]) -> int:
    import os

    from llmcli.cli import headstart

    completing = "_LLMCLI_COMPLETE" in os.environ
    if not completing:
        headstart.begin(arguments)
    from llmcli.cli.tree import PROGRAM, make_app  # Typer takes 50 ms, while the model is loading already

    wanted = "" if completing else next((word for word in arguments if not word.startswith("-")), "")
    result: Any = make_app(wanted)(arguments, prog_name=PROGRAM, standalone_mode=False)
    return result if isinstance(result, int) else 0


def _tell(error: Exception) -> int:
    """Typer's own errors (bad flags) by their message, anything else as the fault of the program that it is."""
    from llmcli.errors import ExitStatus
    from llmcli.ui.console import console
    from llmcli.ui.output import put_line

    message = getattr(error, "format_message", None)
    if message is None:
        if type(error).__name__ == "Abort":  # Typer's word for Ctrl-C
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
    from llmcli.ui.console import console

    if console.debug:
        import traceback

        traceback.print_exception(error)


def main() -> None:
    """The console script."""
    try:
        status = run(sys.argv[1:])
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except OSError:
        status = 6  # ExitStatus.IO: what was left in stdout's buffer could not be written
    sys.exit(status)
