"""What is known of each request: its id, its key, its tokens and times; a line of the log says it."""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmcli.errors import LlmcliError
from llmcli.files import encode
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.errors import status_and_type
from llmcli.server.keys import Key, TokenMeter
from llmcli.text import escape_json, sanitize

CLIENT_GONE = 499  # nginx's status for a client that closed the connection before it had an answer
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_PATH = 200  # characters


@dataclass(eq=False)
class RequestRecord:
    """One request, while it runs. Routes are in a task of their own, where `current_record` finds it."""

    id: str
    method: str = ""
    path: str = ""  # as sent, without the query, which may contain what is secret
    started_at: float = field(default_factory=time.perf_counter)
    key: Key | None = None
    model: str = ""
    groups: list[AnswerGroup] = field(default_factory=list)
    n_read: int = 0  # tokens of texts that are only read: embeddings, rerank, scores
    status: int = 0
    error: BaseException | None = None

    @property
    def n_prompt(self) -> int:
        """The tokens of all prompts."""
        return self.n_read + sum(one.counts[0] for one in self.groups)

    @property
    def n_cached(self) -> int:
        """The tokens of prompts that were evaluated before."""
        return sum(one.counts[1] for one in self.groups)

    @property
    def n_generated(self) -> int:
        """The tokens of all answers."""
        return sum(one.counts[2] for one in self.groups)

    def fault(self) -> BaseException | None:
        """The error of the request, or the one that ended one of its answers."""
        return self.error or next((one.error for one in self.groups if one.error), None)

    def data(self, has_content: bool) -> dict[str, object]:
        """The values of its line."""
        first = min((one.first_at for one in self.groups if one.first_at), default=0.0)
        data: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "id": self.id,
            "key": self.key.name if self.key else None,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "model": self.model or None,
            "prompt_tokens": self.n_prompt,
            "cached_tokens": self.n_cached,
            "generated_tokens": self.n_generated,
            "first_token_ms": round((first - self.started_at) * 1e3, 1) if first else None,
            "total_ms": round((time.perf_counter() - self.started_at) * 1e3, 1),
        }
        fault = self.fault()
        if fault and self.status != CLIENT_GONE:
            known = fault if isinstance(fault, LlmcliError) else LlmcliError("")
            data["error"] = status_and_type(known)[1]
            # What is wrong with a request quotes it; what is wrong with the server must be seen.
            if has_content or status_and_type(known)[0] >= 500:
                data["message"] = f"{fault}" if isinstance(fault, LlmcliError) else f"{type(fault).__name__}: {fault}"
        if has_content:
            answers = [answer for group in self.groups for answer in group.answers]
            data["prompts"] = list(dict.fromkeys(one.prompt.text for one in answers))
            data["answers"] = [one.text for one in answers]
        return data


_current: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


def current_record() -> RequestRecord | None:
    """The record of the request that this task answers."""
    return _current.get()


def count_read(n_tokens: int) -> None:
    """Count tokens that a request lets a model read without an answer."""
    if record := _current.get():
        record.n_read += n_tokens


class RequestLog:
    """The outermost layer: gives each request a record and the header x-request-id, and writes its line at its end."""

    def __init__(
        self, app: ASGIApp, running: set[RequestRecord], meter: TokenMeter, write: Callable[[RequestRecord], None]
    ) -> None:
        """`running` gets the records of the requests that have not ended, `meter` the tokens of the others."""
        self._app, self._running, self._meter, self._write = app, running, meter, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        one = RequestRecord(asked if _ID.fullmatch(asked) else uuid.uuid4().hex[:16], scope["method"])
        one.path = scope.get("raw_path", b"").decode("latin-1")[:_LONGEST_PATH]
        _current.set(one)
        self._running.add(one)
        is_complete = is_gone = False

        async def watched_receive() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone |= message["type"] == "http.disconnect" and not is_complete
            return message

        async def named_send(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                one.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = one.id
                # As they are usually written: some clients compare names with their case, though HTTP has none.
                message["headers"] = [(name.title(), value) for name, value in message["headers"]]
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, watched_receive, named_send)
        except Exception as error:
            one.error = error
            if not is_complete:
                raise
        finally:
            self._running.discard(one)
            one.status = CLIENT_GONE if is_gone else one.status
            if one.key:
                self._meter.add(one.key, one.n_prompt + one.n_generated)
            self._write(one)


def json_line(data: Mapping[str, object]) -> str:
    """The line of a record as JSON."""
    return escape_json(encode(data).decode())


def text_line(data: Mapping[str, object]) -> str:
    """The line of a record for people: control characters are visible, and a text stays in its line."""
    words = [str(data[name] or "-") for name in ("time", "id", "key", "method", "path", "status", "model")]
    short = {"prompt_tokens": "prompt", "cached_tokens": "cached", "generated_tokens": "generated"}
    if data["prompt_tokens"]:
        words += [f"{name}={data[key]}" for key, name in short.items()]
    if data["first_token_ms"] is not None:
        words.append(f"first={data['first_token_ms']}ms")
    words.append(f"total={data['total_ms']}ms")
    words += [f"{name}={_quoted(data[name])}" for name in ("error", "message", "prompts", "answers") if name in data]
    return sanitize(" ".join(words)).replace("\n", "␊") + "\n"


def _quoted(value: object) -> str:
    import json

    return str(value) if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)
