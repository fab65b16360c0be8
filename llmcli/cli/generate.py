"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmcli.cli.options import CHAT_ONLY, with_settings
from llmcli.cli.questions import NoStdin, PromptArgument, command_layers, exit_status, requests_of, warn_plain_template
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.engine.events import Measure
from llmcli.errors import ExitStatus
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import (
    AnswerWriter,
    print_json,
    print_text,
    stream_answer,
    to_stderr,
    warn_ineffective,
    warn_slow,
    write_trace,
)
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Prompt
    from llmcli.inference.answer import Answer
    from llmcli.inference.decision import ChoiceSet, Decision
    from llmcli.inference.engine import Engine


@with_settings(only=fields().keys() - CHAT_ONLY)
@stdin_as_file()
def generate(
    flags: Layer,
    text: PromptArgument = None,
    as_json: Annotated[
        bool,
        Option(
            "--json", help="Print text, counts and settings as one JSON object (JSON from the model: --json-schema)."
        ),
    ] = False,
    stream: Annotated[bool, Option(help="Streaming: print the text as it is generated, or at the end.")] = True,
    echo: Annotated[bool, Option("--echo", help="Print the prompt before the answer.")] = False,
    stats: Annotated[bool, Option("--stats", help="Print token counts and speed to stderr.")] = False,
    trace: Annotated[
        str | None, Option(metavar="FILE", help="JSON Lines file for the trace: how each token was sampled.")
    ] = None,
    heat: Annotated[
        Measure | None, Option(help="Print the answer again to stderr, each token colored by this measure.")
    ] = None,
    show_prompt: Annotated[
        bool, Option("--show-prompt", help="Print the rendered prompt with special tokens, then exit.")
    ] = False,
    no_stdin: NoStdin = False,
) -> int:
    first = resolve(command_layers(flags, text))
    asked = first.settings
    if asked.logprobs and not as_json:
        console.warn("logprobs has no effect: it needs --json", "to see probabilities, use --heat p or --trace FILE")
    if "trace_top" in flags.values and trace is None:
        console.warn("trace_top has no effect: it needs --trace", "record a trace with --trace FILE")
    from llmcli.inference.request import join_prompt, read_question

    choice_set = _read_choice_set(asked, trace, heat) if asked.is_decision else None
    piped = reads_stdin(asked, no_stdin)
    question = read_question(first, join_prompt(asked, piped, partial(read_prompt, asked)), console.note)
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome  # these load the engine
    from llmcli.inference.answer import Answer

    target = find_model(asked)
    welcome(first.origins["model"])
    question = question.over(target.layer)
    warn_ineffective(question.resolved)
    print_settings(question.resolved)
    status = ProgressLine()
    with open_model(target, question.settings, status) as (engine, cancellation):
        if choice_set:
            from llmcli.inference.decision import decide, decision_prompt

            warn_plain_template(engine, [question])
            posed = engine, question.settings, choice_set, question.text, question.system, cancellation
            if show_prompt:
                _print_prompt(decision_prompt(*posed))
            else:
                _print_decision(engine, decide(*posed), question.text if echo else "", as_json, stats)
            return ExitStatus.OK
        (request,) = requests_of(engine, [question], cancellation)
        if show_prompt:
            _print_prompt(request.prompt)
            return ExitStatus.OK
        request.progress = status.reading
        answer = Answer(engine, request)
        with write_trace(answer, trace, heat is not None):
            _print_answer(answer, status, question.text if echo else "", as_json, stream)
    return _report(answer, heat, stats)


def _read_choice_set(settings: Settings, trace: str | None, heat: Measure | None) -> "ChoiceSet | None":
    from llmcli.inference.decision import read_choice_set  # loads the engine

    if trace or heat:
        console.warn(f"{'trace' if trace else 'heat'} has no effect: a decision is scored, not sampled")
    return read_choice_set(settings)


def _print_prompt(prompt: "Prompt") -> None:
    print_text(prompt.text.removesuffix("\n") + "\n")


def _print_decision(engine: "Engine", decision: "Decision", echo: str, as_json: bool, stats: bool) -> None:
    if as_json:
        from llmcli.inference.answer_json import decision_data

        print_json(decision_data(engine, decision), indent=None)
    else:
        print_text((f"{echo}\n\n" if echo else "") + decision.text + "\n")
    if stats or console.verbose:
        n_tokens, best = len(decision.prompt.tokens), decision.choice
        console.note(
            f"prompt {n_tokens} tokens | {len(decision.choices)} choices | {decision.elapsed_ms / 1e3:.2f} s "
            f"(model {engine.load_ms / 1e3:.2f} s) | {best.value}: {best.probability:.1%}",
            always=stats,
        )


def _print_answer(answer: "Answer", status: ProgressLine, echo: str, as_json: bool, stream: bool) -> None:
    """Generate the answer to its end and write it: as it comes, at the end, or as one JSON object."""
    writer, settings = AnswerWriter(), answer.settings
    if echo and not as_json:
        writer.write(echo if settings.raw else echo + "\n\n")
    stream_answer(answer.parts(), writer, status, live=stream and not as_json, think=settings.think)
    if as_json:
        from llmcli.inference.answer_json import answer_data

        cancellation = answer.request.cancellation
        cancellation.clear()
        answer.engine.identify(status.identifying, cancellation)
        status.clear()
        print_json(answer_data(answer), indent=None)
        return
    if not stream:
        writer.write(answer.text)
    writer.end()


def _report(answer: "Answer", heat: Measure | None, stats: bool) -> int:
    """Print what stderr tells of an answer, and return its exit status."""
    if heat:
        from llmcli.ui.charts.heatmap import print_heat

        with to_stderr(True):
            print_heat(answer.traces, heat)
    warn_slow(answer)
    reason, settings, t = answer.finish_reason, answer.settings, answer.timings()
    if stats or console.verbose:
        console.note(
            f"prompt {t['prompt_n']} tokens, {t['prompt_per_second']:.1f} tokens/s | "
            f"generated {t['predicted_n']} tokens, {t['predicted_per_second']:.1f} tokens/s | "
            f"first token {t['ttft_ms'] / 1e3:.2f} s (model {t['load_ms'] / 1e3:.2f} s) | "
            f"end: {reason} | seed {settings.seed}",
            always=stats,
        )
    status = exit_status([answer])
    if reason == "length" and 0 < settings.max_tokens <= t["predicted_n"] and not answer.fills_context:
        console.note(f"cut off: max_tokens is {settings.max_tokens}; raise it with -n")
    elif reason == "length" and settings.max_tokens:
        size = f" of {answer.record.n_ctx} tokens" if answer.record.n_ctx else ""
        console.note(f"cut off: the context{size} is full" + ("; raise it with -c" if settings.n_ctx else ""))
    return status
