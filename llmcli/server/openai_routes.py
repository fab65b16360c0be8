"""OpenAI's routes for text: /v1/chat/completions and /v1/completions."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.events import Request as EngineRequest
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import token_data
from llmcli.inference.openai_format import chat_choice, legacy_logprobs, native_values, text_choice, usage_data
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.chat_question import take_chat
from llmcli.server.direct_writer import DirectWriter, open_writer
from llmcli.server.echo import Echo, read_echoes
from llmcli.server.errors import error_data
from llmcli.server.http import DONE, Values, event, event_stream, is_tokens, json_response, read_body, take, unless_gone
from llmcli.server.native_routes import verbose_data
from llmcli.server.request_log import count_read
from llmcli.server.served_model import Question
from llmcli.server.text_requests import Piece, TextRequest, answer_timings, finish_reason, take_request, usage

_MOST_PROMPTS = 2048


@dataclass
class _Asked:
    """A request in OpenAI's form."""

    is_chat: bool
    request: TextRequest
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
            "model": self.request.model.name,
            "system_fingerprint": self.request.model.fingerprint,
        }


async def chat_completions(request: Request) -> Response:
    """Answers to messages."""
    return await _answer(request, await _read(request, is_chat=True))


async def completions(request: Request) -> Response:
    """Continuations of texts."""
    return await _answer(request, await _read(request, is_chat=False))


async def _read(request: Request, is_chat: bool) -> _Asked:
    body = await read_body(request)
    asked = await take_request(request, body)
    asked.has_echo = take(body, "echo", bool, False)
    if is_chat:
        asked.questions = [take_chat(body)]
        asked.own = native_values(body, is_chat)
    else:
        asked.own = native_values(body, is_chat)
        asked.questions = _prompts(asked.own.pop("prompt", None))
    name = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex[:24]}"
    return _Asked(is_chat, asked, name)


def _prompts(value: object) -> Sequence[Question]:
    """A text, a list of texts, the tokens of a prompt, or a list of those. Raises UsageError."""
    values = value if isinstance(value, list) and not is_tokens(value) else [value]
    if len(values) > _MOST_PROMPTS:
        raise UsageError(f"prompt must be a list of at most {_MOST_PROMPTS} prompts, got {len(values)}")
    if not values or not all(isinstance(one, str) or is_tokens(one) for one in values):
        raise UsageError("prompt must be a string, a list of strings, a list of tokens, or a list of such lists")
    return values  # type: ignore[return-value]


async def _answer(request: Request, asked: _Asked) -> Response:
    model, requests = asked.request.model, await asked.request.read()
    has_echoes = asked.request.has_echo and not asked.is_chat
    echoes = await unless_gone(request, read_echoes(model, requests)) if has_echoes else []
    if echoes and all(one.following for one in echoes) and not asked.request.is_streamed:
        return json_response(_echoed(asked, requests, echoes))
    group = asked.request.start(requests, asked.id)
    if asked.request.is_streamed:
        return await event_stream(_events(asked, group, echoes, open_writer(request)))
    await unless_gone(request, group.end())
    choices = [_choice(asked, answer, index, echoes) for index, answer in enumerate(group.answers)]
    for choice, answer in zip(choices, group.answers, strict=True):
        choice |= await asked.request.extra_data(answer)
    tail: Values = {"usage": usage(group), "timings": answer_timings(group.answers[0])}
    return json_response({**asked.head(), "choices": choices, **tail, **verbose_data(asked.request, group.answers[0])})


def _echoed(asked: _Asked, requests: Sequence[EngineRequest], echoes: Sequence[Echo]) -> Values:
    """The response for prompts with at most one token after them, which needed no generation."""
    choices, n_prompt, n_generated = list[Values](), sum(len(one.prompt.tokens) for one in requests), 0
    for echo in echoes:
        data = echo.following or {}
        tokens = data["tokens"] if isinstance(data["tokens"], list) else []
        n_generated += len(tokens) * asked.request.n
        joined = {**data, "text": f"{echo.text}{data['text']}", "tokens": [*echo.tokens, *tokens]}
        choices += [text_choice(joined, len(choices) + index) for index in range(asked.request.n)]
    count_read(n_prompt + n_generated)
    return {**asked.head(), "choices": choices, "usage": usage_data(n_prompt, n_generated)}


