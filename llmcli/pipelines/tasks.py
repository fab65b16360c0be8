"""A task: a prompt with variables, and the settings that suit it; and the job that answers one input with it."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.errors import ConstraintError, ContextOverflowError, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data, decision_data
from llmcli.inference.constraints import CONSTRAINT_KEYS, is_inline_schema, read_constraint
from llmcli.inference.decision import ChoiceSet, DecisionRequest, read_choice_set
from llmcli.inference.engine import Engine
from llmcli.inference.request import build_prompt, system_text, template_options, with_plain_stop
from llmcli.params.decision import DECISION_KEYS
from llmcli.params.settings import Layer, Settings
from llmcli.pipelines.job import STOPPED, Job, Step
from llmcli.pipelines.long_input import Window, fits, join_windows, split_text, windows
from llmcli.pipelines.task_helpers import HELPERS, split_list
from llmcli.text import did_you_mean

INPUT = "input"  # the variable of the text that a task works on
PLACE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
LongInput = Literal["error", "map-reduce", "windows"]
Form = Literal["text", "line", "lines", "shorter", "json"]
_BEFORE = 'For context only, the end of the text before this one:\n"""\n{}\n"""\n\n'
_LEAST_ROOM = 16  # tokens of a part
_SHORT = 1 << 15  # characters of a text whose prompt is made to see whether it fits
_OF_ONE_ANSWER = ("timings", "messages", "prompt", "replay", "tokens", "reasoning_content")  # generated as it stands


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
    helper: str = ""  # what is computed beside the answer, by its name in `HELPERS`
    combine: str = ""  # the prompt that combines the answers to the parts of an input; without it, `prompt` does
    form: Form = "text"  # of the answer, for `llmcli tasks test`
    examples: Sequence[Example] = ()
    source: str = ""  # built-in, user, project or file
    path: Path = Path()

    def complete(self, given: Mapping[str, str]) -> dict[str, str]:
        """The values of all variables.

        Raises UsageError for one that is unknown, or missing; one without a default must not be blank.
        """
        for name in given:
            if name not in self.variables and name != INPUT:
                known = ", ".join(map(str, self.variables.values()))
                hint = did_you_mean(name, self.variables) or (f"it has {known}" if known else "it has no variables")
                raise UsageError(f"the task {self.name} has no variable {name[:80]!r}", hint)
        defaults = {name: one.default for name, one in self.variables.items() if one.default is not None}
        values = {**defaults, **given}
        if missing := [
            one for name, one in self.variables.items() if one.default is None and not given.get(name, "").strip()
        ]:
            names = " and ".join(map(str, missing))
            pairs = " ".join(f"--var {one.name}=..." for one in missing)
            raise UsageError(f"the task {self.name} needs {names}", f"give {pairs}")
        if self.helper and INPUT in values:
            values |= HELPERS[self.helper].prepare(values)
        return values

    def messages(self, variables: Mapping[str, str]) -> tuple[str, str]:
        """The system prompt and the prompt, filled."""
        values = self.complete(variables)
        return fill(self.system, values), fill(self.prompt, values)

    def layer(self, variables: Mapping[str, str], above: Collection[str] = ()) -> Layer:
        """The settings of the task for an input and its variables, its system prompt and constraint among them.

        A constraint among the keys of the settings `above` this layer replaces its own. Raises UsageError for variables
        that do not fit.
        """
        values = self.complete(variables)
        settings = dict(self.settings.values)
        if system := fill(self.system, values):
            settings["system"] = f" {system}" if system[:1] in "@-" else system  # at the start it would name a file
        is_replaced = any(key in above for key in (*CONSTRAINT_KEYS, *DECISION_KEYS))
        for kind, text in () if is_replaced else self.constraint.items():
            if kind == "choices":
                # A space before it: at the start, @ would name a file.
                settings[kind] = tuple(f" {item}" for item in split_list(fill(text, values), kind))
            elif kind == "json_schema":
                settings[kind] = _inline_schema(fill(text, values))
            else:
                settings[kind] = text
        return replace(self.settings, values=settings)


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with the values in their places, in one pass: what a value contains is not a place."""
    return PLACE.sub(lambda found: values.get(found[1], found[0]), text)


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
    is_full: bool = True,
    choice_set: ChoiceSet | None = None,
) -> Job:
    """The job of one input, which is the variable `input`. `settings` have the layer of the task, and a seed.

    An input that leaves no room for its answer in the context is treated as the task says. The result has the fields of
    `--json`, with `is_full` those of what was asked too. Of many decisions, all can have one `choice_set`: what its
    prior needs is evaluated once. Raises UsageError for variables that do not fit.
    """
    asked = _Asked(engine, settings, task, variables, cancellation or Cancellation(), is_full)
    text = asked.values[INPUT]
    if settings.is_decision:
        return asked.decide(choice_set)
    if request := asked.short_request(text):
        (answer,) = yield Step([request], is_last=not task.helper)
        return asked.result([answer], [Window(0, text)])
    if task.long_input == "windows":
        return (yield from _answer_windows(asked, text))
    return (yield from _answer_reduced(asked, text))


