"""What a line of a batch asks: its prompt or its messages, and its own settings above those that all lines share."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmcli.config.presets import preset_layer
from llmcli.engine.events import Message
from llmcli.errors import UsageError
from llmcli.inference.engine import Engine
from llmcli.inference.question_data import parse_messages, parse_own_settings
from llmcli.inference.request import system_file, system_text
from llmcli.params.param import SettingValue
from llmcli.params.settings import Layer, ResolvedSettings, Settings, UnknownSettingError, resolve
from llmcli.pipelines.batch_input import TEXT_COLUMNS, BatchLine, Format
from llmcli.pipelines.openai_batch import names_another_model, native_values
from llmcli.pipelines.tasks import INPUT, Task
from llmcli.text import did_you_mean

PLACE = re.compile(r"\{\{\s*([A-Za-z_][\w -]*?)\s*\}\}")
_RETRY_SEEDS = 1 << 16  # between the seed of a try and that of the next one
Question = str | Sequence[Message]


@dataclass(frozen=True)
class LineRequest:
    """What a line asks."""

    question: Question
    settings: Settings
    system: str | None
    variables: Mapping[str, str] = field(default_factory=dict)  # of the task, with its input


class LineParser:
    """Reads lines of one format for one engine."""

    def __init__(
        self,
        engine: Engine,
        layers: Sequence[Layer],
        template: str | None = None,
        task: Task | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`layers` are the settings that all lines share, lowest first, those of the `task` among them.

        `template` is that of the prompts; `variables` are those of the task that all lines share.
        """
        self._engine, self._layers, self._template = engine, layers, template
        self.task, self._variables = task, variables or {}
        self.common: ResolvedSettings = resolve(layers).over(engine.defaults).with_seed()
        self._system = system_text(self.common.settings)
        self.other_models: set[str] = set()  # some models that OpenAI Batch lines ask for, and that do not answer

    def parse(self, line: BatchLine, form: Format | None, attempt: int = 0) -> LineRequest:
        """What a line asks; a further `attempt` has another seed. Raises UsageError for what is not valid."""
        values = {key: one for key, one in line.values.items() if key != "id" or form == "openai"}
        variables = self._take_variables(values, form)
        question, own = self._question(values, variables, form)
        try:
            given = parse_own_settings(own, self.common.settings, "line")
        except UnknownSettingError as error:
            if form == "jsonl" and not error.hint:
                error.hint = f"remove it, or use it as a variable: --prompt '... {{{{{error.name[:40]}}}}}'"
            raise
        variables = {**self._variables, **variables, INPUT: question} if isinstance(question, str) else {}
        settings = self._settings(given, variables)
        if given.get("seed") is None:
            settings = replace(settings, seed=((self.common.settings.seed or 0) + line.number - 1) % 2**32)
        if attempt:
            settings = replace(settings, seed=((settings.seed or 0) + attempt * _RETRY_SEEDS) % 2**32)
        if isinstance(question, str) and not question.strip() and not (settings.raw and question):
            raise UsageError("the prompt is empty")
        if settings.raw and not isinstance(question, str):
            raise UsageError("raw and messages cannot be used together", "use prompt, or remove raw")
        system = settings.system if "system" in given else self._system  # that of a line is a text, however it begins
        return LineRequest(question, settings, system, variables)

    def _settings(self, own: Mapping[str, SettingValue], variables: Mapping[str, str]) -> Settings:
        """The settings of a line: its own above those of the task and those that all lines share."""
        if not own and not self.task:
            return self.common.settings
        layers, preset = [*self._layers], own.get("preset")
        if self.task:
            task_layer, system = self.task.layer(variables, {*own, *layers[-1].values}), own.get("system")
            layers = [task_layer if one.name == task_layer.name else one for one in layers]
            if isinstance(system, str) and system_file(system) is not None:
                own = {**own, "system": f" {system}"}  # at the start, it would name a file
        if isinstance(preset, str):
            layers.append(preset_layer(preset))
        return resolve([*layers, Layer("line", own)]).over(self._engine.defaults).settings

    def _take_variables(self, values: dict[str, object], form: Format | None) -> dict[str, str]:
        """Take the variables of the task out of the values of a line."""
        if not self.task:
            return {}
        if form == "openai":
            raise UsageError("a task cannot answer an OpenAI Batch line", 'write a line as {"input": "..."}')
        return {name: _as_text(values.pop(name)) for name in self.task.variables if name in values}

    def _question(
        self, values: dict[str, object], variables: Mapping[str, str], form: Format | None
    ) -> tuple[Question, Mapping[str, object]]:
        """The prompt or the messages, and the settings of the line as JSON data; a template can name `variables`."""
        template = self._template
        names = PLACE.findall(template or "")
        parts = {name: variables[name] for name in names if name in variables}
        if form == "openai":
            other = names_another_model(values, (self._engine.name, self.common.settings.model))
            if other and len(self.other_models) < 3:
                self.other_models.add(other)
            values = native_values(values)
        elif form != "jsonl":  # all values are variables
            return _filled(template, {**parts, **values}), {}
        if "messages" in values:
            if template is not None or self.task or "prompt" in values:
                other = "--prompt" if template is not None else "--task" if self.task else "prompt"
                raise UsageError(f"messages and {other} cannot be used together")
            return parse_messages(values.pop("messages")), values
        if template is None and not self.task:
            prompt = values.pop("prompt", None)
            if prompt is None:
                near = did_you_mean("prompt", values)
                raise UsageError("prompt or messages is missing", near or 'write a line as {"prompt": "..."}')
            if not isinstance(prompt, str):
                raise UsageError("prompt must be a string")
            return prompt, values
        parts |= {name: values.pop(name) for name in {*names, *TEXT_COLUMNS} if name in values}
        if self.task and template is None and not parts:
            near = did_you_mean(INPUT, values)
            raise UsageError("input is missing", near or 'write a line as {"input": "..."}')
        return _filled(template, parts), values


