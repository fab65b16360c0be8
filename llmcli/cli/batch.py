"""`llmcli batch`: each line of a file is answered, many at a time, and can be resumed after any interruption."""

import math
import os
import re
import stat
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, NamedTuple

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import CHAT_ONLY, Force, Parallel, parse_parallel, with_settings
from llmcli.cli.stdin import stdin_as_file
from llmcli.cli.task_options import TaskName, TaskVariables, load_judge, load_task
from llmcli.config.presets import layers_of
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError, error_text
from llmcli.files import is_stdin
from llmcli.params.param import as_utf8
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.text import format_duration, plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_text
from llmcli.ui.terminal.progress import BatchProgress

if TYPE_CHECKING:
    from llmcli.cli.batch_backends import Opened
    from llmcli.pipelines.batch import Batch
    from llmcli.pipelines.batch_input import BatchReader
    from llmcli.pipelines.batch_output import BatchOutput, WrittenLine
    from llmcli.pipelines.line_worker import BatchOptions

_NOT_HERE = CHAT_ONLY | {"prompt", "file", "trace_top"}
_Form = Literal["auto", "jsonl", "openai", "csv", "text"]


@with_settings(only=fields().keys() - _NOT_HERE, lists={"endpoint"})
@stdin_as_file()
def batch(
    flags: Layer,
    source: Annotated[str, Argument(metavar="INPUT", help="File with a question on each line (`-` = stdin).")],
    output: Annotated[
        str | None, Option("--output", "-o", metavar="FILE", help="File for the answers, instead of stdout.")
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Continue an output that was interrupted.")] = False,
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Continue an output, and answer the lines that failed again.")
    ] = False,
    force: Force = False,
    template: Annotated[
        str | None,
        Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="Template of the prompts, or of the inputs of the task: {{NAME}} is a column or a key, "
            "{{input}} the text of the line.",
        ),
    ] = None,
    form: Annotated[_Form, Option("--format", help="Format of INPUT; auto = by its name and its first line.")] = "auto",
    parallel: Parallel = "auto",
    shard: Annotated[
        str, Option("--shard", metavar="I/N", help="Answer the I-th of N parts: every N-th line from line I on.")
    ] = "1/1",
    retry: Annotated[
        int,
        Option("--retry", metavar="N", min=0, max=1000, help="Tries with other seeds for a line that fails by chance."),
    ] = 0,
    any_model: Annotated[
        bool, Option("--any-model", help="Let several endpoints answer with different models.")
    ] = False,
    ray: Annotated[
        str | None,
        Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Answer with actors of a Ray cluster: HOST:PORT, auto (one that runs here), or without an address one "
            "that is started for this command.",
        ),
    ] = None,
    ray_actors: Annotated[
        int,
        Option("--ray-actors", metavar="N", min=0, help="With --ray: number of actors (0 = all there is room for)."),
    ] = 0,
    task: TaskName = None,
    var: TaskVariables = None,
    full: Annotated[
        bool, Option("--full", help="Add params, messages and replay to each line, as in `generate --json`.")
    ] = False,
) -> int:
    if ray_actors and ray is None:
        raise UsageError("--ray-actors needs --ray", "add --ray, or remove --ray-actors")
    chosen = load_task(task, var, is_complete=False)  # the other variables may come with the lines
    layers = layers_of(flags, *([chosen.task.settings] if chosen else [])).below
    asked = resolve(layers).settings
    check_chain(asked)
    from llmcli.pipelines.batch_line import check_template
    from llmcli.pipelines.line_worker import BatchOptions

    options = BatchOptions(
        template=None if template is None else as_utf8(template),
        task=chosen.task if chosen else None,
        variables=chosen.variables if chosen else {},
        judge=load_judge(asked.best) if asked.samples > 1 else None,
        retries=retry,
        retries_failed=retry_failed,
        shard=_parse_shard(shard),
        is_full=full,
        n_parallel=parse_parallel(parallel),
    )
    check_template(options.template)
    resume |= retry_failed
    path = _check_output(source, output, resume, force)
    _check_settings(asked, source, chosen.stdin_variable if chosen else "")
    files = _Files(source, form, path, resume, retry_failed, force)
    return _answer_lines(layers, options, files, _Places(any_model, ray, ray_actors))


