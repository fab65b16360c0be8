"""The entry of the program, and the one place that ends it on an error."""

import gc
import os
import sys

# Objects between two searches for cycles: imports make many objects and no garbage, and searches take 10 ms of a start.
_GARBAGE = (20_000, 20, 20)
_INTERRUPTED = 130  # ExitStatus.INTERRUPTED, for a Ctrl-C that comes before it is imported


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status. Imports are inside: Ctrl-C ends them as quietly as the rest."""
    from llmcli.cli import model_preload

    try:
        model_preload.start(arguments)  # before the other imports, which take as long as the load
        return _dispatch(arguments)
    except Exception as error:
        return _report(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        model_preload.cancel()


def _dispatch(arguments: list[str]) -> int:
    from llmcli.cli.help_texts import PROGRAM, front_page, normalize_arguments, root_help

    command: list[str] = []
    if "_LLMCLI_COMPLETE" in os.environ:
        os.environ["COLUMNS"] = "10000"  # a shell takes each line for a candidate: no help text may wrap
    else:
        arguments = normalize_arguments(arguments)
        command = arguments[:2]
        page = "" if arguments else front_page()
        if command[:1] == ["--version"]:
            from llmcli.cli.doctor import version

            page = version()
        elif command and command[0] in ("-h", "--help"):
            page = root_help()
        if page:  # without Typer
            from llmcli.ui.terminal.output import print_line

            print_line(page)
            return 0
        from llmcli.cli.usage_errors import check_command

        check_command(arguments)
        from llmcli.cli.command_line import direct_line

        if line := direct_line(arguments):
            values = line.parse()
            if isinstance(values, str):
                from llmcli.cli.help_texts import help_page
                from llmcli.ui.terminal.output import print_line

                print_line(help_page(line, everything=values == "--help-all"))
                return 0
            if values is not None:
                return _status_of(line.run(values))
    from llmcli.cli.typer_app import make_app  # Typer takes 35 ms

    return _status_of(make_app(*command)(arguments, prog_name=PROGRAM, standalone_mode=False))


def _status_of(result: object) -> int:
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    """Print an error, and return the exit status: by its message, or as a bug of the program."""
    from llmcli.errors import ExitStatus, LlmcliError, OutputClosedError
    from llmcli.ui.terminal.console import console

    if isinstance(error, OutputClosedError):  # nobody reads: no word
        return error.status
    if console.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, LlmcliError):
        console.error(str(error), error.hint)
        return error.status
    if isinstance(error, OSError):
        console.error(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitStatus.IO
    kind = type(error).__name__  # Typer does not export the classes of its parser
    if kind == "Abort":  # Typer's word for Ctrl-C
        return ExitStatus.INTERRUPTED
    if not hasattr(error, "format_message"):
        console.error(f"{kind}: {error}", "this is a bug; run again with --debug and report it")
        return ExitStatus.FAILED
    if kind == "NoArgsIsHelpError":  # a bare `llmcli models`: its message is the whole help
        from llmcli.ui.terminal.output import print_line

        print_line(error.format_message())
        return ExitStatus.OK
    from llmcli.cli.usage_errors import explain_usage_error

    console.error(*explain_usage_error(error))
    return int(getattr(error, "exit_code", ExitStatus.USAGE))


def main() -> None:
    """The console script.

    After Ctrl-C the process dies by SIGINT: a shell shows 130, and ends its loop.
    """
    gc.set_threshold(*_GARBAGE)
    try:
        from llmcli.cli import model_preload

        model_preload.is_whole_process = True
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = _INTERRUPTED
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except OSError:  # ExitStatus.IO: what was left in stdout's buffer could not be written
        status = status if status == _INTERRUPTED else 6
    if sys.getprofile() or sys.gettrace():
        sys.exit(status)
    # Python's own end takes 25 ms, frees what ends with the process, and waits for threads of a user's policy.
    if status == _INTERRUPTED and sys.platform != "win32":
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)
