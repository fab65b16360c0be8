"""The options that choose a task and its variables, and what commands do with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Option
from llmcli.cli.completion import complete_task, complete_variable
from llmcli.cli.questions import warn_file_name
from llmcli.errors import UsageError
from llmcli.files import is_stdin
from llmcli.params.result import BEST_RULES
from llmcli.params.settings import Layer, Settings
from llmcli.text import format_count
from llmcli.ui.terminal.console import can_ask, confirm, console

if TYPE_CHECKING:
    from llmcli.cli.open_model import Target
    from llmcli.engine.events import Cancellation, Prompt
    from llmcli.inference.engine import Engine
    from llmcli.pipelines.tasks import Task

TaskName = Annotated[
    str | None,
    Option(
        "--task",
        "-T",
        metavar="NAME",
        help="Task for the input: summarize, translate, ... (see `llmcli tasks list`).",
        autocompletion=complete_task,
    ),
]
TaskVariables = Annotated[
    list[str] | None,
    Option(
        "--var",
        metavar="NAME=TEXT",
        help="Variable of the task (NAME=@FILE reads a file). Repeatable.",
        autocompletion=complete_variable,
    ),
]
_NEAR = 0.8  # of the named size: a model called 3B may have 2.6 billion parameters


@dataclass(frozen=True)
class ChosenTask:
    """A task with the variables of the command line."""

    task: "Task"
    variables: dict[str, str]
    stdin_variable: str = ""  # as in `--var to`: the one that reads stdin, which is then not a part of the prompt

    def layer(self, text: str, flags: Layer) -> Layer:
        """The settings of the task for an input; a constraint in the flags replaces its own."""
        self.variables["input"] = text
        return self.task.layer(self.variables, flags.values)

    def prompts(self, engine: "Engine", settings: Settings, cancellation: "Cancellation") -> "Sequence[Prompt]":
        """The prompts that the job asks first."""
        from llmcli.pipelines.tasks import task_prompts

        return task_prompts(engine, settings, self.task, self.variables, cancellation)


def warn_of_small_model(task: "Task", target: "Target") -> None:
    """Warn if the model has fewer parameters than the task needs; those of an endpoint are not known."""
    from llmcli.inference.resolved_model import ResolvedModel

    if not isinstance(target, ResolvedModel):
        return
    n_parameters = sum(header.n_parameters for header in target.headers)
    if 0 < n_parameters < task.size * _NEAR:
        size, own = format_count(task.size), format_count(n_parameters)
        console.warn(
            f"the task {task.name} needs a model with {size} parameters, and {target.file.name} has {own}",
            "choose a larger model with -m; `llmcli models recommend` lists some",
        )


def load_task(name: str | None, variables: Sequence[str] | None, is_complete: bool = True) -> ChosenTask | None:
    """The task of this name, if one is named; unless it `is_complete`, variables may be missing.

    Raises UsageError for one that does not exist, is not trusted, or has no such variables.
    """
    if name is None:
        if variables:
            raise UsageError("--var has no effect without --task", "name the task, as in --task translate")
        return None
    from llmcli.pipelines.task_files import find_task

    task = find_task(name, ask_for_trust if can_ask() else None)
    chosen = ChosenTask(task, parse_variables(variables or ()), stdin_variable(variables or ()))
    # Before a model is loaded.
    task.complete(chosen.variables if is_complete else {**dict.fromkeys(task.variables, "?"), **chosen.variables})
    return chosen


def load_judge(best: str | None) -> "Task | None":
    """The task that the setting `best` names, unless it is a rule. Raises UsageError for one that cannot judge."""
    if best is None or best in BEST_RULES:
        return None
    from llmcli.pipelines.samples import check_judge
    from llmcli.pipelines.task_files import find_task, find_task_file

    try:
        find_task_file(best)
    except UsageError as error:
        names = ", ".join(BEST_RULES)
        raise UsageError(f"best must be {names} or a task that judges, got {best[:60]!r}", error.hint) from None
    task = find_task(best, ask_for_trust if can_ask() else None)
    check_judge(task)
    return task


def parse_variables(texts: Sequence[str]) -> dict[str, str]:
    """The values of `NAME=TEXT` and `NAME=@FILE`. Raises UsageError, and DiskError for a file that cannot be read."""
    from llmcli.files import read_text
    from llmcli.params.param import as_utf8
    from llmcli.pipelines.tasks import INPUT

    values = {}
    for one in texts:
        name, equals, text = one.partition("=")
        if not equals:
            raise UsageError(f"--var must be NAME=TEXT, got {one[:60]!r}", "as in --var to=French")
        if name.strip() == INPUT:
            raise UsageError("--var cannot set input: it is the text that the task works on", "give it as the prompt")
        warn_file_name(text, f"use --var {name.strip()}=@{text}")
        values[name.strip()] = read_text(text[1:]).rstrip("\n") if text.startswith("@") else as_utf8(text)
    return values


def stdin_variable(texts: Sequence[str]) -> str:
    """The first of the variables `NAME=@-`, as an option; empty without one."""
    pairs = (one.partition("=") for one in texts)
    return next((f"--var {name}" for name, _, text in pairs if text[:1] == "@" and is_stdin(text[1:])), "")


def ask_for_trust(path: Path) -> bool:
    """Ask whether a task file of a project may be used; asked once for each content."""
    console.note(f"the task comes from this project: {path}")
    console.note(f"it can change prompts and settings; `llmcli tasks show {path.stem}` prints it")
    return confirm("Trust this task file?", False)