class _Places(NamedTuple):
    """Where the lines are answered, beside what the settings say."""

    any_model: bool
    ray: str | None  # the address of a Ray cluster
    n_actors: int


class _Files(NamedTuple):
    """The input, and the output (None = stdout) with how it is opened."""

    source: str
    form: _Form
    output: Path | None
    is_resumed: bool
    is_rewritten: bool
    is_forced: bool


def _answer_lines(layers: Sequence[Layer], options: "BatchOptions", files: _Files, places: _Places) -> int:
    """Answer the lines of the input with these settings, and return the exit status."""
    from llmcli.pipelines.batch import Batch
    from llmcli.pipelines.batch_input import LineSource
    from llmcli.pipelines.batch_output import OutputFile

    n_lines = _count(files.source, options, is_needed=places.ray is not None)
    with (
        _open_input(files.source) as (file, is_slow),
        _open_backend(layers, options, places, n_lines) as (backend, cancellation, settings),
    ):
        reader = _make_reader(file, files, options, settings.encoding)
        lines, progress = LineSource(reader, is_slow, cancellation), BatchProgress(n_lines)
        output: BatchOutput
        how = files.is_resumed, files.is_rewritten, files.is_forced
        output = OutputFile(files.output, *how) if files.output else _Stdout(progress)
        show, notify = partial(_show, progress), partial(_notify, progress)
        work = Batch(backend, lines, reader, output, options, cancellation, show, notify)
        try:
            work.run()
            if not work.counts.done and reader.format is None and not cancellation.is_set():
                raise UsageError(f"{reader.name} has no lines", "write a prompt on each line")
        except LlmcliError:
            if isinstance(output, OutputFile):
                output.withdraw()
            raise
        finally:
            progress.clear()
            output.finish()
    return _report(work, files.output, is_interrupted=cancellation.is_set())


def _open_backend(
    layers: Sequence[Layer], options: "BatchOptions", places: _Places, n_lines: int | None
) -> "AbstractContextManager[Opened]":
    from llmcli.cli import batch_backends  # loads the engine

    if places.ray is not None:
        return batch_backends.open_ray(layers, options, places.ray, places.n_actors, n_lines)
    if batch_backends.has_several_endpoints(resolve(layers).settings):
        return batch_backends.open_servers(layers, options, places.any_model)
    return batch_backends.open_engine(layers, options)


def _make_reader(file: BinaryIO, files: _Files, options: "BatchOptions", encoding: str) -> "BatchReader":
    from llmcli.pipelines.batch_input import BatchReader
    from llmcli.pipelines.batch_line import check_columns

    name = "stdin" if is_stdin(files.source) else files.source
    checks = partial(check_columns, template=options.template, task=options.task, variables=options.variables)
    return BatchReader(file, name, encoding, None if files.form == "auto" else files.form, checks)


def _parse_shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard must be I/N with I between 1 and N, got {text[:40]!r}", "as in --shard 1/4")
    return int(found[1]), int(found[2])


def _check_output(source: str, name: str | None, resume: bool, force: bool) -> Path | None:
    """The path of the output file; None for stdout. Raises UsageError if it must not be written."""
    if name is None or is_stdin(name):
        if resume:
            raise UsageError("--resume and --retry-failed need --output", "name the file: -o FILE")
        return None
    if not name.strip():
        raise UsageError("the file name of --output is empty", "give the name of a file")
    if resume and force:
        raise UsageError("--force and --resume cannot be used together", "remove one of them")
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        raise UsageError(f"{name} is a folder, not a file", "give the name of a file")
    if path.exists() and not is_stdin(source) and os.path.exists(source) and path.samefile(source):
        raise UsageError("the output and the input are the same file", "give another name to --output")
    if path.is_file() and path.stat().st_size and not resume and not force:
        from llmcli.pipelines.batch_output import exists_error

        raise exists_error(path)
    return path


