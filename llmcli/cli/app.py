"""The command line as a table of contents, and the one place that catches errors and exits."""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from llmcli import __version__
from llmcli.errors import ExitStatus, LlmcliError
from llmcli.ui.console import console

PROGRAM = "llmcli"
# name -> module and function or app of the command
COMMANDS = {
    "generate": "llmcli.cli.generate:generate",
    "tokenize": "llmcli.cli.tokenize:tokenize",
    "config": "llmcli.cli.config:app",
    "doctor": "llmcli.cli.doctor:doctor",
}


def make_app(wanted: str = "") -> typer.Typer:
    """The Typer app with the command `wanted`, or with all of them; one alone starts faster."""
    app = typer.Typer(
        name=PROGRAM,
        help="Talk to a local model from a terminal.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, place in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from llmcli.cli.doctor import version_lines

        print("\n".join([f"{PROGRAM} {__version__}", *version_lines()]))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and devices, and stop."),
    ] = False,
) -> None:
    """Talk to a local model from a terminal."""


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status; errors are told here and nowhere else."""
    wanted = "" if _completing() else next((word for word in arguments if not word.startswith("-")), "")
    try:
        return _status(make_app(wanted)(arguments, prog_name=PROGRAM, standalone_mode=False))
    except LlmcliError as error:
        _debug(error)
        console.error(str(error), error.hint)
        return error.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        from llmcli.cli.interrupt import die_of_broken_pipe

        die_of_broken_pipe()
        return ExitStatus.BROKEN_PIPE
    except OSError as error:
        _debug(error)
        console.error(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitStatus.IO
    except Exception as error:
        _debug(error)
        return _tell(error)


def _completing() -> bool:
    return f"_{PROGRAM.upper()}_COMPLETE" in os.environ


def _status(result: Any) -> int:
    return result if isinstance(result, int) else ExitStatus.OK


def _tell(error: Exception) -> int:
    """Typer's own errors (bad flags) by their message, anything else as the fault of the program that it is."""
    message = getattr(error, "format_message", None)
    if message is None:
        if isinstance(error, typer.Abort):
            return ExitStatus.INTERRUPTED
        console.error(f"{type(error).__name__}: {error}", "this is a bug; run again with --debug and report it")
        return ExitStatus.FAILED
    text = " ".join(message().split())
    if text:  # empty when the help was shown because there were no arguments
        console.error(text[:1].lower() + text[1:], f"see {PROGRAM} --help" if "--help" not in text else "")
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