def _choice(asked: _Asked, answer: Answer, index: int, echoes: Sequence[Echo]) -> Values:
    request = asked.request
    echo = echoes[index // request.n] if echoes else Echo("", [])
    text, tokens = echo.text + request.text(answer), [*echo.tokens, *token_data(answer)]
    data: Values = {"text": text, "finish_reason": finish_reason(answer), "tokens": tokens}
    if reasoning := request.reasoning(answer):
        data["reasoning_content"] = reasoning
    choice = (chat_choice if asked.is_chat else text_choice)(data, index)
    return {**choice, **_failure(answer)}


def _failure(answer: Answer) -> Values:
    """The error of an answer that does not match its constraint."""
    failure = answer.constraint_failure()
    return {"error": error_data(failure)["error"]} if failure else {}


async def _events(
    asked: _Asked, group: AnswerGroup, echoes: Sequence[Echo], writer: DirectWriter | None
) -> AsyncIterator[bytes]:
    """The chunks of a stream, but those that the writer has sent. Raises an error that comes before the first one."""
    head, request, has_role = asked.head(is_chunk=True), asked.request, set[int]()

    def chunk(piece: Piece, extra: Values) -> bytes:
        return event({**head, "choices": [{**_piece(asked, piece), **extra}], **piece.additions})

    def send(piece: Piece) -> bool:
        return writer is not None and (not (piece.text or piece.reasoning) or writer.write(chunk(piece, {})))

    async with AsyncExitStack() as stack:
        if writer:
            stack.callback(writer.close)
        pieces = await stack.enter_async_context(aclosing(request.pieces(group, send)))
        async for piece in pieces:
            index = piece.index
            if asked.is_chat and index not in has_role:
                has_role.add(index)
                role: Values = {"role": "assistant", "content": None}
                yield event({**head, "choices": [_delta(index, role)], **(piece.additions if piece.progress else {})})
            elif piece.progress:
                yield event({**head, "choices": [_piece(asked, piece)], **piece.additions})
            if echoes and piece.is_first and not piece.progress:
                echo = echoes[index // request.n]
                yield event({**head, "choices": [_piece(asked, Piece(index, echo.text, logprobs=echo.tokens))]})
            if piece.error:
                yield event(error_data(piece.error))
                return
            extra = await request.extras.data(group.answers[index], piece.traces, piece.is_last)
            if piece.text or piece.reasoning or piece.logprobs or extra:
                yield chunk(piece, extra)
            if piece.is_last:
                answer = group.answers[index]
                last = _delta(index, {}) if asked.is_chat else {"index": index, "text": "", "logprobs": None}
                closing = (
                    {}
                    if request.has_usage
                    else {"timings": answer_timings(answer), **verbose_data(asked.request, group.answers[0])}
                )
                last |= {"finish_reason": finish_reason(answer), **_failure(answer)}
                yield event({**head, "choices": [last], **closing})
    if request.has_usage:
        tail: Values = {"usage": usage(group), "timings": answer_timings(group.answers[0])}
        yield event({**head, "choices": [], **tail, **verbose_data(asked.request, group.answers[0])})
    yield DONE


def _delta(index: int, delta: Values) -> Values:
    return {"index": index, "delta": delta, "finish_reason": None}


def _piece(asked: _Asked, piece: Piece) -> Values:
    if not asked.is_chat:
        legacy = legacy_logprobs(piece.logprobs) if piece.logprobs else None
        return {"index": piece.index, "text": piece.text, "logprobs": legacy, "finish_reason": None}
    delta: Values = {"reasoning_content": piece.reasoning} if piece.reasoning else {}
    delta |= {"content": piece.text} if piece.text else {}
    return {**_delta(piece.index, delta), **({"logprobs": {"content": piece.logprobs}} if piece.logprobs else {})}
