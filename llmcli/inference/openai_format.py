"""OpenAI's form of requests and answers: its body in the names of llmcli, and the data of an answer in its names."""

import json
from collections.abc import Mapping, Sequence

from llmcli.errors import ExitStatus, LlmcliError, UsageError

Values = Mapping[str, object]
# Keys that change no answer here.
_WITHOUT_EFFECT = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "stream_options", "parallel_tool_calls"),
        *("prediction", "verbosity", "moderation", "audio"),  # without `modalities` audio is not asked for
        "model",  # it is that of the command
    )
)
# Keys with the one value that means what llmcli does anyway.
_ONLY: dict[str, object] = {"n": 1, "best_of": 1, "stream": False, "echo": False, "suffix": "", "modalities": ["text"]}
_ONLY |= {"tools": [], "functions": [], "tool_choice": "none", "function_call": "none"}
_STATUS_CODES = {ExitStatus.USAGE: 400, ExitStatus.CONTEXT_OVERFLOW: 400, ExitStatus.CONSTRAINT_UNMET: 422}


def native_values(body: Values, is_chat: bool) -> dict[str, object]:
    """A body in the keys of llmcli: `messages` or `prompt`, and settings. Raises UsageError for what it cannot do."""
    native: dict[str, object] = {} if is_chat else {"raw": True}
    for key, value in body.items():
        if key in _WITHOUT_EFFECT or value is None:
            continue
        if key in _ONLY:
            if value != _ONLY[key]:
                raise UsageError(f"{key} must be {json.dumps(_ONLY[key])}: llmcli does not support another value")
        elif key in ("logprobs", "top_logprobs"):
            native["logprobs"] = _n_logprobs(body)
        elif key == "response_format":
            native |= _constraint(value)
        elif key == "reasoning_effort":
            effort: dict[str, object] = {"template_arg": {key: value}}
            native |= {"think": "off"} if value == "none" else effort
        else:
            native[key] = value
    return native


def _n_logprobs(body: Values) -> object:
    """The number of alternatives: in chats `top_logprobs`, in completions `logprobs` itself."""
    wanted = body.get("logprobs")
    if not isinstance(wanted, bool):
        return wanted if wanted is not None else 0
    return (body.get("top_logprobs") or 1) if wanted else 0


def _constraint(response_format: object) -> dict[str, object]:
    given = response_format if isinstance(response_format, dict) else {}
    kind = given.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        schema = given.get("schema")  # a field of llama-server
        if schema is not None and not isinstance(schema, dict):
            raise UsageError("response_format.schema must be an object")
        return {"json_schema": schema or {"type": "object"}}
    outer = given.get("json_schema", given) if kind == "json_schema" else None  # llama-server's page has both forms
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict):
        raise UsageError("response_format must be text, json_object, or json_schema with a schema")
    return {"json_schema": schema}


def status_code(error: LlmcliError | None) -> int:
    """The status of HTTP for an error; 200 without one."""
    return _STATUS_CODES.get(error.status, 500) if error else 200


def error_body(error: LlmcliError) -> dict[str, object]:
    kind = "invalid_request_error" if status_code(error) < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.kind}}


def usage_data(n_prompt: int, n_generated: int) -> dict[str, object]:
    return {"prompt_tokens": n_prompt, "completion_tokens": n_generated, "total_tokens": n_prompt + n_generated}


def chat_choice(data: Values, index: int = 0) -> dict[str, object]:
    """A choice of a chat completion; `data` is that of an answer, see `answer_data`."""
    text, tokens = data.get("extracted", data["text"]), data.get("tokens")
    reasoning = {"reasoning_content": data["reasoning_content"]} if "reasoning_content" in data else {}
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None, **reasoning},
        "logprobs": {"content": tokens, "refusal": None} if tokens else None,
        "finish_reason": data["finish_reason"],
    }


def text_choice(data: Values, index: int = 0) -> dict[str, object]:
    """A choice of a completion."""
    text, tokens = data.get("extracted", data["text"]), data.get("tokens")
    logprobs = legacy_logprobs(tokens) if isinstance(tokens, list) and tokens else None
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": data["finish_reason"]}


def legacy_logprobs(tokens: Sequence[Values], offset: int = 0) -> dict[str, object]:
    """The four lists of a completion; `offset` is that of the first token in the text, in characters."""
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(str(token["token"]))
    tops = [token.get("top_logprobs") for token in tokens]
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {one["token"]: one["logprob"] for one in top} if isinstance(top, list) else None for top in tops
        ],
        "text_offset": offsets,
    }
