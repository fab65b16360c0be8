"""OpenAI's Responses: /v1/responses, as far as text goes."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.openai_format import native_values
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.chat_question import take_chat
from llmcli.server.errors import error_data
from llmcli.server.http import Values, event, event_stream, json_response, read_body, take, unless_gone
from llmcli.server.native_routes import verbose_data
from llmcli.server.text_requests import Piece, TextRequest, answer_timings, finish_reason, take_request, usage
from llmcli.server.tokenizer_routes import count_chat

# Keys that change no answer here; nothing is stored.
_WITHOUT_EFFECT = (
    "store",
    "include",
    "truncation",
    "background",
    "max_tool_calls",
    "stream_options",
    "client_metadata",
    "background_options",
    "context_management",
    "access_programs",
    "image",
)


@dataclass
class _Asked:
    """A request for a response, and what its parts are called."""

    request: TextRequest
    max_tokens: object
    instructions: str
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    reasoning_id: str = field(default_factory=lambda: f"rs_{uuid.uuid4().hex}")
    message_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def data(self, status: str, output: Sequence[Values] = (), **others: object) -> Values:
        """The response in this state."""
        own = self.request.own
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.request.model.name,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions or None,
            "max_output_tokens": self.max_tokens,
            "metadata": {},
            "parallel_tool_calls": False,
            "temperature": own.get("temperature"),
            "top_p": own.get("top_p"),
            "tool_choice": "none",
            "tools": [],
            **others,
        }

    def reasoning_item(self, status: str, text: str = "") -> Values:
        content = [{"type": "reasoning_text", "text": text}] if text else []
        return {"id": self.reasoning_id, "type": "reasoning", "summary": [], "content": content, "status": status}

    def message_item(self, status: str, text: str | None = None) -> Values:
        content = [] if text is None else [_part(text)]
        return {"id": self.message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def output(self, answer: Answer) -> Sequence[Values]:
        """The items of a finished answer."""
        text, reasoning = self.request.text(answer), self.request.reasoning(answer)
        status = "completed" if finish_reason(answer) == "stop" else "incomplete"
        items = [self.reasoning_item("completed", reasoning)] if reasoning else []
        return [*items, *([self.message_item(status, text)] if text else [])]

    def end(self, group: AnswerGroup) -> Values:
        """The finished response. Raises ConstraintError if the answer does not match its constraint."""
        (answer,) = group.answers
        if failure := answer.constraint_failure():
            raise failure
        counts = usage(group)
        used = {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": answer.engine.count_tokens(answer.reasoning)},
            "total_tokens": counts["total_tokens"],
        }
        if finish_reason(answer) == "stop":
            return self.data("completed", self.output(answer), usage=used, completed_at=int(time.time()))
        reason = {"reason": "max_output_tokens"}
        return self.data("incomplete", self.output(answer), usage=used, incomplete_details=reason)


def _part(text: str) -> Values:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def responses(request: Request) -> Response:
    """An answer to a text, or to the items of a conversation."""
    body = await read_body(request)
    instructions = take(body, "instructions", str, "")
    body = _chat_body(body, instructions)
    request_ = await take_request(request, body)
    if request_.n > 1:
        raise UsageError("n must be 1: a response has one answer")
    request_.questions = [take_chat(body)]
    asked = _Asked(request_, body.get("max_tokens"), instructions)
    request_.own = native_values(body, is_chat=True)
    group = request_.start(await request_.read())
    if request_.is_streamed:
        return await event_stream(_events(asked, group))
    await unless_gone(request, group.end())
    (answer,) = group.answers
    timings = {"timings": answer_timings(answer)}
    return json_response(asked.end(group) | timings | await _extra_data(request_, answer))


async def input_tokens(request: Request) -> Response:
    """The number of tokens of a text, or of the items of a conversation."""
    body = await read_body(request)
    return await count_chat(request, _chat_body(body, take(body, "instructions", str, "")))


async def _extra_data(request: TextRequest, answer: Answer) -> Values:
    return verbose_data(request, answer) | await request.extra_data(answer)


def _chat_body(body: Values, instructions: str) -> Values:
    """The body of a chat completion with the same meaning. Raises UsageError for what that does not have."""
    for key in _WITHOUT_EFFECT:
        body.pop(key, None)
    for key in ("previous_response_id", "conversation", "prompt"):
        if body.pop(key, None):
            raise UsageError(
                f"{key} is not supported: this server stores nothing", "send the whole conversation as input"
            )
    given = body.pop("input", None)
    if not isinstance(given, (str, list)) or not given:
        raise UsageError("input must be a string, or a list of items")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else _joined(map(_message, given))
    if instructions:
        items.insert(0, {"role": "system", "content": instructions})
    body["messages"] = items
    if (limit := body.pop("max_output_tokens", None)) is not None:
        body["max_tokens"] = limit
    if effort := take(body, "reasoning", dict, {}).get("effort"):
        body["reasoning_effort"] = effort
    body["tools"] = take(body, "tools", list, [])
    if form := take(body, "text", dict, {}).get("format"):
        is_schema = isinstance(form, dict) and form.get("type") == "json_schema"
        body["response_format"] = {"type": "json_schema", "json_schema": form} if is_schema else form
    return body


def _message(item: object) -> Values:
    """An item of a conversation as a message, or as a part of one of the assistant."""
    if not isinstance(item, Mapping):
        raise UsageError("an item of input must be an object")
    kind = item.get("type", "message")
    if kind == "message":
        content = item.get("content")
        if isinstance(content, list):
            content = [
                {**one, "type": "text"}
                if isinstance(one, Mapping) and one.get("type") in ("input_text", "output_text", "text")
                else one
                for one in content
            ]
        return {"role": item.get("role"), "content": content}
    if kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        texts = (
            [str(one.get("text", "")) for one in parts if isinstance(one, Mapping)] if isinstance(parts, list) else []
        )
        return {"role": "assistant", "content": "", "reasoning_content": "".join(texts)}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": output if output is not None else ""}
    raise UsageError(f"input has an item of type {str(kind)[:40]!r}, which is not supported")


def _joined(messages: Iterator[Values]) -> list[Values]:
    """The messages; reasoning and calls of tools are parts of the message of the assistant beside them."""
    found: list[Values] = []
    for one in messages:
        last = found[-1] if found else {}
        if one["role"] == last.get("role") == "assistant" and ("reasoning_content" in last or "tool_calls" in one):
            calls = [*last.get("tool_calls", []), *one.get("tool_calls", [])]  # type: ignore[misc]
            texts = {"content": one["content"] or last["content"]}
            found[-1] = {**last, **one, **texts, **({"tool_calls": calls} if calls else {})}
        else:
            found.append(one)
    return found


class _Stream:
    """The events of one response, numbered."""

    def __init__(self, asked: _Asked) -> None:
        self._asked, self._number, self._output = asked, 0, -1
        self._item = ""  # the type of the open item
        self._text = ""  # of the open item

    def event(self, kind: str, extras: Values, **fields: object) -> bytes:
        data = event({"type": kind, "sequence_number": self._number, **fields, **extras}, kind)
        self._number += 1
        return data

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """The events that a piece adds."""
        if piece.reasoning:
            yield from self._open("reasoning")
            yield self._delta("response.reasoning_text.delta", piece.reasoning, piece.additions)
        if piece.text:
            yield from self._open("message")
            yield self._delta("response.output_text.delta", piece.text, piece.additions)

    def _delta(self, kind: str, text: str, extras: Values) -> bytes:
        self._text += text
        return self.event(kind, extras, **self._place(), delta=text)

    def _place(self) -> Values:
        name = self._asked.message_id if self._item == "message" else self._asked.reasoning_id
        return {"item_id": name, "output_index": self._output, "content_index": 0}

    def _open(self, item: str) -> Iterator[bytes]:
        if self._item == item:
            return
        yield from self.close("completed")
        self._item, self._text, self._output = item, "", self._output + 1
        new = self._asked.message_item if item == "message" else self._asked.reasoning_item
        yield self.event("response.output_item.added", {}, output_index=self._output, item=new("in_progress"))
        part = _part("") if item == "message" else {"type": "reasoning_text", "text": ""}
        yield self.event("response.content_part.added", {}, **self._place(), part=part)

    def close(self, status: str) -> Iterator[bytes]:
        """End the open item, if there is one."""
        if not self._item:
            return
        is_message, text = self._item == "message", self._text
        name = "output_text" if is_message else "reasoning_text"
        part = _part(text) if is_message else {"type": "reasoning_text", "text": text}
        item = self._asked.message_item(status, text) if is_message else self._asked.reasoning_item(status, text)
        yield self.event(f"response.{name}.done", {}, **self._place(), text=text)
        yield self.event("response.content_part.done", {}, **self._place(), part=part)
        yield self.event("response.output_item.done", {}, output_index=self._output, item=item)
        self._item = ""


async def _events(asked: _Asked, group: AnswerGroup) -> AsyncIterator[bytes]:
    """The events of a stream. Raises an error that comes before the first one."""
    stream, has_begun, running = _Stream(asked), False, asked.data("in_progress")
    async with aclosing(asked.request.pieces(group)) as pieces:
        async for piece in pieces:
            if not has_begun:
                has_begun = True
                yield stream.event("response.created", {}, response=running)
                yield stream.event("response.in_progress", piece.additions if piece.progress else {}, response=running)
            elif piece.progress:
                yield stream.event("response.in_progress", piece.additions, response=running)
            if piece.error:
                yield _failed(stream, asked, piece.error)
                return
            for one in stream.piece(piece):
                yield one
    (answer,) = group.answers
    try:
        end = asked.end(group) | await _extra_data(asked.request, answer)
    except LlmcliError as error:
        yield _failed(stream, asked, error)
        return
    for one in stream.close("completed" if end["status"] == "completed" else "incomplete"):
        yield one
    yield stream.event(f"response.{end['status']}", {"timings": answer_timings(answer)}, response=end)


def _failed(stream: _Stream, asked: _Asked, error: LlmcliError) -> bytes:
    told = error_data(error)["error"]
    assert isinstance(told, dict)
    reason = {"code": told["type"], "message": told["message"]}
    return stream.event("response.failed", {}, response=asked.data("failed", error=reason))
