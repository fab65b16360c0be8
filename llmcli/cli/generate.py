"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from llmcli.cli.options import CHAT_ONLY, prompt_of, with_settings
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.config.presets import layers_of
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, ExitStatus
from llmcli.params.sampler_chain import check_chain
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
    from llmcli.engine.events import Cancellation, Request
    from llmcli.inference.decision import Decision, Question
    from llmcli.inference.engine import Answer, Engine

PromptArgument = Annotated[str | None, Argument(metavar="[PROMPT]", help="Prompt text; stdin is added to it.")]
NoStdin = Annotated[bool, Option("--no-stdin", help="Do not read stdin (the input of a shell loop).")]


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
    check_chain(asked)
    from llmcli.inference.constraints import read_constraint
    from llmcli.inference.decision import read_question
    from llmcli.inference.request import join_prompt, system_text

    decided = read_question(asked)
    if decided and (trace or heat):
        console.warn(f"{'trace' if trace else 'heat'} has no effect: a decision is scored, not sampled")
    question = join_prompt(asked, reads_stdin(asked, no_stdin), partial(read_prompt, asked))
    system, constraint = system_text(asked), read_constraint(asked, console.note)
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome  # these load the engine
    from llmcli.inference.engine import Answer

    target = find_model(asked)
    welcome(first.origins["model"])
    resolved = first.over(target.layer).with_seed()
    warn_ineffective(resolved)
    print_settings(resolved)
    status = ProgressLine()
    with open_model(target, resolved.settings, status) as (engine, cancellation):
        if decided:
            decision = _decide(engine, resolved.settings, decided, question, system, cancellation, show_prompt)
            if decision:
                _print_decision(engine, decision, question if echo else "", as_json, stats)
            return ExitStatus.OK
        request = _request(engine, resolved.settings, question, system, cancellation)
        if show_prompt:
            print_text(request.prompt.text.removesuffix("\n") + "\n")
            return ExitStatus.OK
        request.constraint, request.progress = constraint, status.reading
        answer = Answer(engine, request)
        with write_trace(answer, trace, heat is not None):
            _print_answer(answer, status, question if echo else "", as_json, stream)
    return _report(answer, heat, stats)


def _request(
    engine: "Engine", settings: Settings, question: str, system: str | None, cancellation: "Cancellation"
) -> "Request":
    """The request in the words of the model's chat template, or of a plain one, with a warning."""
    from llmcli.engine.events import Request
    from llmcli.inference.request import build_prompt, needs_plain_template, with_plain_stop

    if needs_plain_template(engine, settings):
        warn_plain_template(engine)
        settings = with_plain_stop(settings)
    prompt = build_prompt(engine, settings, question, system, cancellation)
    return Request(prompt, settings, cancellation=cancellation)


def warn_plain_template(engine: "Engine") -> None:
    """Warn that the model has no chat template."""
    console.warn(
        f"{engine.name} has no chat template: a plain one is used (User: ... Assistant: ...)",
        "use --raw to complete the prompt as it is, or give a template with --chat-template",
    )


def _decide(
    engine: "Engine",
    settings: Settings,
    question: "Question",
    text: str,
    system: str | None,
    cancellation: "Cancellation",
    show_prompt: bool,
) -> "Decision | None":
    """The decision about a text; only the prompt is printed if `show_prompt`."""
    from llmcli.inference.decision import decide, decision_prompt
    from llmcli.inference.request import needs_plain_template

    if needs_plain_template(engine, settings):
        warn_plain_template(engine)
    if show_prompt:
        prompt = decision_prompt(engine, settings, question, text, system, cancellation)
        print_text(prompt.text.removesuffix("\n") + "\n")
        return None
    return decide(engine, settings, question, text, system, cancellation)


def _print_decision(engine: "Engine", decision: "Decision", echo: str, as_json: bool, stats: bool) -> None:
    if as_json:
        from llmcli.inference.answer_json import decision_data

        print_json(decision_data(engine, decision), indent=None)
    else:
        print_text((f"{echo}\n\n" if echo else "") + decision.text + "\n")
    if stats or console.verbose:
        n_tokens, count = len(decision.prompt.tokens), len(decision.choices)
        console.note(
            f"prompt {n_tokens} tokens | {count} choices | {decision.elapsed_ms / 1e3:.2f} s "
            f"(model {engine.load_ms / 1e3:.2f} s) | {decision.choice.value}: {decision.choice.probability:.1%}",
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


def command_layers(flags: Layer, text: str | None) -> Sequence[Layer]:
    """Config file, preset, environment and flags, lowest first; the argument counts as the flag `--prompt`."""
    given, prompt = dict(flags.values), prompt_of(flags, text)
    if prompt is not None:
        given["prompt"] = fields()["prompt"].parse_text(prompt)
    return layers_of(Layer("flag", given)).below


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


def exit_status(answers: Sequence["Answer"]) -> int:
    """The exit status of answers that are written; a warning tells of one that is reasoning only.

    Raises ConstraintError when a constraint was not met.
    """
    from llmcli.inference.engine import REASONING_HINT

    reasons = [answer.finish_reason for answer in answers]
    if "interrupt" in reasons:
        return ExitStatus.INTERRUPTED
    if "timeout" in reasons:
        console.note(f"stopped by --timeout after {answers[0].settings.timeout:g} s")
        return ExitStatus.TIMEOUT
    for answer in answers:
        if answer.record.failure:
            return answer.record.failure.status
    for answer in answers:
        label = f"{answer.request.label}: " if answer.request.label else ""
        if failure := answer.constraint_failure():
            raise ConstraintError(f"{label}{failure}", failure.hint)
        if reason := answer.reasoning_only():
            console.warn(label + reason, REASONING_HINT)
    return ExitStatus.OK
