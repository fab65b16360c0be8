"""Runs one generation to its end and returns the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.events import Cancellation, Constraint, Progress, Prompt, Request, Timings, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.scheduler import generate
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

UNSTOPPED: tuple[Cancellation, Progress] = (Cancellation(), lambda *_: None)  # a user who only waits
GREEDY: dict[str, Any] = {"temperature": Fixed(0.0)}


@dataclass
class FinishedAnswer:
    """A finished answer: its text, token ids and records."""

    text: str
    ids: list[int]
    reason: str | None
    timings: Timings
    records: list[TokenEvent]


def start(
    context: Context, prompt: str | Sequence[int], grammar: str | Constraint | None = None, **values: Any
) -> Generation:
    """A generation for a prompt as text or as tokens."""
    tokens = context.model.vocab.tokenize(prompt) if isinstance(prompt, str) else prompt
    index, cancellation = values.pop("index", 0), values.pop("cancellation", Cancellation())
    settings = Settings(**({"seed": 1} | values))
    constraint = Constraint("grammar", grammar) if isinstance(grammar, str) else grammar
    request = Request(Prompt.of_tokens("", tokens), settings, constraint, cancellation=cancellation)
    return Generation(context.model.vocab, request, index)


def run(
    context: Context, prompt: str | Sequence[int], grammar: str | Constraint | None = None, **values: Any
) -> FinishedAnswer:
    """The whole answer to a prompt; further arguments are settings."""
    generation = start(context, prompt, grammar, **values)
    records = list(generate(context, [generation]))
    if generation.failure:
        raise generation.failure
    text = "".join(record.text for record in records)
    ids = generation.tokens[len(generation.request.prompt.tokens) :]
    return FinishedAnswer(text, ids, generation.finish_reason, generation.timings, records)
