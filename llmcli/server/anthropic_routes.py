"""Anthropic's routes for text: /v1/messages and /v1/messages/count_tokens."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.openai_format import native_values
from llmcli.inference.request import PLAIN_STOP
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.chat_question import take_chat
from llmcli.server.errors import anthropic_error_data
from llmcli.server.http import Values, event, event_stream, json_response, read_body, take, unless_gone
from llmcli.server.native_routes import verbose_data
from llmcli.server.service import take_model
from llmcli.server.text_requests import TextRequest, count_cached, take_request

# Keys that change no answer here.
_WITHOUT_EFFECT = (
    *("metadata", "service_tier", "container", "context_management", "inference_geo", "cache_control", "diagnostics"),
    *("speed", "user_profile_id", "workspace_id"),
)


async def messages(request: Request) -> Response:
    """An answer to messages."""
    body = _openai_body(await read_body(request))
    asked = await take_request(request, body)
    if asked.n > 1:
        raise UsageError("n must be 1: a message has one answer")
    asked.questions = [take_chat(body)]
    asked.own = native_values(body, is_chat=True)
    group, name = asked.start(await asked.read()), f"msg_{uuid.uuid4().hex[:24]}"
    if asked.is_streamed:
        return await event_stream(_events(asked, group, name))
    await unless_gone(request, group.end())
    (answer,) = group.answers
    if failure := answer.constraint_failure():
        raise failure
    data = {**_message(asked, name, _blocks(asked, answer)), **_end(answer), "usage": _usage(answer)}
    return json_response({**data, **verbose_data(asked, answer), **await asked.extra_data(answer)})


async def count_tokens(request: Request) -> Response:
    """The number of tokens of messages."""
    body = _openai_body(await read_body(request))
    model = await take_model(request, body)
    chat = take_chat(body, is_answered=False)
    prompt = await model.read_prompt(chat, native_values(body, is_chat=True))
    return json_response({"input_tokens": len(prompt.tokens)})


def _openai_body(body: Values) -> Values:
    """The body in OpenAI's form. Raises UsageError for what that does not have."""
    for key in _WITHOUT_EFFECT:
        body.pop(key, None)
    given = body.get("messages")
    if not isinstance(given, list):
        raise UsageError("messages must be a list of objects with role and content")
    converted = [message for index, one in enumerate(given) for message in _messages(one, f"messages[{index}]")]
    if system := body.pop("system", None):
        converted.insert(0, {"role": "system", "content": system})
    body["messages"] = converted
    if stop := take(body, "stop_sequences", list, []):
        body["stop"] = stop
    if thinking := take(body, "thinking", dict, {}):
        body |= {"think": "off"} if thinking.get("type") == "disabled" else {}
        body |= {"think_budget": thinking["budget_tokens"]} if thinking.get("budget_tokens") is not None else {}
    output = take(body, "output_config", dict, {})
    output = {"format": body.pop("output_format", None), **output}  # it was called so at first
    body |= {"response_format": output["format"]} if output["format"] else {}
    body |= {"reasoning_effort": output["effort"]} if output.get("effort") else {}
    tools = take(body, "tools", list, [])
    body["tools"] = [_tool(one) for one in tools]
    choice = take(body, "tool_choice", dict, {})
    body["tool_choice"] = choice.get("type")
    return body


def _tool(tool: object) -> object:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise UsageError("a tool must be an object with name and input_schema")
    names = {"name": "name", "description": "description", "input_schema": "parameters"}
    return {"type": "function", "function": {names[key]: value for key, value in tool.items() if key in names}}


def _messages(message: object, place: str) -> list[Values]:
    """A message in OpenAI's form: the results of tools are messages of their own there, before the text."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return [message]  # type: ignore[list-item]  # it is checked later
    content, calls, results, thoughts = list[object](), list[Values](), list[Values](), list[str]()
    for block in message["content"]:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input", {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            result = block.get("content") or ""
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result})
        elif kind in ("text", "image"):
            content.append(block)
        elif kind != "redacted_thinking":
            raise UsageError(f"{place}.content has a block of type {str(kind)[:40]!r}, which is not supported")
    if not (content or calls or thoughts) and results:
        return results
    own: Values = {"role": message.get("role"), "content": content}
    own |= {"tool_calls": calls} if calls else {}
    own |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return [*results, own]


def _blocks(asked: TextRequest, answer: Answer) -> Sequence[Values]:
    text, reasoning = asked.text(answer), asked.reasoning(answer)
    blocks: list[Values] = [{"type": "thinking", "thinking": reasoning, "signature": ""}] if reasoning else []
    shown: list[Values] = [{"type": "text", "text": text}] if text else []
    return [*blocks, *shown]


def _message(asked: TextRequest, name: str, content: Sequence[Values]) -> Values:
    return {"id": name, "type": "message", "role": "assistant", "content": content, "model": asked.model.name}


def _end(answer: Answer) -> Values:
    """Why an answer ended."""
    stop = answer.record.stop_string.removeprefix(PLAIN_STOP)  # that of the plain template is the end of the turn
    reasons = {"stop": "stop_sequence" if stop else "end_turn"}
    return {"stop_reason": reasons.get(answer.finish_reason, "max_tokens"), "stop_sequence": stop or None}


def _usage(answer: Answer) -> Values:
    cached = count_cached(answer)
    return {
        "input_tokens": len(answer.prompt.tokens) - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": answer.record.timings.predicted_n,
    }


async def _events(asked: TextRequest, group: AnswerGroup, name: str) -> AsyncIterator[bytes]:
    """The events of a stream. Raises an error that comes before the first one."""
    (answer,) = group.answers
    block, index, has_begun = "", -1, False
    async with aclosing(asked.pieces(group)) as pieces:
        async for piece in pieces:
            if piece.progress:
                continue
            if not has_begun:
                has_begun = True
                start = {**_message(asked, name, []), "stop_reason": None, "stop_sequence": None}
                yield _event("message_start", message={**start, "usage": {**_usage(answer), "output_tokens": 0}})
            for kind, field, text in (("thinking", "thinking", piece.reasoning), ("text", "text", piece.text)):
                if text and kind != block:
                    if block:
                        yield _event("content_block_stop", index=index)
                    block, index = kind, index + 1
                    yield _event("content_block_start", index=index, content_block={"type": kind, field: ""})
                if text:
                    yield _event("content_block_delta", index=index, delta={"type": f"{kind}_delta", field: text})
            error = piece.error or (answer.constraint_failure() if piece.is_last else None)
            if error:
                yield event(anthropic_error_data(error), "error")
                return
    if block:
        yield _event("content_block_stop", index=index)
    extra = verbose_data(asked, answer) | await asked.extra_data(answer)
    yield _event("message_delta", delta=_end(answer), usage=_usage(answer), **extra)
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> bytes:
    return event({"type": kind, **fields}, kind)
