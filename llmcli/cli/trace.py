"""`llmcli trace`: what sampling did to each token of an answer, as a table, in colours or as a picture."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmcli.engine.trace import TokenTrace
from llmcli.errors import DiskError, ExitStatus, UsageError
from llmcli.ui.console import console, is_terminal
from llmcli.ui.output import put, put_line

app = typer.Typer(help="Show and draw the traces of answers.", no_args_is_help=True, rich_markup_mode=None)


class By(StrEnum):
    """What `--heat` can colour by."""

    temperature = "temperature"
    p = "p"
    entropy = "entropy"


File = Annotated[
    str, typer.Argument(metavar="FILE", help="A trace, as `generate --trace FILE` writes it; `-` is stdin.")
]


@app.command("show")
def show_trace(
    file: File,
    heat: Annotated[By | None, typer.Option("--heat", help="Print the answer, each token coloured by this.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> int:
    """Print a row for each token: its probability, temperature and entropy, and what else could have come."""
    if heat and as_json:
        raise UsageError("--heat and --json cannot be used together", "keep one of them")
    tokens = _read(file)
    if heat:
        from llmcli.ui.heat import put_heat

        put_heat(tokens, heat.value)
        return ExitStatus.OK
    from llmcli.ui.trace_table import put_trace, summary

    if as_json:
        from llmcli.chat.trace_file import to_data

        data = {"summary": summary(tokens), "tokens": [to_data(token) for token in tokens]}
        put_line(json.dumps(data, ensure_ascii=False))
    else:
        put_trace(tokens)
    return ExitStatus.OK


@app.command("plot")
def plot_trace(
    file: File,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.svg", help="Where to; `-` is stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> int:
    """Draw temperature, entropy and probability over the tokens as a picture (SVG)."""
    from llmcli.ui.document import write
    from llmcli.ui.plot import plot_svg

    target = Path(os.path.expanduser(output))
    if output != "-" and os.path.exists(target) and not force:
        raise UsageError(f"{target} is there already", "choose another name, or --force")
    picture = plot_svg(_read(file), "trace" if file == "-" else Path(file).name)
    if output == "-":
        put(picture)
    else:
        write(picture, target)
    return ExitStatus.OK


def _read(file: str) -> list[TokenTrace]:
    """The tokens of a file or of stdin."""
    from llmcli.chat.trace_file import read_trace

    notes: list[str] = []
    tokens = _read_stdin(notes) if file == "-" else read_trace(Path(os.path.expanduser(file)), notes)
    for note in notes:
        console.warn(note)
    if not tokens:
        raise UsageError(f"{'stdin' if file == '-' else file} holds no token of a trace")
    return tokens


def _read_stdin(notes: list[str]) -> list[TokenTrace]:
    from llmcli.chat.journal import lines_of
    from llmcli.chat.trace_file import parse_trace

    if sys.stdin is None or is_terminal(sys.stdin):
        raise UsageError("there is no trace on stdin", "pipe one in, or name a file")
    try:
        return parse_trace(lines_of(sys.stdin.buffer), "stdin", notes)
    except OSError as error:
        raise DiskError(f"cannot read stdin: {error.strerror}") from None
