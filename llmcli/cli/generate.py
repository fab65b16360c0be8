"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

import json
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.chat.layering import layers_of
from llmcli.cli.options import CHAT_ONLY, both, with_settings
from llmcli.cli.settings import show_settings
from llmcli.engine.trace import Measure
from llmcli.errors import ConstraintError, DiskError, ExitStatus
from llmcli.params.inert import inert
from llmcli.params.layers import Layer, Resolved, resolve
from llmcli.params.samplers import check
from llmcli.params.settings import Settings, fields
from llmcli.ui.console import console, is_terminal
from llmcli.ui.interrupt import interruptible, time_limit
from llmcli.ui.output import aside, put
from llmcli.ui.status import Status
from llmcli.ui.stream import AnswerWriter, stream_answer
from llmcli.ui.tracing import warn_slow, writing

if TYPE_CHECKING:
    from llmcli.chat.answer import Answer

_PATIENCE = 3.0  # seconds of silence on stdin before we say that we wait for it


@with_settings(only=fields().keys() - CHAT_ONLY)
def generate(
    flags: Layer,
    text: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="The prompt; stdin is added to it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the text as it comes, or at the end.")] = True,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before the answer.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say tokens and speed on stderr.")] = False,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write how each token was drawn into this file, as JSON lines.")
    ] = None,
    heat: Annotated[
        Measure | None,
        typer.Option(help="Print the answer on stderr once more, coloured by how it was drawn."),
    ] = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print what would be evaluated, control tokens too, and stop.")
    ] = False,
) -> int:
    """Generate an answer to PROMPT, to stdin, or to both."""
    layers = command_layers(flags, text)
    asked = resolve(layers).settings
    if asked.logprobs and not as_json:
        console.warn("logprobs has no effect: it needs --json")
    check(asked)
    question, system, grammar = _texts(asked)
    from llmcli.chat.answer import Answer
    from llmcli.chat.compose import build_prompt
    from llmcli.chat.local import with_model
    from llmcli.cli.model import find_model, open_model
    from llmcli.cli.welcome import welcome
    from llmcli.engine.abort import AbortFlag

    target = find_model(asked)
    welcome(resolve(layers).origins["model"])
    resolved = with_model(target, layers)
    settings = resolved.settings
    warn_inert(resolved)
    abort, status = AbortFlag(), Status()
    with (
        interruptible(abort),
        time_limit(abort, settings.timeout),
        open_model(target, settings, abort, status) as local,
    ):
        prompt = build_prompt(local, settings, question, system)
        if show_prompt:
            put(prompt.text if prompt.text.endswith("\n") else prompt.text + "\n")
            return ExitStatus.OK
        answer = Answer(local, prompt, settings, grammar, status.reading)
        with writing(answer, trace, heat is not None):
            print_answer(answer, status, question if echo else "", as_json, stream)
    if heat:
        from llmcli.ui.heat import put_heat

        with aside(True):
            put_heat(answer.traces, heat)
    warn_slow(answer)
    for note in target.notes:
        console.warn(note)
    if stats or console.verbose:
        console.note(stats_line(answer))
    return conclude(answer)


def _texts(asked: Settings) -> tuple[str, str | None, str | None]:
    """The question, the system prompt and the grammar, from wherever they stand."""
    from llmcli.chat.compose import grammar_text, join_prompt, system_text

    question = join_prompt(asked, piped=not is_terminal(sys.stdin), read_stdin=read_stdin)
    notes: list[str] = []
    system, grammar = system_text(asked), grammar_text(asked, notes)
    for note in notes:
        console.warn(note)
    return question, system, grammar


def print_answer(answer: "Answer", status: Status, echo: str, as_json: bool, stream: bool) -> None:
    """Drive the answer to its end and write it: as it comes, at the end, or as one JSON object."""
    writer, settings = AnswerWriter(), answer.settings
    if echo and not as_json:
        writer.write(echo if settings.raw else echo + "\n\n")
    stream_answer(answer.parts(), writer, status, live=stream and not as_json, think=settings.think)
    if as_json:
        answer.local.abort.clear()
        answer.local.identity.sha256(status.identifying, answer.local.abort.is_set)
        status.clear()
    if as_json or not stream:
        writer.write(json.dumps(answer.data(), ensure_ascii=False) if as_json else answer.text)
    writer.end()


def command_layers(flags: Layer, text: str | None) -> Sequence[Layer]:
    """Config file, preset, environment and flags, lowest first; the argument counts as the flag `--prompt`."""
    prompt = both(text, flags.values.get("prompt"), "prompt")
    given = dict(flags.values)
    if prompt is not None:
        given["prompt"] = fields()["prompt"].parse_text(prompt)
    return layers_of(Layer("flag", given)).below


def warn_inert(resolved: Resolved) -> None:
    """Say which settings somebody chose and the chain ignores."""
    for key, reason in inert(resolved.settings, resolved.origins).items():
        console.warn(f"{key} (from {resolved.origins[key]}) has no effect: {reason}")
    show_settings(resolved)


def read_stdin() -> str:
    """All of stdin as UTF-8; says that it waits when nothing comes."""
    if sys.stdin is None:
        return ""
    hint = threading.Timer(_PATIENCE, console.note, ["reading the prompt from stdin; end it with Ctrl-D"])
    hint.daemon = True
    hint.start()
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    except OSError as error:
        raise DiskError(f"cannot read stdin: {error.strerror}") from None
    finally:
        hint.cancel()


def stats_line(answer: "Answer") -> str:
    """Tokens, speeds, time to the first token, how it ended and the seed, in one line."""
    t = answer.timings()
    return (
        f"prompt {t['prompt_n']} tokens, {t['prompt_per_second']:.1f} tokens/s | "
        f"generated {t['predicted_n']} tokens, {t['predicted_per_second']:.1f} tokens/s | "
        f"first token {t['ttft_ms'] / 1e3:.2f} s (model {t['load_ms'] / 1e3:.2f} s) | "
        f"end: {answer.finish_reason} | seed {answer.settings.seed}"
    )


def conclude(answer: "Answer") -> int:
    """The exit status of an answer that is written.

    Raises:
        ConstraintError: when it ended before its grammar was met.
    """
    if answer.finish_reason == "interrupt":
        return ExitStatus.INTERRUPTED
    if answer.finish_reason == "timeout":
        console.note(f"stopped by --timeout after {answer.settings.timeout:g} s")
    if not answer.complete:
        raise ConstraintError("the output ended before it met its grammar", "raise --max-tokens")
    return ExitStatus.OK
