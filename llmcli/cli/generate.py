"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from llmcli.cli.options import CHAT_ONLY, prompt_of, with_settings
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.cli.task_options import TaskName, TaskVariables, load_task
from llmcli.config.presets import layers_of
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, ExitStatus, UsageError
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import (
    AnswerWriter,
    print_diff,
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
    from llmcli.engine.events import Cancellation, Constraint
    from llmcli.inference.engine import Answer, Engine
    from llmcli.pipelines.job import Job, Result, Step

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
    task: TaskName = None,
    var: TaskVariables = None,
    diff: Annotated[bool, Option("--diff", help="With --task: print a diff of the input and the answer.")] = False,
) -> int:
    first = resolve(command_layers(flags, text))
    asked = first.settings
    if asked.logprobs and not as_json:
        console.warn("logprobs has no effect: it needs --json", "to see probabilities, use --heat p or --trace FILE")
    if "trace_top" in flags.values and trace is None:
        console.warn("trace_top has no effect: it needs --trace", "record a trace with --trace FILE")
    chosen = load_task(task, var)
    if diff and (as_json or not chosen):
        wrong = "--diff and --json cannot be used together" if chosen else "--diff has no effect without --task"
        raise UsageError(wrong, "remove --diff" if chosen else "give a task, such as --task proofread")
    check_chain(asked)
    from llmcli.inference.constraints import read_constraint
    from llmcli.inference.request import join_prompt, system_text

    question = join_prompt(asked, reads_stdin(asked, no_stdin), partial(read_prompt, asked))
    if chosen:
        first = resolve(command_layers(flags, text, chosen.layer(question, flags)))
        asked = first.settings
    system, constraint = system_text(asked), read_constraint(asked, console.note)
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome  # these load the engine
    from llmcli.inference.answer_json import answer_data
    from llmcli.pipelines.job import run_job

    target = find_model(asked)
    welcome(first.origins["model"])
    resolved = first.over(target.layer).with_seed()
    warn_ineffective(resolved)
    print_settings(resolved)
    if chosen:
        chosen.warn_of_small_model(target)
    status, shown = ProgressLine(), list["Answer"]()

    def show(_step: "Step", answer: "Answer") -> None:
        shown.append(answer)
        answer.request.progress = status.reading
        with write_trace(answer, trace, heat is not None):
            _print_answer(answer, status, question if echo else "", as_json or diff, stream)
        if as_json:
            cancellation.clear()
            engine.identify(status.identifying, cancellation)

    def progress(step: "Step", n_ended: int) -> None:
        total = len(step.requests)
        status.update(f"{step.label} {min(n_ended + 1, total)} of {total}" if step.label else "generating the answer")

    with open_model(target, resolved.settings, status) as (engine, cancellation):
        if chosen:
            job = chosen.job(engine, resolved.settings, cancellation)
        else:
            job = _one_answer(engine, resolved.settings, question, system, constraint, cancellation, as_json)
        if show_prompt:
            for request in next(job).requests:
                print_text(request.prompt.text.removesuffix("\n") + "\n")
            return ExitStatus.OK
        try:
            result = run_job(engine, job, show, progress)
        except ConstraintError:
            if not shown:
                raise
            result = answer_data(shown[-1]) if as_json else {}  # the report raises it again
        finally:
            status.clear()
        if as_json:
            print_json(result, indent=None)
        elif diff and result:
            print_diff(question, str(result["text"]))
        elif not shown:
            print_text(str(result["text"]).rstrip("\n") + "\n")
    return _report(shown[-1], heat, stats) if shown else _report_parts(result, resolved.settings, stats)


def _one_answer(
    engine: "Engine",
    settings: Settings,
    question: str,
    system: str | None,
    constraint: "Constraint | None",
    cancellation: "Cancellation",
    as_json: bool,
) -> "Job":
    """The job of a prompt, in the words of the model's chat template, or of a plain one, with a warning."""
    from llmcli.engine.events import Request
    from llmcli.inference.answer_json import answer_data
    from llmcli.inference.request import build_prompt, needs_plain_template, with_plain_stop
    from llmcli.pipelines.job import Step

    if needs_plain_template(engine, settings):
        warn_plain_template(engine)
        settings = with_plain_stop(settings)
    prompt = build_prompt(engine, settings, question, system, cancellation)
    (answer,) = yield Step([Request(prompt, settings, constraint, cancellation=cancellation)])
    return answer_data(answer) if as_json else {"text": answer.text}


def warn_plain_template(engine: "Engine") -> None:
    """Warn that the model has no chat template."""
    console.warn(
        f"{engine.name} has no chat template: a plain one is used (User: ... Assistant: ...)",
        "use --raw to complete the prompt as it is, or give a template with --chat-template",
    )


def _print_answer(answer: "Answer", status: ProgressLine, echo: str, is_silent: bool, stream: bool) -> None:
    """Generate the answer to its end and write it: as it comes, at the end, or not at all."""
    writer, settings = AnswerWriter(), answer.settings
    if echo and not is_silent:
        writer.write(echo if settings.raw else echo + "\n\n")
    stream_answer(answer.parts(), writer, status, live=stream and not is_silent, think=settings.think)
    if is_silent:
        return
    if not stream:
        writer.write(answer.text)
    writer.end()


def command_layers(flags: Layer, text: str | None, *task: Layer) -> Sequence[Layer]:
    """Config file, preset, task, environment and flags, lowest first; the argument counts as the flag `--prompt`."""
    given, prompt = dict(flags.values), prompt_of(flags, text)
    if prompt is not None:
        given["prompt"] = fields()["prompt"].parse_text(prompt)
    return layers_of(Layer("flag", given), *task).below


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


def _report_parts(result: "Result", settings: Settings, stats: bool) -> int:
    """Print what stderr tells of an answer that was made of others, and return its exit status."""
    if stats or console.verbose:
        console.note(
            f"prompts {result['prompt_tokens']} tokens | generated {result['completion_tokens']} tokens | "
            f"end: {result['finish_reason']} | seed {settings.seed}",
            always=stats,
        )
    if result["finish_reason"] == "interrupt":
        return ExitStatus.INTERRUPTED
    if result["finish_reason"] == "timeout":
        console.note(f"stopped by --timeout after {settings.timeout:g} s")
        return ExitStatus.TIMEOUT
    if result["finish_reason"] == "length":
        console.note("cut off: an answer to a part has reached max_tokens, or the end of the context")
    return ExitStatus.OK


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
