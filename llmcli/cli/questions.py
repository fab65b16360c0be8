"""What the commands share that ask a model: arguments, layers of settings, requests, and the exit status of answers."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import prompt_of
from llmcli.config.presets import layers_of
from llmcli.errors import ConstraintError, ExitStatus
from llmcli.params.settings import Layer, Settings, fields
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import warn_dropped, warn_unread_arguments

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation, Request
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine
    from llmcli.inference.request import Question

PromptArgument = Annotated[str | None, Argument(metavar="[PROMPT]", help="Prompt text; stdin is added to it.")]
NoStdin = Annotated[bool, Option("--no-stdin", help="Do not read stdin (the input of a shell loop).")]
_LONGEST_NAME = 200  # characters of a text that may be the name of a file


def command_layers(flags: Layer, text: str | None, *task: Layer) -> Sequence[Layer]:
    """Config file, preset, task, environment and flags, lowest first; the argument counts as the flag `--prompt`."""
    given, prompt = dict(flags.values), prompt_of(flags, text)
    if prompt is not None:
        given["prompt"] = fields()["prompt"].parse_text(prompt)
    return layers_of(Layer("flag", given), *task).below


def is_file_name(text: str | None) -> bool:
    """Whether a text is the name of a file, which was perhaps meant to be read."""
    return text is not None and len(text) <= _LONGEST_NAME and os.path.isfile(text)


def warn_file_name(text: str | None, instead: str = "use --file") -> None:
    """Warn if a text is the name of a file; `instead` says how to give the text of the file."""
    if is_file_name(text):
        console.warn(f"{text!r} is taken as a text; for the text of this file, {instead}")


def requests_of(engine: "Engine", questions: Sequence["Question"], cancellation: "Cancellation") -> list["Request"]:
    """The requests for questions; warns of a missing chat template, and of variables that it does not read."""
    from llmcli.inference.request import make_requests

    warn_plain_template(engine, [one.settings for one in questions])
    requests, known = make_requests(engine, questions, cancellation), set[str]()
    for one in requests:
        warn_dropped(engine, one.settings, known)
        warn_unread_arguments(one.prompt, one.settings, known)
    return requests


def warn_plain_template(engine: "Engine", settings: Sequence[Settings]) -> None:
    """Warn if the model has no chat template and one is needed."""
    from llmcli.inference.request import needs_plain_template

    if any(needs_plain_template(engine, one) for one in settings):
        console.warn(
            f"{engine.name} has no chat template: a plain one is used (User: ... Assistant: ...)",
            "use --raw to complete the prompt as it is, or give a template with --chat-template",
        )


def exit_status(answers: Sequence["Answer"]) -> int:
    """The exit status of answers that are written; a warning tells of one that is reasoning only.

    Raises ConstraintError when a constraint was not met.
    """
    from llmcli.inference.answer import REASONING_HINT

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
