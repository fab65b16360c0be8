"""Trials of tasks: a short and a long input, and whether the answer has the form that the task promises."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmcli.inference.engine import Engine
from llmcli.pipelines.tasks import INPUT, Task

_LONG = 3 / 2  # of the context, for tasks that cut long inputs
_LESS_LONG = 1 / 3  # for those that do not
_TEXTS = (
    "The lighthouse on the northern cape was built in 1871. Its keeper, Ada Moss, kept a diary of every ship that "
    "passed, and of every storm. In the winter of 1884 the supply boat did not come for seven weeks.",
    "She wrote that the barley ran out first, and then the oil for the lamp. On the fortieth night she burned the "
    "chairs, so that the light would not go out. Three ships passed safely.",
    "When the boat came at last, in March, the captain asked what she needed. She asked for two chairs, a barrel of "
    "oil and a new diary. The old one had no empty page left.",
    "The diary is in the museum of Port Elling today. Visitors may read a copy of it; the original is too fragile. In "
    "2019, a school class wrote a play about the winter of 1884.",
)
SHORT = _TEXTS[0]


@dataclass(frozen=True)
class Trial:
    """One input of a task."""

    label: str
    variables: Mapping[str, str]


def trials(task: Task, engine: Engine, n_ctx: int, given: Mapping[str, str]) -> Iterator[Trial]:
    """The trials of a task in a context of so many tokens: its examples, or a short text; and a long input."""
    examples = [(one.input, {**one.variables, **given}) for one in task.examples] or [(SHORT, {**given})]
    for number, (text, variables) in enumerate(examples, 1):
        yield Trial(f"example {number}" if task.examples else "short", {**variables, INPUT: text})
    text, variables = examples[0]
    pieces = (text,) if task.examples else _TEXTS
    share = _LESS_LONG if task.long_input == "error" else _LONG
    n_tokens = sum(map(engine.count_tokens, pieces))
    n_rounds = max(int(n_ctx * share / max(n_tokens, 1)), 1)
    yield Trial("long", {**variables, INPUT: "\n\n".join(pieces * n_rounds)})


def form_problem(task: Task, text: str, given: str) -> str:
    """Why an answer to the input `given` does not have the form that the task promises; empty if it has."""
    if task.form == "json":
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return "it is not JSON"
        return ""
    if not any(map(str.isalnum, text)):
        return "it has no words"
    if task.form == "line" and "\n" in text.strip():
        return "it has more than one line"
    if task.form == "lines" and "\n" not in text.strip():
        return "it is not a list"
    if task.form == "shorter" and len(text) > len(given):
        return "it is longer than the input"
    return ""
