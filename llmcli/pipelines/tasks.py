"""A task: a prompt with variables, and the settings that suit it; and the job that answers one input with it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import UsageError
from llmcli.inference.answer_json import answer_data
from llmcli.inference.constraints import is_inline_schema, read_constraint
from llmcli.inference.engine import Answer, Engine
from llmcli.inference.request import build_prompt, needs_plain_template, system_text, with_plain_stop
from llmcli.params.settings import Layer, Settings
from llmcli.pipelines.job import Job, Step
from llmcli.text import did_you_mean

INPUT = "input"  # the variable of the text that a task works on
PLACE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
LongInput = Literal["error", "map-reduce", "windows"]
Form = Literal["text", "line", "lines", "shorter", "json"]


@dataclass(frozen=True)
class Variable:
    """A variable of a task; it must be given if its default is None."""

    name: str
    default: str | None = None
    help: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.help})" if self.help else self.name


@dataclass(frozen=True)
class Example:
    """An input to try a task on, with its variables."""

    input: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as its file says. Its texts have places such as {{input}} for variables."""

    name: str
    prompt: str  # it has a place for the input
    description: str = ""
    variables: Mapping[str, Variable] = field(default_factory=dict)
    system: str = ""
    settings: Layer = field(default_factory=lambda: Layer("task", {}))
    constraint: Mapping[str, str] = field(default_factory=dict)  # at most one, by its kind
    size: int = 0  # parameters of the smallest model that does it well; 0 = any
    long_input: LongInput = "error"  # what to do with an input that does not fit the context
    overlap: int = 0  # tokens of the text before a window that the model sees too
    combine: str = ""  # the prompt that combines the answers to the parts of an input; without it, `prompt` does
    form: Form = "text"  # of the answer, for `llmcli tasks test`
    examples: Sequence[Example] = ()
    source: str = ""  # built-in, user, project or file
    path: Path = Path()

    def complete(self, given: Mapping[str, str]) -> dict[str, str]:
        """The values of all variables. Raises UsageError for one that is unknown, or missing."""
        for name in given:
            if name not in self.variables and name != INPUT:
                known = ", ".join(map(str, self.variables.values()))
                hint = did_you_mean(name, self.variables) or (f"it has {known}" if known else "it has no variables")
                raise UsageError(f"the task {self.name} has no variable {name[:80]!r}", hint)
        defaults = {name: one.default for name, one in self.variables.items() if one.default is not None}
        values = {**defaults, **given}
        if missing := [one for name, one in self.variables.items() if name not in values]:
            names = " and ".join(map(str, missing))
            pairs = " ".join(f"--var {one.name}=..." for one in missing)
            raise UsageError(f"the task {self.name} needs {names}", f"give {pairs}")
        return values

    def messages(self, variables: Mapping[str, str]) -> tuple[str, str]:
        """The system prompt and the prompt, filled."""
        values = self.complete(variables)
        return fill(self.system, values), fill(self.prompt, values)

    def layer(self, variables: Mapping[str, str]) -> Layer:
        """The settings of the task for these variables, its system prompt and its constraint among them.

        Raises UsageError for variables that do not fit.
        """
        values = self.complete({INPUT: "", **variables})
        settings = dict(self.settings.values)
        if system := fill(self.system, values):
            settings["system"] = f" {system}" if system[:1] in "@-" else system  # at the start it would name a file
        for kind, text in self.constraint.items():
            if kind == "choices":
                settings["regex"] = "|".join(map(re.escape, split_list(fill(text, values), "choices")))
            elif kind == "json_schema":
                settings[kind] = _inline_schema(fill(text, values))
            else:
                settings[kind] = text
        return replace(self.settings, values=settings)


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with the values in their places, in one pass: what a value contains is not a place."""
    return PLACE.sub(lambda found: values.get(found[1], found[0]), text)


def split_list(text: str, what: str) -> list[str]:
    """The items of a list with semicolons, or else with commas. Raises UsageError for less than two, or equal ones."""
    items = [item.strip() for item in text.split(";" if ";" in text else ",")]
    items = [item for item in items if item]
    if len(items) < 2:
        raise UsageError(f"{what} must be at least two, got {text[:60]!r}", "separate them by commas or semicolons")
    if twice := [item for index, item in enumerate(items) if item in items[:index]]:
        raise UsageError(f"{what}: {twice[0][:60]!r} stands twice")
    return items


def _inline_schema(text: str) -> str:
    if not is_inline_schema(text):  # it would be the name of a file
        hint = "write fields such as 'name: str, age: int', or read a JSON schema with --var NAME=@FILE"
        raise UsageError(f"{text[:60]!r} is not a JSON schema", hint)
    return text


def task_job(
    engine: Engine,
    settings: Settings,
    task: Task,
    variables: Mapping[str, str],
    cancellation: Cancellation | None = None,
) -> Job:
    """The job of one input, which is the variable `input`. `settings` have the layer of the task, and a seed.

    Its result has the fields of `--json`. Raises UsageError for variables that do not fit.
    """
    values, system = task.complete(variables), system_text(settings)
    if needs_plain_template(engine, settings):
        settings = with_plain_stop(settings)
    constraint, cancellation = read_constraint(settings), cancellation or Cancellation()
    prompt = build_prompt(engine, settings, fill(task.prompt, values), system, cancellation)
    (answer,) = yield Step([Request(prompt, settings, constraint, cancellation=cancellation)])
    return task_result(task, answer)


def task_result(task: Task, answer: Answer) -> dict[str, object]:
    """An answer as JSON data. Raises what made it fail."""
    if answer.record.failure:
        raise answer.record.failure
    return {**answer_data(answer), "task": task.name}
