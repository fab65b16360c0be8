"""The state of the test Hub: its repositories, who can read them, and the signed URLs that it gave out."""

import secrets
import time
from dataclasses import dataclass, field

from tests.hub.replies import Reply, Request, error_reply
from tests.hub.repos import Content, Repo

_MODEL_API = ("api", "models")


@dataclass
class State:
    """The settings and the memory of a hub."""

    token: str | None = "hf_right"  # the one right token; a request with any other is refused
    requires_token: bool = False  # even public repositories answer only to the token
    lacks: frozenset[str] = frozenset()  # what a mirror does not have: "blobs", "tree", "headers"
    any_case: bool = False  # a name of a repository is right in any case, as on the Hub
    page_size: int = 1000  # entries of one page of a tree or of a search
    endpoint: str = ""
    cdn: str = ""
    other: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    signed: dict[str, tuple[str, str]] = field(default_factory=dict)  # signature: repository and path
    expired: set[str] = field(default_factory=set)

    def sign(self, repo: Repo, path: str, content: Content) -> str:
        """A fresh address on the other origin, from which this content can be fetched without a token."""
        signature = secrets.token_hex(16)
        self.signed[signature] = (repo.id, path)
        return f"{self.cdn}/{content.sha256}?X-Amz-Signature={signature}&Expires={int(time.time()) + 3600}"

    def expire(self) -> None:
        """Let all addresses given out so far answer 403."""
        self.expired |= set(self.signed)

    def content(self, sha256: str) -> Content | None:
        """The content with this digest, in any commit of any repository."""
        for repo in self.repos.values():
            for commit in repo.commits:
                for content in commit.files.values():
                    if content.sha256 == sha256:
                        return content
        return None

    def knows(self, request: Request) -> bool:
        """True for a request with the right token."""
        return request.token is not None and request.token == self.token

    def refusal(self, request: Request) -> Reply | None:
        """The answer to a request with a wrong token, or without one where all need it."""
        if request.token is not None and not self.knows(request):
            return error_reply(401, None, "Invalid credentials in Authorization header")
        if self.requires_token and request.token is None:
            return error_reply(401, None, "Invalid username or password.")
        return None

    def visible(self, request: Request) -> list[Repo]:
        """The repositories that this request may see."""
        return [repo for repo in self.repos.values() if not repo.private or self.knows(request)]

    def gate(self, request: Request, repo: Repo) -> Reply | None:
        """The answer to a request for a file of a gated repository that has not been granted."""
        if not repo.gated or (self.knows(request) and repo.granted):
            return None
        start = f"Access to model {repo.id} is restricted"
        if request.token is None:
            return error_reply(401, "GatedRepo", f"{start}. You must be authenticated to access it. Please log in.")
        ask = f"Visit {self.endpoint}/{repo.id} to ask for access."
        return error_reply(403, "GatedRepo", f"{start} and you are not in the authorized list. {ask}")
