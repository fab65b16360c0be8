"""`llmcli trace`: how each token of an answer was sampled, as a table, a heatmap or a plot."""

import os
from pathlib import Path
from typing import Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import Force, output_path
from llmcli.cli.stdin import piped_stdin
from llmcli.engine.events import Measure, TokenTrace
from llmcli.errors import UsageError
from llmcli.files import is_stdin, lines_of
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_text

File = Annotated[str, Argument(help="Trace file of `generate --trace FILE`; `-` reads stdin.")]


def show_trace(
    file: File,
    heat: Annotated[Measure | None, Option(help="Print the answer, each token colored by this measure.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object with the tokens and a summary.")] = False,
) -> None:
    if heat and as_json:
        raise UsageError("--heat and --json cannot be used together", "remove one of them")
    from llmcli.inference.trace_file import to_data
    from llmcli.ui.charts.heatmap import print_heat
    from llmcli.ui.charts.trace_table import print_trace, summary

    tokens = _read(file)
    if heat:
        print_heat(tokens, heat)
    elif as_json:
        print_json({"summary": summary(tokens), "tokens": [to_data(token) for token in tokens]}, indent=None)
    else:
        print_trace(tokens)


def plot_trace(
    file: File,
    output: Annotated[str, Option("--output", "-o", metavar="FILE.svg", help="File for the plot; `-` is stdout.")],
    force: Force = False,
) -> None:
    from llmcli.ui.charts.trace_plot import plot_svg
    from llmcli.ui.export_file import write

    target = None if output == "-" else output_path(output, force)
    if target and target.suffix.lower() not in ("", ".svg"):
        raise UsageError(f"unknown format of a plot: {target.name!r}", "use a name that ends in .svg")
    picture = plot_svg(_read(file), "trace" if is_stdin(file) else Path(file).name)
    if target:
        write(picture, target)
    else:
        print_text(picture)


def _read(file: str) -> list[TokenTrace]:
    from llmcli.inference.trace_file import parse_trace, read_trace

    if not file.strip():
        raise UsageError("the file name is empty", "give the name of a file")
    notes: list[str] = []
    if is_stdin(file):
        with piped_stdin("pipe in a trace, or give a file") as stdin:
            tokens = parse_trace(lines_of(stdin), "stdin", notes)
    else:
        tokens = read_trace(Path(os.path.expanduser(file)), notes)
    for note in notes:
        console.warn(note)
    if not tokens:
        name = "stdin" if is_stdin(file) else file
        raise UsageError(f"{name} contains no tokens", "create a trace with `llmcli generate --trace FILE`")
    return tokens