def _check_settings(asked: Settings, source: str, variable: str) -> None:
    """Raise UsageError for what would make each line fail, before the model is loaded."""
    from llmcli.inference.constraints import read_constraint
    from llmcli.inference.decision import read_choice_set
    from llmcli.inference.request import stdin_options

    readers = [*stdin_options(replace(asked, prompt=None, file=())), *filter(None, [variable])]
    if is_stdin(source) and readers:
        raise UsageError(f"stdin can be read only once, and two options read it: INPUT and {readers[0]}", "use a file")
    if asked.samples > 1 and asked.best is None and not asked.is_decision:
        raise UsageError("--samples needs --best in a batch: a line has one answer", "choose it with --best vote")
    if asked.is_decision:
        read_choice_set(asked)
    else:
        read_constraint(asked, console.note)


@contextmanager
def _open_input(name: str) -> Iterator[tuple[BinaryIO, bool]]:
    """The input, and whether it can be slow: all but a file on a disk. Raises DiskError."""
    try:
        if is_stdin(name):
            if sys.stdin is None:
                raise DiskError("stdin is closed", "give the name of a file")
            # A reader of its own: at the end, Python would wait for one that a thread is reading from.
            file = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
        else:
            file = open(os.path.expanduser(name), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise DiskError(f"file not found: {name}") from None
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {name}: {error_text(error)}") from None
    is_slow = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    try:
        yield file, is_slow
    finally:
        if not is_slow:  # the thread may still read from it
            file.close()


def _count(source: str, options: "BatchOptions", is_needed: bool) -> int | None:
    """The number of lines that are to be answered, if that can be known, and somebody wants to."""
    from llmcli.pipelines.batch_input import count_lines

    if is_stdin(source) or (console.quiet and not is_needed):
        return None
    total, (part, parts) = count_lines(os.path.expanduser(source)), options.shard
    return None if total is None else len(range(part - 1, total, parts))


class _Stdout:
    """Lines on stdout, each at once."""

    is_rewritten = False

    def __init__(self, progress: BatchProgress) -> None:
        self._progress = progress

    def earlier(self) -> "Generator[WrittenLine, None, None]":
        yield from ()

    def write(self, line: bytes) -> None:
        self._progress.clear()
        try:
            print_text(line.decode())
        except DiskError as error:
            error.hint = error.hint or "free some space; with --output FILE, --resume goes on"
            raise

    def finish(self) -> None: ...


def _show(progress: BatchProgress, work: "Batch") -> None:
    counts = work.counts
    progress.update(counts.done, counts.earlier, counts.failed.total(), work.n_tokens)


def _notify(progress: BatchProgress, text: str) -> None:
    progress.clear()
    console.note(text)


def _report(work: "Batch", path: Path | None, is_interrupted: bool) -> int:
    """Print the statistics and what to do next; returns the exit status."""
    counts = work.counts
    for note in work.backend.notes():
        console.warn(note)
    n_new, seconds = counts.done - counts.earlier, counts.seconds or math.inf
    speed = f"{plural(work.n_tokens, 'token')}, {work.n_tokens / seconds:.1f} tokens/s"
    if not work.n_tokens and counts.answered > counts.earlier:  # decisions
        speed = f"{n_new / seconds:.1f} lines/s"
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.failed.most_common())
    failed = f", {counts.failed.total()} failed ({kinds})" if kinds else ""
    console.note(
        f"{plural(counts.done, 'line')}: {counts.answered} answered{failed} | "
        f"{speed}, {format_duration(counts.seconds)} | "
        f"seed {work.backend.seed}"
    )
    for total in work.backend.totals():
        console.note(total)
    if is_interrupted:
        hint = "the same command with --resume goes on" if path else "with --output FILE, --resume could go on"
        console.warn(f"interrupted after {plural(counts.done, 'line')}", hint)
        return ExitStatus.INTERRUPTED
    if not counts.failed:
        return ExitStatus.OK
    _warn_failed(work, path)
    return ExitStatus.LINES_FAILED


def _warn_failed(work: "Batch", path: Path | None) -> None:
    counts, error = work.counts, work.counts.first_error
    if error and not counts.answered:
        console.warn(f"no line was answered; the first error: {error}", error.hint)
    else:
        again = "--retry-failed answers them again" if path else "see `error` in their output"
        console.warn(f"{plural(counts.failed.total(), 'line')} failed", again)
