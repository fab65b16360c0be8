"""A local server that speaks the protocol of the Hugging Face Hub, with faults to order."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hub.faults import Fault, strike
from tests.hub.origin import Origin
from tests.hub.replies import Reply, Request, error_reply, file_reply
from tests.hub.repos import Gating, Repo, content_of
from tests.hub.routes import cdn_reply, hub_reply
from tests.hub.state import State

__all__ = ["FakeHub", "Fault", "Repo", "Request"]

_Extra = Mapping[str, str | None] | Callable[[Request], Mapping[str, str | None]]


class FakeHub(State):
    """Starts the hub and two other origins on loopback; stops them at the end of a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.errors: list[BaseException] = []
        self.throttle: int | None = None  # bytes per second per connection
        self.hold_at: int | None = None  # the CDN sends no byte of a file from this position on
        self.hold_if: Callable[[], bool] = lambda: False  # the CDN sends no byte while it is true
        self.extra_headers: _Extra = {}  # put into the answers of the hub; None removes a header
        self.other_serves: bytes | Path | None = None  # what the third origin answers, instead of 404
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._origins = [
            Origin("hub", "127.0.0.1", self, self._answer),
            Origin("cdn", "127.0.0.1", self, self._answer),
            Origin("other", "127.0.0.1", self, self._answer),
        ]
        hub, cdn, other = (origin.port for origin in self._origins)
        self.endpoint, self.cdn = f"http://127.0.0.1:{hub}", f"http://localhost:{cdn}"
        self.other = f"http://localhost:{other}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self.errors:
            raise self.errors[0]

    def stop(self) -> None:
        """Stop at once, whatever is on its way; no thread and no socket is left."""
        self.stopped.set()
        stopping = [threading.Thread(target=origin.stop) for origin in self._origins]  # each waits for its own poll
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        license_id: str | None = "apache-2.0",
        tags: tuple[str, ...] = (),
        downloads: int = 0,
        likes: int = 0,
        gated: Gating = False,
        private: bool = False,
        parameters: int | None = None,
    ) -> Repo:
        """A new repository with its first commit."""
        repo = Repo(name, license_id, tags, downloads, likes, gated, private, parameters=parameters)
        repo.commit(files)
        self.repos[name] = repo
        return repo

    def rename(self, old: str, new: str) -> None:
        """Give a repository another name; the old one redirects."""
        repo = self.repos.pop(old)
        repo.id, self.repos[new], self.renamed[old] = new, repo, new

    def requests(self, origin: str, method: str | None = None) -> list[Request]:
        """The logged requests to one origin."""
        return [r for r in list(self.log) if r.origin == origin and method in (None, r.method)]

    @property
    def served(self) -> int:
        """How many bytes of bodies the CDN has sent so far."""
        return sum(request.sent for request in self.requests("cdn"))

    @property
    def is_serving(self) -> bool:
        """Whether a connection to the CDN is open: the end of a process that was killed is seen a moment later."""
        return bool(self._origins[1].connections)

    def _answer(self, request: Request) -> Reply:
        routes = {"hub": hub_reply, "cdn": cdn_reply}
        route = routes.get(request.origin)
        with self._lock:
            reply = self._other_reply(request) if route is None else route(self, request)
            reply = strike(self.faults, request, reply, self.other)
            if request.origin == "cdn" and reply.status == 403:
                self.expired |= set(request.params.get("X-Amz-Signature", []))
        return self._with_extra(request, reply) if request.origin == "hub" else reply

    def _other_reply(self, request: Request) -> Reply:
        if self.other_serves is None:
            return error_reply(404, None, "Not found")
        content = content_of("served.gguf", self.other_serves)
        return file_reply(request, content.source, content.size, {"ETag": f'"{content.sha256}"'})

    def _with_extra(self, request: Request, reply: Reply) -> Reply:
        extra = self.extra_headers(request) if callable(self.extra_headers) else self.extra_headers
        headers = {name: value for name, value in (reply.headers | dict(extra)).items() if value is not None}
        return replace(reply, headers=headers)
