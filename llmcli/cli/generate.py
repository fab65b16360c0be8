"""`llmcli generate`: one prompt in, one answer out, made for pipes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.answer_output import AnswerOptions, Outcome, echo_of, identify, json_of, print_result, report_outcome
from llmcli.cli.command_line import Option
from llmcli.cli.decision_answer import answer_by_decision, read_choices
from llmcli.cli.options import CHAT_ONLY, with_output_file, with_settings
from llmcli.cli.questions import (
    NoStdin,
    PromptArgument,
    command_layers,
    requests_of,
    warn_file_name,
    warn_plain_template,
)
from llmcli.cli.session_answer import GoOn, SessionName, open_session_answer
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.cli.task_options import TaskName, TaskVariables, load_judge, load_task, warn_of_small_model
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, ExitStatus, UsageError
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.text import plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import (
    AnswerWriter,
    print_json,
    print_prompt,
    stream_answer,
    warn_dropped,
    warn_ineffective,
    warn_unread_arguments,
    write_trace,
)
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.chat.conversation import Message
    from llmcli.cli.open_model import Target
    from llmcli.cli.session_answer import SessionAnswer
    from llmcli.cli.task_options import ChosenTask
    from llmcli.engine.events import Cancellation
    from llmcli.inference.answer import Answer, Part
    from llmcli.inference.decision import ChoiceSet
    from llmcli.inference.engine import Engine
    from llmcli.inference.request import Question
    from llmcli.pipelines.job import Job, Step
    from llmcli.pipelines.tasks import Task


@with_settings(only=fields().keys() - CHAT_ONLY | {"overflow"})
@with_output_file
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
    session: SessionName = None,
    go_on: GoOn = False,
) -> int:
    options = AnswerOptions(text, as_json, stream, echo, stats, trace, heat, show_prompt, no_stdin, diff)
    chosen = load_task(task, var)
    if diff and (as_json or not chosen):
        wrong = "--diff and --json cannot be used together" if chosen else "--diff has no effect without --task"
        raise UsageError(wrong, "remove --diff" if chosen else "give a task, such as --task proofread")
    if session is None and not go_on:
        if "overflow" in flags.values:
            console.warn("overflow has no effect: it needs --session or --continue")
        return _generate(flags, options, chosen)
    asked = resolve(command_layers(flags, text)).settings
    refused = {"--task": task, "a decision": asked.is_decision, "--samples": asked.samples > 1}
    with closing(open_session_answer(flags, go_on, session, refused)) as opened:
        return _generate(flags, options, None, opened)


@dataclass(frozen=True)
class _Asked:
    """What the model is asked, read and checked before it is loaded."""

    question: "Question"
    settings: Settings  # those of the question, with the ones of the result
    chosen: "ChosenTask | None"
    choice_set: "ChoiceSet | None"  # of a decision
    judge: "Task | None"
    target: "Target"

    def over(self, defaults: Layer) -> "_Asked":
        """The same with the settings of a model that is loaded, where nobody set a value."""
        from llmcli.inference.fastest_settings import with_choices

        return replace(self, question=self.question.over(defaults), settings=with_choices(self.settings, defaults))


def _ask(flags: Layer, options: AnswerOptions, chosen: "ChosenTask | None", session: "SessionAnswer | None") -> _Asked:
    """Read what is asked, and find the model."""
    warn_file_name(options.text)
    first = resolve(command_layers(flags, options.text))
    asked = first.settings
    if asked.logprobs and not options.as_json:
        console.warn("logprobs has no effect: it needs --json", "to see probabilities, use --heat p or --trace FILE")
    if "trace_top" in flags.values and options.trace is None:
        console.warn("trace_top has no effect: it needs --trace", "record a trace with --trace FILE")
    from llmcli.inference.request import join_prompt, read_question

    choice_set = None if chosen else read_choices(asked, options.traced)
    read = asked if session is None else replace(session.settings, prompt=asked.prompt, file=asked.file)
    is_piped = reads_stdin(read, options.no_stdin, chosen.stdin_variable if chosen else "")
    given = join_prompt(read, is_piped, partial(read_prompt, read))
    if chosen:
        first = resolve(command_layers(flags, options.text, chosen.layer(given, flags)))
    if session:
        first = session.controller.resolved()
    question = read_question(first, given, console.note)
    final = question.settings
    if options.diff and (final.extract or final.samples > 1):
        raise UsageError(f"--diff and --{'extract' if final.extract else 'samples'} cannot be used together")
    judge = load_judge(final.best) if final.samples > 1 and not final.is_decision else None
    from llmcli.cli.open_model import find_target, print_settings, welcome  # these load the engine

    target = find_target(final)
    welcome(first)
    question = question.over(target.layer)
    warn_ineffective(question.resolved)
    print_settings(question.resolved)
    if chosen:
        warn_of_small_model(chosen.task, target)
    settings = question.settings if session is None else replace(question.settings, extract=asked.extract)
    if settings.is_decision:
        settings = replace(settings, extract=None, samples=1)
    return _Asked(question, settings, chosen, choice_set, judge, target)


def _generate(
    flags: Layer, options: AnswerOptions, chosen: "ChosenTask | None", session: "SessionAnswer | None" = None
) -> int:
    asked = _ask(flags, options, chosen, session)
    question, settings, as_json = asked.question, asked.settings, options.as_json
    from llmcli.cli.open_model import open_model
    from llmcli.inference.answer import Answer

    status, shown = ProgressLine(), list[Answer]()
    is_printed_here = not (as_json or options.diff or settings.extract)

    def show(answer: Answer, parts: "Iterator[Part] | None" = None) -> None:
        shown.append(answer)
        answer.request.progress = status.reading
        with write_trace(answer, options.trace, options.heat is not None):
            writer, live = AnswerWriter(), is_printed_here and options.stream
            if is_printed_here:
                writer.write(echo_of(question.text, settings, options))
            stream_answer(parts or answer.parts(), writer, status, live=live, think=answer.settings.think)
            if as_json:
                identify(engine, cancellation, status)
            elif is_printed_here:
                writer.write("" if live else answer.text)
                writer.end()

    with open_model(asked.target, question.settings, status) as (engine, cancellation):
        asked = asked.over(engine.defaults)  # with what the memory allows
        question, settings = asked.question, asked.settings
        warn_dropped(engine, question.settings, set())
        if asked.choice_set:
            shown_as = {key: getattr(options, key) for key in ("show_prompt", "echo", "as_json", "stats")}
            answer_by_decision(engine, question, asked.choice_set, cancellation, **shown_as)
            return ExitStatus.OK
        if session:
            path = session.read_prompt(engine, question.text, cancellation)
            if options.show_prompt:
                print_prompt(engine.prompt_text(session.controller.prompt(path)))
                return ExitStatus.OK
            outcome = _ask_session(session, path, cancellation, status, show, settings.extract)
        else:
            if options.show_prompt:
                _print_prompts(engine, asked, cancellation)
                return ExitStatus.OK
            job = _job(engine, asked, cancellation, is_full=as_json)
            if as_json and settings.samples > 1:
                identify(engine, cancellation, status)
            outcome = _run(engine, job, show, shown, status)
        if as_json:
            print_json(json_of(outcome.result, settings), indent=None)
        elif not (shown and is_printed_here):
            print_result(outcome.result, question.text, settings, options)
        if session:
            session.keep_context(engine)
    return report_outcome(outcome, shown, settings, options)


def _print_prompts(engine: "Engine", asked: _Asked, cancellation: "Cancellation") -> None:
    """Print the first prompt, which all samples have; with a task and a long input, those of the parts."""
    if asked.chosen:
        warn_plain_template(engine, [asked.settings])
        for prompt in asked.chosen.prompts(engine, asked.settings, cancellation):
            print_prompt(engine.prompt_text(prompt))
    else:
        (request,) = requests_of(engine, [asked.question], cancellation)
        print_prompt(engine.prompt_text(request.prompt))


def _job(engine: "Engine", asked: _Asked, cancellation: "Cancellation", is_full: bool) -> "Job":
    """The job of a question, with its task, and what is made of one answer or several (`is_full`: `answer_data`)."""
    from llmcli.inference.request import make_requests
    from llmcli.pipelines.samples import Judge, request_job, result_job

    question, chosen = asked.question, asked.chosen
    warn_plain_template(engine, [question.settings])
    known = set[str]()  # the warnings so far: each sample has the same ones

    def job_of(own: Settings) -> "Job":
        if chosen:
            from llmcli.pipelines.tasks import task_job

            return task_job(engine, own, chosen.task, chosen.variables, cancellation)
        one = replace(question, resolved=replace(question.resolved, settings=own))
        (request,) = make_requests(engine, [one], cancellation)
        warn_unread_arguments(request.prompt, own, known)
        return request_job(request, is_full)

    judge = Judge(engine, asked.judge, question.text, cancellation) if asked.judge else None
    return result_job(asked.settings, job_of, judge)


def _run(
    engine: "Engine", job: "Job", show: Callable[["Answer"], None], shown: Sequence["Answer"], status: ProgressLine
) -> Outcome:
    """Run a job; `show` shows the answer that is its result. Raises what ended it, if none was shown."""
    from llmcli.inference.answer_json import answer_data
    from llmcli.pipelines.job import run_job

    n_events = count(1)

    def progress(step: "Step", n_ended: int) -> None:
        total, n_tokens = len(step.requests), next(n_events)
        place = f"{step.label} {min(n_ended + 1, total)} of {total}, " if step.label else ""
        status.update(f"{place}{plural(n_tokens, 'token')}")

    try:
        return Outcome(run_job(engine, job, lambda _step, answer: show(answer), progress))
    except ConstraintError as failure:
        if not shown:
            raise
        return Outcome(answer_data(shown[-1]), failure)
    finally:
        status.clear()


def _ask_session(
    session: "SessionAnswer",
    path: "list[Message]",
    cancellation: "Cancellation",
    status: ProgressLine,
    show: Callable[["Answer", "Iterator[Part]"], None],
    extract: str | None,
) -> Outcome:
    """Answer the last message of a conversation."""
    from llmcli.inference.answer_json import answer_data
    from llmcli.pipelines.samples import with_extracted

    turn = session.ask(path, cancellation, status)
    try:
        with closing(turn.parts()) as parts:
            show(turn.answer, parts)
    finally:
        session.end(turn)
    result = {**answer_data(turn.answer), "session": session.session.name}
    try:
        return Outcome(with_extracted(result, extract))
    except ConstraintError as failure:
        return Outcome(result, failure)