def check_columns(
    columns: Sequence[str], template: str | None, task: Task | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Raise UsageError if the columns of a CSV file do not have what the template or the task needs."""
    has_text = bool({*columns} & {*TEXT_COLUMNS})
    if template is None and not has_text:
        column = next((name for name in columns if name != "id"), "word")
        hint = f"name a column in a template, such as --prompt '{'' if task else 'Translate: '}{{{{{column}}}}}'"
        raise UsageError(f"the CSV file has none of the columns {', '.join(TEXT_COLUMNS)}", hint)
    for name in PLACE.findall(template or ""):
        if name not in columns and not (name in TEXT_COLUMNS and has_text):
            hint = did_you_mean(name, columns) or f"the columns are {', '.join(columns)}"
            raise UsageError(f"the CSV file has no column {name!r}, which --prompt names", hint)
    check_template(template, columns)
    if task:
        task.complete({**dict.fromkeys({*columns} & {*task.variables}, "?"), **(variables or {})})


def check_template(template: str | None, names: Sequence[str] = TEXT_COLUMNS) -> None:
    """Raise UsageError for a template without a place that has one of these names in single braces."""
    if template and not PLACE.search(template) and (single := [one for one in names if f"{{{one}}}" in template]):
        raise UsageError(f"--prompt has {{{single[0]}}} in single braces", f"write {{{{{single[0]}}}}}")


def _filled(template: str | None, variables: Mapping[str, object]) -> str:
    """The template with the variables in its places, or followed by the text of the line; without one, that text."""
    text = next((variables[name] for name in TEXT_COLUMNS if name in variables), None)
    if template is None:
        return _as_text(text)
    if not PLACE.search(template):
        return template if text is None else f"{template}\n\n{_as_text(text)}"

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name in variables:
            return _as_text(variables[name])
        if name in TEXT_COLUMNS and text is not None:
            return _as_text(text)
        raise UsageError(f"the line has no {name!r}, which --prompt names", did_you_mean(name, variables))

    return PLACE.sub(value, template)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
