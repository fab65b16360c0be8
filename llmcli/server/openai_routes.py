"""OpenAI's routes for text: /v1/chat/completions and /v1/completions."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from llmcli import __version__
from llmcli.engine.events import Request as EngineRequest
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer, text_and_reasoning
from llmcli.inference.answer_json import token_data
from llmcli.inference.openai_format import chat_choice, legacy_logprobs, native_values, text_choice, usage_data
from llmcli.inference.question_data import parse_messages
from llmcli.server.echo import Echo, read_echoes
from llmcli.server.errors import error_data
from llmcli.server.extras import Extras, read_extras
from llmcli.server.http import DONE, Values, event, event_stream, is_tokens, json_response, read_body, take, unless_gone
from llmcli.server.served_model import Question, ServedModel
from llmcli.server.service import Service, service_of
from llmcli.server.worker import AnswerGroup, Update

_MOST_CHOICES = 128


@dataclass
class _Asked:
    """A request for text, beside its settings."""

    is_chat: bool
    model: ServedModel
    questions: Sequence[Question]
    own: Values  # settings, in the names of llmcli
    n: int = 1
    is_streamed: bool = False
    has_usage: bool = False  # a stream ends with the usage
    has_echo: bool = False  # the text begins with the prompt
    extras: Extras = field(default_factory=Extras)
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, is_chunk: bool = False) -> Values:
        """The fields that each response and each chunk begin with."""
        kind = ("chat.completion" if self.is_chat else "text_completion") + (
            ".chunk" if is_chunk and self.is_chat else ""
        )
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": f"b-llmcli-{__version__}",
        }


async def chat_completions(request: Request) -> Response:
    """Answers to messages."""
    return await _answer(request, await _read(request, is_chat=True))


async def completions(request: Request) -> Response:
    """Continuations of texts."""
    return await _answer(request, await _read(request, is_chat=False))


async def _read(request: Request, is_chat: bool) -> _Asked:
    body = await read_body(request)
    service: Service = service_of(request)
    model = await service.model(take(body, "model", str, ""), request)
    stream, options = take(body, "stream", bool, False), take(body, "stream_options", dict, {})
    n = take(body, "n", int, 1)
    if not 1 <= n <= _MOST_CHOICES:
        raise UsageError(f"n must be between 1 and {_MOST_CHOICES}, got {n}")
    has_echo = not is_chat and take(body, "echo", bool, False)
    extras = read_extras(body)
    own = native_values(body, is_chat)
    if is_chat:
        questions: Sequence[Question] = [parse_messages(own.pop("messages", None))]
    else:
        questions = _prompts(own.pop("prompt", None))
    name = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex[:24]}"
    return _Asked(is_chat, model, questions, own, n, stream, bool(options.get("include_usage")), has_echo, extras, name)


def _prompts(value: object) -> Sequence[Question]:
    """A text, a list of texts, the tokens of a prompt, or a list of those. Raises UsageError."""
    values = value if isinstance(value, list) and not is_tokens(value) else [value]
    if not values or not all(isinstance(one, str) or is_tokens(one) for one in values):
        raise UsageError("prompt must be a string, a list of strings, a list of tokens, or a list of such lists")
    return values  # type: ignore[return-value]


async def _answer(request: Request, asked: _Asked) -> Response:
    settings = asked.model.settings(asked.own)
    model = asked.model
    requests = await model.in_thread(lambda: [model.make_request(one, settings) for one in asked.questions])
    for one in requests:
        one.trace = asked.extras.trace
    echoes = await unless_gone(request, read_echoes(model, requests)) if asked.has_echo else []
    if echoes and all(one.following for one in echoes) and not asked.is_streamed:
        return json_response(_echoed(asked, requests, echoes))
    group = model.start(requests, asked.n)
    if asked.is_streamed:
        return await event_stream(_events(asked, group, echoes))
    await unless_gone(request, group.end())
    choices = [_choice(asked, answer, index, echoes) for index, answer in enumerate(group.answers)]
    for choice, answer in zip(choices, group.answers, strict=True):
        choice |= await asked.extras.data(answer, answer.traces, is_last=True)
    return json_response({**asked.head(), "choices": choices, "usage": usage(group), "timings": timings(group)})


def _echoed(asked: _Asked, requests: Sequence[EngineRequest], echoes: Sequence[Echo]) -> Values:
    """The response for prompts with at most one token after them, which needed no generation."""
    choices, n_prompt, n_generated = list[Values](), sum(len(one.prompt.tokens) for one in requests), 0
    for echo in echoes:
        data = echo.following or {}
        tokens = data["tokens"] if isinstance(data["tokens"], list) else []
        n_generated += len(tokens) * asked.n
        joined = {**data, "text": f"{echo.text}{data['text']}", "tokens": [*echo.tokens, *tokens]}
        choices += [text_choice(joined, len(choices) + index) for index in range(asked.n)]
    return {**asked.head(), "choices": choices, "usage": usage_data(n_prompt, n_generated)}


def _choice(asked: _Asked, answer: Answer, index: int, echoes: Sequence[Echo]) -> Values:
    failure = answer.constraint_failure()
    echo = echoes[index // asked.n] if echoes else Echo("", [])
    text, tokens = echo.text + answer.text, [*echo.tokens, *token_data(answer)]
    data: Values = {"text": text, "finish_reason": finish_reason(answer), "tokens": tokens}
    if answer.reasoning:
        data["reasoning_content"] = answer.reasoning
    choice = (chat_choice if asked.is_chat else text_choice)(data, index)
    return {**choice, **({"error": error_data(failure)["error"]} if failure else {})}


async def _events(asked: _Asked, group: AnswerGroup, echoes: Sequence[Echo]) -> AsyncIterator[bytes]:
    """The chunks of a stream. Raises an error that comes before the first one."""
    n_sent = [0] * len(group.answers)
    has_begun = [False] * len(group.answers)
    head = asked.head(is_chunk=True)
    async with aclosing(group.updates()) as updates:
        async for update in updates:
            if update.error and not any(has_begun):
                raise update.error
            if asked.is_chat and not has_begun[update.index]:
                yield event({**head, "choices": [_delta(update.index, {"role": "assistant", "content": None})]})
            if echoes and not has_begun[update.index]:
                echo = echoes[update.index // asked.n]
                yield event({**head, "choices": [_piece(asked, update.index, echo.text, "", echo.tokens)]})
            has_begun[update.index] = True
            if update.error:
                yield event(error_data(update.error))
                return
            answer = group.answers[update.index]
            logprobs = _new_logprobs(answer, n_sent, update)
            text, reasoning = text_and_reasoning(update.parts)
            extra = await asked.extras.data(answer, update.traces, update.is_last)
            if text or reasoning or logprobs or extra:
                yield event({**head, "choices": [{**_piece(asked, update.index, text, reasoning, logprobs), **extra}]})
            if update.is_last:
                last = (
                    _delta(update.index, {}) if asked.is_chat else {"index": update.index, "text": "", "logprobs": None}
                )
                closing = {} if asked.has_usage else {"timings": timings(group)}
                yield event({**head, "choices": [{**last, "finish_reason": finish_reason(answer)}], **closing})
    if asked.has_usage:
        yield event({**head, "choices": [], "usage": usage(group), "timings": timings(group)})
    yield DONE


def _delta(index: int, delta: Values) -> Values:
    return {"index": index, "delta": delta, "finish_reason": None}


def _piece(asked: _Asked, index: int, text: str, reasoning: str, logprobs: Sequence[Values]) -> Values:
    if not asked.is_chat:
        legacy = legacy_logprobs(logprobs) if logprobs else None
        return {"index": index, "text": text, "logprobs": legacy, "finish_reason": None}
    delta: Values = {**({"reasoning_content": reasoning} if reasoning else {}), **({"content": text} if text else {})}
    return {**_delta(index, delta), **({"logprobs": {"content": logprobs}} if logprobs else {})}


def _new_logprobs(answer: Answer, n_sent: list[int], update: Update) -> Sequence[Values]:
    if not answer.settings.logprobs:
        return []
    start, n_sent[update.index] = n_sent[update.index], max(update.n_logprobs, n_sent[update.index])
    return token_data(answer, start, update.n_logprobs)


def finish_reason(answer: Answer) -> str:
    """In OpenAI's words: an answer that its time limit or its client ended has no reason of its own there."""
    return answer.finish_reason if answer.finish_reason in ("stop", "length") else "length"


def usage(group: AnswerGroup) -> Values:
    """The tokens of all answers; a prompt with several answers counts once."""
    prompts = {id(one.prompt): len(one.prompt.tokens) for one in group.answers}
    n_generated = sum(one.record.timings.predicted_n for one in group.answers)
    n_prompt = sum(prompts.values())
    n_read = sum(one.record.timings.prompt_n for one in group.answers)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": max(n_prompt - n_read, 0)},
    }


def timings(group: AnswerGroup) -> Values:
    """In llama-server's names and milliseconds: those of the first answer."""
    answer = group.answers[0]
    t = answer.record.timings
    return {
        "cache_n": max(len(answer.prompt.tokens) - t.prompt_n, 0),
        "prompt_n": t.prompt_n,
        "prompt_ms": t.prompt_ms,
        "prompt_per_token_ms": t.prompt_ms / t.prompt_n if t.prompt_n else 0.0,
        "prompt_per_second": t.prompt_per_second,
        "predicted_n": t.predicted_n,
        "predicted_ms": t.predicted_ms,
        "predicted_per_token_ms": t.predicted_ms / (t.predicted_n - 1) if t.predicted_n > 1 else 0.0,
        "predicted_per_second": t.predicted_per_second,
    }
