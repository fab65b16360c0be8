"""A server with OpenAI's API on this machine: it speaks the dialects of several servers, and has faults to order."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWNERS = {"llama-server": "llamacpp", "vllm": "vllm", "sglang": "sglang", "ollama": "library", "openai": "openai"}
WORDS = ("Blue", " light", " scatters", ".")
Reply = Callable[["Handler", dict[str, Any]], bool]  # True if it has answered


@dataclass
class Dialect:
    """What the server is, what it says, and what it was asked."""

    kind: str = "other"
    models: Sequence[str] = ("first-model", "second-model")
    words: Sequence[str] = WORDS
    reasoning: Sequence[str] = ()
    reasoning_field: str = "reasoning_content"
    key: str = ""  # that a request must have
    has_usage: bool = True
    has_done: bool = True
    has_content_type: bool = True
    line_end: str = "\n"
    answers_as: str = ""  # another model than asked
    finish_reason: str | None = "stop"
    delay: float = 0.0  # seconds before each word
    n_ctx: int = 4096
    letters: int = 1  # of a token of messages
    reply: Reply | None = None  # a fault
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # path and body of each POST
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request
    paths: list[str] = field(default_factory=list)
    n_closed: int = 0  # answers whose reader went
    n_running: int = 0  # answers whose last word is not sent yet
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def body(self) -> dict[str, Any]:
        """The body of the last request for an answer."""
        return next(body for path, body in reversed(self.asked) if path.endswith("completions"))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms, until the client has confirmed the head
    is_running = False
    server: "Server"

    def log_message(self, *_arguments: object) -> None:
        """Silence."""

    @property
    def dialect(self) -> Dialect:
        return self.server.dialect

    def json(self, data: object, status: int = 200, **headers: str) -> None:
        self.send(json.dumps(data).encode(), "application/json", status, **headers)

    def send(self, data: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        """A piece of a body without a length."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def begin_stream(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        if self.dialect.has_content_type:
            self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        end = self.dialect.line_end
        self.chunk(f"data: {text}{end}{end}".encode())

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def is_refused(self) -> bool:
        """Answer with 401 where the key is missing or wrong."""
        dialect = self.dialect
        dialect.headers.append({name.lower(): value for name, value in self.headers.items()})
        dialect.paths.append(self.path)
        if not dialect.key or self.headers.get("authorization") == f"Bearer {dialect.key}":
            return False
        given = self.headers.get("authorization", "")
        self.json({"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}}, 401)
        return True

    def do_GET(self) -> None:
        dialect = self.dialect
        if self.is_refused() or (dialect.reply and dialect.reply(self, {})):
            return
        owner = OWNERS.get(dialect.kind, dialect.kind)
        if self.path == "/v1/models":
            data: list[dict[str, Any]] = [{"id": name, "object": "model", "owned_by": owner} for name in dialect.models]
            if dialect.kind in ("vllm", "sglang"):
                data = [one | {"max_model_len": dialect.n_ctx} for one in data]
            self.json({"object": "list", "data": data})
        elif self.path == "/props" and dialect.kind == "llama-server":
            params = {"temperature": 0.5, "top_k": 20, "top_p": 0.949999988079071, "min_p": 0.10000000149011612}
            self.json({
                "default_generation_settings": {"n_ctx": dialect.n_ctx, "params": params},
                "total_slots": 4,
                "build_info": "b1-test",
                "chat_template": "{{ messages }}",
            })  # fmt: skip
        elif self.path == "/version" and dialect.kind == "vllm":
            self.json({"version": "0.99"})
        elif self.path == "/api/version" and dialect.kind == "ollama":
            self.json({"version": "0.88"})
        else:
            self.json({"error": {"message": "not found", "code": 404}}, 404)

    def do_POST(self) -> None:
        dialect = self.dialect
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        dialect.asked.append((self.path, body))
        if self.is_refused():
            return
        with dialect.lock:
            dialect.n_running += 1
            dialect.most_running = max(dialect.most_running, dialect.n_running)
            self.is_running = True
        try:
            if not (dialect.reply and dialect.reply(self, body)):
                self.answer(body)
        except (BrokenPipeError, ConnectionResetError):
            dialect.n_closed += 1
            self.close_connection = True
        finally:
            self.end_running()

    def end_running(self) -> None:
        """No longer count this answer; before its end is sent, as its reader may ask the next question at once."""
        with self.dialect.lock:
            self.dialect.n_running -= self.is_running
            self.is_running = False

    def answer(self, body: dict[str, Any]) -> None:
        if self.path in ("/tokenize", "/detokenize"):
            self.tokens(body)
        elif self.path == "/apply-template":
            lines = [f"<{one['role']}>{one['content']}" for one in body["messages"]]
            self.json({"prompt": "".join(lines) + "<assistant>"})
        elif body.get("echo"):
            self.json(self.scores(body))
        elif self.path in ("/v1/chat/completions", "/v1/completions"):
            self.stream(body, self.path == "/v1/chat/completions")
        else:
            self.json({"error": {"message": "not found", "code": 404}}, 404)

    def stream(self, body: dict[str, Any], is_chat: bool) -> None:
        dialect = self.dialect
        self.begin_stream()
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        words = [*dialect.words][: limit if limit is not None and limit >= 0 else None]
        model = dialect.answers_as or body["model"]

        def object_of(part: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "finish_reason": reason, **({"delta": part} if is_chat else part)}
            return {"id": "1", "object": "chunk", "model": model, "choices": [choice]}

        if is_chat:
            self.event(object_of({"role": "assistant", "content": None}))
        for text in dialect.reasoning if is_chat else ():
            time.sleep(dialect.delay)
            self.event(object_of({dialect.reasoning_field: text}))
        for word in words:
            time.sleep(dialect.delay)
            data = object_of({"content": word} if is_chat else {"text": word})
            if body.get("logprobs"):
                data["choices"][0]["logprobs"] = logprobs_of(word, is_chat)
            self.event(data)
        cut = len(words) < len(dialect.words)
        reason = "length" if cut else dialect.finish_reason
        if reason:
            self.event(object_of({} if is_chat else {"text": ""}, reason))
        if dialect.has_usage and (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 11, "completion_tokens": len(words) + len(dialect.reasoning)}
            self.event({"id": "1", "model": model, "choices": [], "usage": usage})
        self.end_running()
        if dialect.has_done:
            self.event("[DONE]")
        self.end_stream()

    def tokens(self, body: dict[str, Any]) -> None:
        """A token for each letter; messages are written as `role: content`."""
        if self.path == "/detokenize":
            self.json({"prompt": "".join(map(chr, body["tokens"]))})
            return
        if "messages" in body:
            lines = [f"{one['role']}: {one['content']}" for one in body["messages"]]
            text = "\n".join(lines) + ("" if body.get("continue_final_message") else "\nassistant: ")
        else:
            text = body["content"] if self.dialect.kind == "llama-server" else body["prompt"]
        tokens = [*map(ord, text)][:: self.dialect.letters if "messages" in body else 1]
        self.json({"count": len(tokens), "max_model_len": self.dialect.n_ctx, "tokens": tokens})

    def scores(self, body: dict[str, Any]) -> dict[str, Any]:
        """The log-probability of a letter is -1 divided by its place in the alphabet; of all others it is -2."""
        choices = []
        for index, tokens in enumerate(body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]):
            texts = [*map(chr, tokens)]
            values = [None, *(-1 / (ord(one) - 96) if "a" <= one <= "z" else -2.0 for one in texts[1:])]
            if body.get("max_tokens"):
                texts, values = [*texts, "x"], [*values, -0.5]
            logprobs = {"tokens": texts, "token_logprobs": values, "top_logprobs": [None] * len(texts)}
            choices.append({"index": index, "text": "".join(texts), "logprobs": logprobs, "finish_reason": "length"})
        return {"model": body["model"], "choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def logprobs_of(word: str, is_chat: bool) -> dict[str, Any]:
    """Of each word, and of an alternative."""
    if is_chat:
        other = {"token": "Other", "logprob": -2.5, "bytes": None}
        one = {"token": word, "logprob": -0.25, "bytes": [*word.encode()]}
        return {"content": [one | {"top_logprobs": [one, other]}]}
    return {"tokens": [word], "token_logprobs": [-0.25], "top_logprobs": [{word: -0.25, "Other": -2.5}]}


class Server(ThreadingHTTPServer):
    """The server; each request has a thread of its own."""

    daemon_threads = True
    request_queue_size = 128  # connections that are not accepted yet; of more than 5, some would wait for a second
    dialect: Dialect

    def handle_error(self, *_arguments: object) -> None:
        """A reader that goes is not an error of the server."""


@contextmanager
def serving(certificate: Path | None = None, **details: Any) -> Iterator[tuple[str, Dialect]]:
    """The URL of a server of this kind, and what it is asked; with a certificate and its key in a file, over https."""
    server = Server(("127.0.0.1", 0), Handler)
    server.dialect = Dialect(**details)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", server.dialect
    finally:
        server.shutdown()
        with suppress(OSError):
            server.server_close()
        thread.join(5)
