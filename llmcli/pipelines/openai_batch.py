"""OpenAI Batch lines: what one asks in the names of llmcli, and the answer in OpenAI's form."""

import time
from collections.abc import Sequence

from llmcli.errors import LlmcliError, UsageError
from llmcli.inference import openai_format
from llmcli.inference.openai_format import Values, error_body, status_code, usage_data

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


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
    return openai_format.native_values(body, url == CHAT)


def names_another_model(values: Values, names: Sequence[str]) -> str:
    """The model that a line asks for, if it is none of these; else empty."""
    body = values.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) and model not in names else ""


def output_line(values: Values, number: int, data: Values, error: LlmcliError | None) -> dict[str, object]:
    """The line of the output for the data of an answer (see `answer_data`), or for its error."""
    body = error_body(error) if error else _answer_body(values.get("url") != COMPLETION, number, data)
    return {
        "id": f"batch_req_{number}",
        "custom_id": values.get("custom_id"),
        "response": {"status_code": status_code(error), "request_id": f"req_{number}", "body": body},
        "error": {"code": error.kind, "message": str(error)} if error else None,
    }


def _answer_body(is_chat: bool, number: int, data: Values) -> dict[str, object]:
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{number}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": data["model"],
        "choices": [(openai_format.chat_choice if is_chat else openai_format.text_choice)(data)],
        "usage": usage_data(int(str(data["prompt_tokens"])), int(str(data["completion_tokens"]))),
    }
