"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmcli.cli.options import CHAT_ONLY, with_settings
from llmcli.cli.questions import NoStdin, PromptArgument, command_layers, exit_status, requests_of, warn_plain_template
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.cli.task_options import TaskName, TaskVariables, load_task
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, ExitStatus, UsageError
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.text import plural
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
    from llmcli.engine.events import Prompt, Request
    from llmcli.inference.answer import Answer
    from llmcli.inference.decision import ChoiceSet, Decision
    from llmcli.inference.engine import Engine
    from llmcli.pipelines.job import Job, Result, Step


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
    if diff and not chosen:
        raise UsageError("--diff has no effect without --task", "give a task, such as --task proofread")
    if diff and as_json:
        raise UsageError("--diff and --json cannot be used together", "remove one of them")
    from llmcli.inference.request import join_prompt, read_question

    choice_set = _read_choice_set(asked, trace, heat) if asked.is_decision and not chosen else None
    given = join_prompt(asked, reads_stdin(asked, no_stdin), partial(read_prompt, asked))
    if chosen:
        first = resolve(command_layers(flags, text, chosen.layer(given, flags)))
    question = read_question(first, given, console.note)
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome  # these load the engine
    from llmcli.inference.answer import Answer

    target = find_model(question.settings)
    welcome(first.origins["model"])
    question = question.over(target.layer)
    warn_ineffective(question.resolved)
    print_settings(question.resolved)
    if chosen:
        chosen.warn_of_small_model(target)
    status, shown = ProgressLine(), list[Answer]()

    def show(answer: Answer) -> None:
        shown.append(answer)
        answer.request.progress = status.reading
        with write_trace(answer, trace, heat is not None):
            if chosen and (as_json or diff):  # what is printed is the result
                stream_answer(answer.parts(), AnswerWriter(), status, live=False, think=question.settings.think)
                if as_json:
                    answer.request.cancellation.clear()
                    engine.identify(status.identifying, answer.request.cancellation)
                return
            _print_answer(answer, status, question.text if echo else "", as_json, stream)

    with open_model(target, question.settings, status) as (engine, cancellation):
        if choice_set:
            from llmcli.inference.decision import decide, decision_prompt

            warn_plain_template(engine, [question.settings])
            posed = engine, question.settings, choice_set, question.text, question.system, cancellation
            if show_prompt:
                _print_prompt(decision_prompt(*posed))
            else:
                _print_decision(engine, decide(*posed), question.text if echo else "", as_json, stats)
            return ExitStatus.OK
        if chosen and show_prompt:
            for prompt in chosen.prompts(engine, question.settings, cancellation):
                _print_prompt(prompt)
            return ExitStatus.OK
        if chosen:
            job = chosen.job(engine, question.settings, cancellation)
        else:
            (request,) = requests_of(engine, [question], cancellation)
            if show_prompt:
                _print_prompt(request.prompt)
                return ExitStatus.OK
            job = _one_answer(request)
        result = _run(engine, job, show, shown, status)
        if chosen:
            _print_result(result, question.text, as_json, diff, echo, is_shown=bool(shown))
    if shown:
        return _report(shown[-1], heat, stats)
    if trace or heat:
        console.warn(f"{'trace' if trace else 'heat'} has no effect: the answer has several parts, or was computed")
    return _report_parts(result, question.settings, stats)


def _one_answer(request: "Request") -> "Job":
    """The job of a prompt without a task."""
    from llmcli.pipelines.job import Step

    yield Step([request])
    return {}


def _run(
    engine: "Engine", job: "Job", show: Callable[["Answer"], None], shown: Sequence["Answer"], status: ProgressLine
) -> "Result":
    """Run a job; `show` shows the answer that is its result, if one is. Raises what ended it."""
    from llmcli.inference.answer_json import answer_data
    from llmcli.pipelines.job import run_job

    n_events = count(1)

    def progress(step: "Step", n_ended: int) -> None:
        total, n_tokens = len(step.requests), next(n_events)
        place = f"{step.label} {min(n_ended + 1, total)} of {total}, " if step.label else ""
        status.update(f"{place}{plural(n_tokens, 'token')}")

    try:
        return run_job(engine, job, lambda _step, answer: show(answer), progress)
    except ConstraintError:
        if not shown:
            raise
        return answer_data(shown[-1])  # the report raises it again, after the answer
    finally:
        status.clear()


def _print_result(result: "Result", given: str, as_json: bool, diff: bool, echo: bool, is_shown: bool) -> None:
    """Print the result of a task, unless its text is printed already."""
    text = str(result["text"])
    if as_json:
        print_json(result, indent=None)
    elif diff:
        print_diff(given, text)
    elif not is_shown:
        print_text((f"{given}\n\n" if echo else "") + text.rstrip("\n") + "\n")


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
        console.note("cut off: the answer to a part reached max_tokens, or the end of the context")
    return ExitStatus.OK
