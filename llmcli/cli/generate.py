"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

import json
import os
import stat
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from llmcli.cli.options import CHAT_ONLY, argument_or_flag, with_settings
from llmcli.config.presets import layers_of
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, DiskError, ExitStatus, UsageError
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, ResolvedSettings, Settings, fields, ineffective_settings, resolve
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.interrupt import interruptible, time_limit
from llmcli.ui.terminal.output import AnswerWriter, print_text, stream_answer, to_stderr, warn_slow, write_trace
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine

_PATIENCE = 3.0  # seconds without input on stdin before a note says that the program waits
_END = "; end it with Ctrl-D"

PromptArgument = Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="Prompt text; stdin is added to it.")]
NoStdin = Annotated[bool, typer.Option("--no-stdin", help="Do not read stdin (the input of a shell loop).")]


@with_settings(only=fields().keys() - CHAT_ONLY)
def generate(
    flags: Layer,
    text: PromptArgument = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print text, counts and settings as one JSON object (JSON from the model: --json-schema).",
        ),
    ] = False,
    stream: Annotated[bool, typer.Option(help="Streaming: print the text as it is generated, or at the end.")] = True,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before the answer.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print token counts and speed to stderr.")] = False,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON Lines file for the trace: how each token was sampled.")
    ] = None,
    heat: Annotated[
        Measure | None,
        typer.Option(help="Print the answer again to stderr, each token colored by this measure."),
    ] = None,
    show_prompt: Annotated[
        bool,
        typer.Option("--show-prompt", help="Print the rendered prompt with special tokens, then exit."),
    ] = False,
    no_stdin: NoStdin = False,
) -> int:
    """Generate an answer to PROMPT, to stdin, or to both."""
    layers = command_layers(flags, text)
    asked = resolve(layers).settings
    if asked.logprobs and not as_json:
        console.warn("logprobs has no effect: it needs --json", "to see probabilities, use --heat p or --trace FILE")
    check_chain(asked)
    question, system, grammar = _texts(asked, no_stdin)
    from llmcli.cli.open_model import find_model, open_model, welcome
    from llmcli.engine.events import Cancellation
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Request
    from llmcli.inference.request import build_prompt, needs_plain_template, with_plain_stop
    from llmcli.inference.resolved_model import apply_model_defaults

    target = find_model(asked)
    welcome(resolve(layers).origins["model"])
    resolved = apply_model_defaults(target.layer, layers)
    settings = resolved.settings
    _warn_ineffective(resolved)
    abort, status = Cancellation(), ProgressLine()
    with (
        interruptible(abort),
        time_limit(abort, settings.timeout),
        open_model(target, settings, abort, status) as local,
    ):
        if needs_plain_template(local, settings):
            warn_plain_template(local)
            settings = with_plain_stop(settings)
        prompt = build_prompt(local, settings, question, system)
        if show_prompt:
            print_text(prompt.text if prompt.text.endswith("\n") else prompt.text + "\n")
            return ExitStatus.OK
        answer = Answer(local, Request(prompt, settings, grammar, status.reading, cancellation=abort))
        with write_trace(answer, trace, heat is not None):
            _print_answer(answer, status, question if echo else "", as_json, stream)
    if heat:
        from llmcli.ui.charts.heatmap import print_heat

        with to_stderr(True):
            print_heat(answer.traces, heat)
    warn_slow(answer)
    for note in target.notes:
        console.warn(note)
    if stats or console.verbose:
        console.note(_stats_line(answer))
    return _exit_status(answer)


def _texts(settings: Settings, no_stdin: bool) -> tuple[str, str | None, str | None]:
    """The question, the system prompt and the grammar, from text or files."""
    from llmcli.inference.request import grammar_text, join_prompt, system_text

    question = join_prompt(settings, reads_stdin(settings, no_stdin), partial(read_prompt, settings))
    notes: list[str] = []
    system, grammar = system_text(settings), grammar_text(settings, notes)
    for note in notes:
        console.warn(note)
    return question, system, grammar


def warn_plain_template(local: "Engine") -> None:
    """Warn that the model has no chat template."""
    console.warn(
        f"{local.name} has no chat template: a plain one is used (User: ... Assistant: ...)",
        "use --raw to complete the prompt as it is, or give a template with --chat-template",
    )


def _print_answer(answer: "Answer", status: ProgressLine, echo: str, as_json: bool, stream: bool) -> None:
    """Generate the answer to its end and write it: as it comes, at the end, or as one JSON object."""
    writer, settings = AnswerWriter(), answer.settings
    if echo and not as_json:
        writer.write(echo if settings.raw else echo + "\n\n")
    stream_answer(answer.parts(), writer, status, live=stream and not as_json, think=settings.think)
    if as_json:
        cancellation = answer.request.cancellation
        cancellation.clear()
        answer.engine.identify(status.identifying, cancellation)
        status.clear()
    if as_json or not stream:
        from llmcli.inference.answer_json import answer_data

        writer.write(json.dumps(answer_data(answer), ensure_ascii=False) if as_json else answer.text)
    writer.end()


