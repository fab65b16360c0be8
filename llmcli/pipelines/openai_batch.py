"""OpenAI Batch lines: what one asks in the names of llmcli, and the answer in OpenAI's form."""

import json
import time
from collections.abc import Mapping, Sequence

from llmcli.errors import ExitStatus, LlmcliError, UsageError

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
Values = Mapping[str, object]
# Keys that change no answer here.
_WITHOUT_EFFECT = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "stream_options", "parallel_tool_calls"),
        "model",  # it is that of the command
    )
)
# Keys with the one value that means what llmcli does anyway.
_ONLY: dict[str, object] = {"n": 1, "best_of": 1, "stream": False, "echo": False, "suffix": "", "modalities": ["text"]}
_ONLY |= {"tools": [], "functions": [], "tool_choice": "none", "function_call": "none"}
_STATUS_CODES = {ExitStatus.USAGE: 400, ExitStatus.CONTEXT_OVERFLOW: 400, ExitStatus.CONSTRAINT_UNMET: 422}


def native_values(values: Values) -> dict[str, object]:
    """The line in the keys of llmcli: `messages` or `prompt`, and settings. Raises UsageError for what it cannot do."""
    url, body = values.get("url"), values.get("body")
    if not isinstance(values.get("custom_id"), str):
        raise UsageError("custom_id must be a string")
    if values.get("method", "POST") != "POST":
        raise UsageError("method must be 'POST'")
    if url not in (CHAT, COMPLETION):
        raise UsageError(f"url must be {CHAT} or {COMPLETION}")
    if not isinstance(body, dict):
        raise UsageError("body must be a JSON object")
    native: dict[str, object] = {} if url == CHAT else {"raw": True}
    for key, value in body.items():
        if key in _WITHOUT_EFFECT or value is None:
            continue
        if key in _ONLY:
            if value != _ONLY[key]:
                raise UsageError(f"{key} must be {json.dumps(_ONLY[key])}: llmcli does not support another value")
        elif key in ("logprobs", "top_logprobs"):
            native["logprobs"] = _logprobs(body)
        elif key == "response_format":
            native |= _schema(value)
        elif key == "reasoning_effort":
            effort: dict[str, object] = {"template_arg": {key: value}}
            native |= {"think": "off"} if value == "none" else effort
        else:
            native[key] = value
    return native


def _logprobs(body: Values) -> object:
    """The number of alternatives: in chats `top_logprobs`, in completions `logprobs` itself."""
    wanted = body.get("logprobs")
    if not isinstance(wanted, bool):
        return wanted if wanted is not None else 0
    return (body.get("top_logprobs") or 1) if wanted else 0


def _schema(value: object) -> dict[str, object]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    outer = value.get("json_schema") if isinstance(value, dict) and kind == "json_schema" else None
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict):
        raise UsageError("response_format must be text, json_object, or json_schema with a schema")
    return {"json_schema": schema}


def names_another_model(values: Values, names: Sequence[str]) -> str:
    """The model that a line asks for, if it is none of these; else empty."""
    body = values.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) and model not in names else ""


def output_line(values: Values, number: int, data: Values, error: LlmcliError | None) -> dict[str, object]:
    """The line of the output for the data of an answer (see `answer_data`), or for its error."""
    body = _error_body(error) if error else _answer_body(values.get("url") != COMPLETION, number, data)
    return {
        "id": f"batch_req_{number}",
        "custom_id": values.get("custom_id"),
        "response": {"status_code": _status_code(error), "request_id": f"req_{number}", "body": body},
        "error": {"code": error_type(error), "message": str(error)} if error else None,
    }


def error_type(error: LlmcliError) -> str:
    """The name of the exit status of an error: usage, context_overflow, constraint_unmet, timeout, ..."""
    return error.status.name.lower()


def _status_code(error: LlmcliError | None) -> int:
    return _STATUS_CODES.get(error.status, 500) if error else 200


def _error_body(error: LlmcliError) -> dict[str, object]:
    kind = "invalid_request_error" if _status_code(error) < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error_type(error)}}


def _answer_body(is_chat: bool, number: int, data: Values) -> dict[str, object]:
    tokens = data.get("tokens")
    prompt, completion = int(str(data["prompt_tokens"])), int(str(data["completion_tokens"]))
    choice: dict[str, object] = {"index": 0, "finish_reason": data["finish_reason"]}
    if is_chat:
        reasoning = {"reasoning_content": data["reasoning_content"]} if "reasoning_content" in data else {}
        choice["message"] = {"role": "assistant", "content": data["text"], "refusal": None, **reasoning}
        choice["logprobs"] = {"content": tokens, "refusal": None} if tokens else None
    else:
        choice["text"], choice["logprobs"] = data["text"], _legacy_logprobs(tokens)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{number}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": data["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }


def _legacy_logprobs(tokens: object) -> dict[str, object] | None:
    """The four lists of `text_completion`."""
    if not isinstance(tokens, list) or not tokens:
        return None
    offsets, length = [], 0
    for token in tokens:
        offsets.append(length)
        length += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{one["token"]: one["logprob"] for one in token["top_logprobs"]} for token in tokens],
        "text_offset": offsets,
    }
