"""/v1/decisions in OpenAI's form: questions about one input, each answered by the probabilities of whole answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError
from llmcli.inference.decision import Choice, ChoiceSet, Decision, DecisionRequest
from llmcli.params.settings import Settings
from llmcli.server.http import Values, json_response, read_body, unless_gone
from llmcli.server.request_log import count_read
from llmcli.server.served_model import ServedModel
from llmcli.server.service import take_model

_MOST_QUESTIONS, _MOST_CHOICES = 400, 255  # as at OpenAI
_IGNORED = ("prompt_cache_key", "prompt_cache_options", "safety_identifier", "user", "metadata")


@dataclass(frozen=True)
class _Question:
    """A question, and the values that its answer has, as the request wrote them."""

    kind: str
    name: str | None
    choice_set: ChoiceSet
    values: Sequence[str | bool]


async def decisions(request: Request) -> Response:
    """Answers to questions about an input. Each choice is scored whole; nothing is generated."""
    body = await read_body(request)
    model = await take_model(request, body)
    for key in _IGNORED:
        body.pop(key, None)
    system, text = _read_input(body.pop("input", None))
    questions = _read_questions(body.pop("questions", None))
    settings = model.settings(body)
    answers, n_prompt = list[Values](), 0
    for one in questions:
        work = partial(_decide, model, settings, one.choice_set, text, system)
        decision = await unless_gone(request, model.worker.call(work))
        answers.append(_answer(one, decision))
        n_prompt += len(decision.prompt.tokens)
        count_read(len(decision.prompt.tokens))
    usage = {
        "input_tokens": n_prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n_prompt,
    }
    return json_response({"object": "decision", "model": model.name, "answers": answers, "usage": usage})


def _decide(
    model: ServedModel,
    settings: Settings,
    choice_set: ChoiceSet,
    text: str,
    system: str | None,
    cancellation: Cancellation,
) -> Decision:
    settings = replace(settings, n_ctx=settings.n_ctx or model.n_ctx)
    return DecisionRequest(model.engine, settings, choice_set, text, system, cancellation).decide()


def _read_input(value: object) -> tuple[str | None, str]:
    """The system prompt and the text: a string, or messages of the user. Raises UsageError."""
    if isinstance(value, str):
        return None, value
    if not isinstance(value, list) or not value:
        raise UsageError("input must be a string, or a list of messages")
    system, texts = list[str](), list[str]()
    for number, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user"):
            raise UsageError(f"input[{number}].role must be system, developer or user")
        (texts if role == "user" else system).append(_text(message.get("content"), f"input[{number}].content"))
    return "\n\n".join(system) or None, "\n\n".join(texts)


def _text(value: object, place: str) -> str:
    """A string, or parts that are texts. Raises UsageError."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in value]
        if parts and all(isinstance(part, str) for part in parts):
            return "\n".join(map(str, parts))
    raise UsageError(f"{place} must be a string, or a list of texts")


def _read_questions(value: object) -> list[_Question]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_QUESTIONS:
        raise UsageError(f"questions must be a list of 1 to {_MOST_QUESTIONS} questions")
    return [_read_question(one, f"questions[{number}]") for number, one in enumerate(value)]


def _read_question(value: object, place: str) -> _Question:
    if not isinstance(value, dict):
        raise UsageError(f"{place} must be an object")
    kind, name = value.get("type"), value.get("name")
    asked = _text(value.get("instructions"), f"{place}.instructions")
    name = name if isinstance(name, str) else None
    if kind == "predicate":
        told = f"{asked}\n\nIs that true? Answer with yes or no, and nothing else."
        return _Question(kind, name, ChoiceSet("predicate", (Choice("yes"), Choice("no")), told), ("yes", "no"))
    if kind not in ("choice", "score"):
        raise UsageError(f"{place}.type must be predicate, choice or score")
    key, label = ("choices", "value") if kind == "choice" else ("levels", "label")
    entries = value.get(key)
    if not isinstance(entries, list) or not 2 <= len(entries) <= _MOST_CHOICES:
        raise UsageError(f"{place}.{key} must be a list of 2 to {_MOST_CHOICES} objects with {label}")
    choices, values = list[Choice](), list[str | bool]()
    for number, entry in enumerate(entries):
        own = entry.get(label) if isinstance(entry, dict) else None
        description = entry.get("description") if isinstance(entry, dict) else None
        if not isinstance(own, (str, bool)) or (isinstance(own, str) and not own.strip()):
            raise UsageError(f"{place}.{key}[{number}].{label} must be a string that is not empty")
        values.append(own)
        choices.append(Choice(str(own).strip(), description if isinstance(description, str) else ""))
    if len({choice.value for choice in choices}) < len(choices):
        raise UsageError(f"{place}.{key} has the same {label} twice")
    rows = [f"- {one.value}" + (f": {one.description}" if one.description else "") for one in choices]
    told = "\n".join([asked, "", "Answer with one of these, and nothing else:", *rows])
    return _Question(kind, name, ChoiceSet("choices", choices, told), values)


def _answer(question: _Question, decision: Decision) -> Values:
    """The answer in OpenAI's form. The score is the mean of the levels' numbers, from 0, by their probabilities."""
    probabilities = [one.probability for one in decision.choices]
    head: Values = {"type": question.kind, "name": question.name}
    if question.kind == "predicate":
        return {**head, "probability": probabilities[0]}
    pairs = list(zip(question.values, probabilities, strict=True))
    if question.kind == "choice":
        chosen = max(pairs, key=lambda pair: pair[1])
        entries = [{"value": value, "probability": p} for value, p in pairs]
        return {**head, "choice": chosen[0], "confidence": chosen[1], "probabilities": entries}
    levels = [{"label": label, "value": number, "probability": p} for number, (label, p) in enumerate(pairs)]
    mean = sum(number * p for number, p in enumerate(probabilities))
    return {**head, "score": mean, "confidence": max(probabilities), "probabilities": levels}