def command_layers(flags: Layer, text: str | None) -> Sequence[Layer]:
    """Config file, preset, environment and flags, lowest first; the argument counts as the flag `--prompt`."""
    prompt = argument_or_flag(text, flags.values.get("prompt"), "prompt")
    given = dict(flags.values)
    if prompt is not None:
        given["prompt"] = fields()["prompt"].parse_text(prompt)
    return layers_of(Layer("flag", given)).below


def _warn_ineffective(resolved: ResolvedSettings) -> None:
    """Warn of each chosen setting that has no effect, and show the settings with `--verbose`."""
    for key, reason in ineffective_settings(resolved.settings, resolved.origins).items():
        console.warn(f"{key} (from {resolved.origins[key]}) has no effect: {reason}")
    from llmcli.cli.open_model import print_settings  # loads the engine, which --help and completion do without

    print_settings(resolved)


def reads_stdin(settings: Settings, no_stdin: bool) -> bool:
    """Whether stdin, which is not a terminal, is added to the prompt.

    Raises:
        UsageError: when stdin is asked for and forbidden.
    """
    if no_stdin and _names_stdin(settings):
        raise UsageError("--no-stdin and '-' (stdin) cannot be used together", "remove one of them")
    return not no_stdin and not is_terminal(sys.stdin)


def read_prompt(settings: Settings) -> str:
    """All of stdin as a part of the prompt; warns if it is probably the input of a shell loop."""
    added = not _names_stdin(settings) and bool(settings.prompt or settings.file)
    if added and _is_half_read(sys.stdin):
        console.warn(
            "the rest of stdin becomes part of this prompt: in a shell loop, this is the input of the loop",
            "add --no-stdin to keep stdin for the loop, or `-f -` to read it without this warning",
            always=True,
        )
    return read_stdin(", which is added to the prompt; use --no-stdin to ignore it" if added else _END)


def _names_stdin(settings: Settings) -> bool:
    return "-" in (settings.prompt, *settings.file)


def _is_half_read(stream: TextIO | None) -> bool:
    """Whether this is a regular file of which another program has read the beginning."""
    if stream is None:
        return False
    try:
        descriptor = stream.fileno()
        about = os.fstat(descriptor)
        return stat.S_ISREG(about.st_mode) and 0 < os.lseek(descriptor, 0, os.SEEK_CUR) < about.st_size
    except (OSError, ValueError):
        return False


def read_stdin(hint: str = _END) -> str:
    """All of stdin as UTF-8; without input, a note that ends with `hint` says that the program waits."""
    if sys.stdin is None:
        return ""
    note = threading.Timer(_PATIENCE, console.note, [f"waiting for stdin{hint}"])
    note.daemon = True
    note.start()
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    except OSError as error:
        raise DiskError(f"cannot read stdin: {error.strerror}") from None
    finally:
        note.cancel()


def _stats_line(answer: "Answer") -> str:
    """Tokens, speeds, time to the first token, finish reason and seed, in one line."""
    t = answer.timings()
    return (
        f"prompt {t['prompt_n']} tokens, {t['prompt_per_second']:.1f} tokens/s | "
        f"generated {t['predicted_n']} tokens, {t['predicted_per_second']:.1f} tokens/s | "
        f"first token {t['ttft_ms'] / 1e3:.2f} s (model {t['load_ms'] / 1e3:.2f} s) | "
        f"end: {answer.finish_reason} | seed {answer.settings.seed}"
    )


def _exit_status(answer: "Answer") -> int:
    """The exit status of an answer that is written; prints a note if a limit ended it.

    Raises:
        ConstraintError: when it ended before its grammar was met.
    """
    reason, settings = answer.finish_reason, answer.settings
    if reason == "interrupt":
        return ExitStatus.INTERRUPTED
    if reason == "timeout":
        console.note(timeout_note(settings))
        return ExitStatus.TIMEOUT
    if not answer.record.is_complete:
        raise ConstraintError("the answer ended before it met the constraint", "raise --max-tokens")
    if reason == "length" and settings.max_tokens:
        console.note(_cut_note(answer))
    return ExitStatus.OK


def timeout_note(settings: Settings) -> str:
    """What stopped an answer, or several."""
    return f"stopped by --timeout after {settings.timeout:g} s"


def _cut_note(answer: "Answer") -> str:
    """Why the answer ended before the model ended it."""
    settings, n_ctx = answer.settings, answer.record.n_ctx
    if 0 <= settings.max_tokens <= answer.timings()["predicted_n"]:
        return f"cut off: max_tokens is {settings.max_tokens}; raise it with -n"
    size = f" of {n_ctx} tokens" if n_ctx else ""
    return f"cut off: the context{size} is full" + ("; raise it with -c" if settings.n_ctx else "")