def task_prompts(
    engine: Engine, settings: Settings, task: Task, variables: Mapping[str, str], cancellation: Cancellation
) -> Sequence[Prompt]:
    """The prompts of the first step of a job, or of its decision."""
    if settings.is_decision:
        return [_Asked(engine, settings, task, variables, cancellation).decision().prompt]
    return [request.prompt for request in next(task_job(engine, settings, task, variables, cancellation)).requests]


def _answer_windows(asked: "_Asked", text: str) -> Job:
    """Answer each part of a text on its own, with the end of the part before it as context."""
    task, count = asked.task, asked.engine.count_tokens
    parts = windows(text, asked.room(task.overlap), task.overlap, count)
    answers = yield Step([asked.request(part.text, part.before) for part in parts], "part", is_last=False)
    return asked.result(answers, parts)


def _answer_reduced(asked: "_Asked", text: str) -> Job:
    """Answer the parts of a text, then combine their answers, in as many rounds as needed until they fit."""
    count, room, prompt = asked.engine.count_tokens, asked.room(), asked.task.prompt
    answers: list[Answer] = []
    while not fits(text, room, count):
        parts = split_text(text, room, count)
        limit = max(room // 4, 1)  # so that each round has at most a quarter of the text of the one before
        requests = [asked.request(part.strip(), prompt=prompt, limit=limit) for part in parts if part.strip()]
        answers += (ended := (yield Step(requests, "part", is_last=False)))
        for answer in ended:
            if answer.record.failure:
                raise answer.record.failure
            if answer.finish_reason in STOPPED:
                return asked.result([*answers, answer], [])
        joined = "\n\n".join(answer.text.strip() for answer in ended)
        if len(joined) >= len(text):
            raise ContextOverflowError("the answers to the parts are not shorter than the text", "raise --ctx-size")
        text, prompt = joined, asked.task.combine or prompt
    (answer,) = yield Step([asked.request(text, prompt=prompt)])
    return asked.result([*answers, answer], [Window(0, text)])


class _Asked:
    """What all requests of a job share."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        task: Task,
        variables: Mapping[str, str],
        cancellation: Cancellation,
        is_full: bool = True,
    ) -> None:
        self._is_full = is_full
        self.engine, self.task, self._cancellation = engine, task, cancellation
        self.values, self._system = task.complete(variables), system_text(settings)
        self._settings = with_plain_stop(settings, template_options(engine, settings).source)
        self._constraint = read_constraint(settings)
        self._n_ctx = engine.context_size(settings)

    def request(self, text: str, before: str = "", prompt: str = "", limit: int | None = None) -> Request:
        """The request for a text, after the text `before` it. An answer with a `limit` of tokens has no constraint."""
        settings = self._settings
        if limit is not None:
            most = limit if settings.max_tokens < 0 else min(limit, settings.max_tokens)
            settings = replace(settings, max_tokens=most)
        filled = fill(prompt or self.task.prompt, {**self.values, INPUT: text})
        message = _BEFORE.format(before) + filled if before else filled
        rendered = build_prompt(self.engine, settings, message, self._system, self._cancellation)
        constraint = self._constraint if limit is None else None
        return Request(rendered, settings, constraint, cancellation=self._cancellation)

    def decide(self, choice_set: ChoiceSet | None) -> dict[str, object]:
        """The data of the choice that is the answer, which is scored and not generated."""
        decision = self.decision(choice_set).decide()
        text = decision.text
        if self.task.helper:
            text = HELPERS[self.task.helper].finish(self.values, [(Window(0, self.values[INPUT]), text)])
        return {**decision_data(self.engine, decision, self._is_full), "text": text, "task": self.task.name}

    def decision(self, choice_set: ChoiceSet | None = None) -> DecisionRequest:
        """What is decided, where the settings have choices."""
        choice_set = choice_set or read_choice_set(self._settings)
        assert choice_set
        text = fill(self.task.prompt, self.values)
        return DecisionRequest(self.engine, self._settings, choice_set, text, self._system, self._cancellation)

    def short_request(self, text: str) -> Request | None:
        """The request for a text; None if the task treats it as a long one."""
        if self.task.long_input == "error":
            return self.request(text)
        if len(text) < _SHORT:  # most texts; and nothing but their prompt is counted
            request = self.request(text)
            n_tokens, is_equal = self.engine.count_prompt(request.prompt), self.task.long_input == "windows"
            if n_tokens + (2 * n_tokens if is_equal else self._reserve) <= self._n_ctx:
                return request
        return self.request(text) if fits(text, self.room(), self.engine.count_tokens) else None

    @property
    def _reserve(self) -> int:
        """The tokens for an answer that is shorter than its text."""
        limit, quarter = self._settings.max_tokens, self._n_ctx // 4
        return quarter if limit < 0 else min(quarter, limit)

    def room(self, overlap: int = 0) -> int:
        """The tokens that a text can have, so that its answer has room: twice as many as the text, or a quarter of all.

        Raises ContextOverflowError if the context is too small for the task itself.
        """
        texts = (self.task.prompt, self.task.combine or self.task.prompt)
        fixed = max(
            self.engine.count_prompt(self.request("", "" if not overlap else " ", prompt).prompt) for prompt in texts
        )
        free = self._n_ctx - fixed - overlap
        room = free // 3 if self.task.long_input == "windows" else free - self._reserve
        if room < _LEAST_ROOM:
            hint = "raise --ctx-size" if self._settings.n_ctx else "use a model with a larger context"
            raise ContextOverflowError(f"the context of {self._n_ctx} tokens has no room for the task and a text", hint)
        return room

    def result(self, answers: Sequence[Answer], parts: Sequence[Window]) -> dict[str, object]:
        """The data of the last answer, with the text that the answers to the `parts` make, and the sums of tokens.

        Raises what made one of them fail, and ConstraintError for one that does not match its constraint.
        """
        last = answers[-len(parts) :] if parts else []
        stopped = next((answer for answer in answers if answer.finish_reason in STOPPED), None)
        for number, answer in enumerate(last, 1):
            if answer.record.failure:
                raise answer.record.failure
            if failure := answer.constraint_failure():
                place = f"part {number} of {len(last)}: " if len(last) > 1 else ""
                raise ConstraintError(f"{place}{failure}", failure.hint)
        n_whole = last.index(stopped) + 1 if stopped in last else len(last)
        pairs = [(part, answer.text) for part, answer in zip(parts[:n_whole], last, strict=False)]
        if self.task.helper and not stopped:
            text = HELPERS[self.task.helper].finish(self.values, pairs)
        else:
            text = pairs[0][1] if len(pairs) == 1 else join_windows(parts, [text for _, text in pairs])
        data = {**answer_data(stopped or answers[-1], self._is_full), "text": text, "task": self.task.name}
        if len(answers) == 1 and not self.task.helper:
            return data
        cut = next((answer.finish_reason for answer in last if answer.finish_reason != "stop"), "stop")
        for key in _OF_ONE_ANSWER:
            data.pop(key, None)
        tokens = {"prompt_tokens": sum(answer.n_prompt for answer in answers)}
        tokens["completion_tokens"] = sum(answer.record.timings.predicted_n for answer in answers)
        reason = stopped.finish_reason if stopped else cut
        n_parts = {"n_parts": len(answers)} if len(answers) > 1 else {}
        return {**data, **tokens, "finish_reason": reason, **n_parts}
