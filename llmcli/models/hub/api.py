"""Ask the Hub about a repository, and search for repositories."""

import re
from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta, Struct

from llmcli.errors import NetworkError
from llmcli.models.download.http import RetryPolicy, request
from llmcli.models.hub.environment import check_online, endpoint, http_error, hub_headers
from llmcli.models.hub.repo_files import RepoFile, is_safe_path
from llmcli.models.locations import Notify
from llmcli.models.reference import MAIN, HubReference, is_repo

MAX_JSON = 32 << 20  # bytes of one response; the largest listings have about 2 MB
_SHA256 = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, lt=1 << 60)]


@dataclass(frozen=True)
class Repo:
    """One commit of a repository. `n_parameters` is the Hub's value from one of its GGUF files."""

    name: str
    commit: str
    files: tuple[RepoFile, ...]
    gated: bool
    license: str
    n_parameters: int | None


@dataclass(frozen=True)
class SearchResult:
    """One repository in the results of a search."""

    name: str
    downloads: int
    likes: int
    license: str
    gated: bool
    updated: str


# The responses of the Hub, as far as they are read. They are untrusted.


class _Lfs(Struct):
    sha256: str = ""


class _File(Struct):
    rfilename: str
    size: Count | None = None
    lfs: _Lfs | None = None


class _Gguf(Struct):
    total: Count | None = None


class _Model(Struct):
    gated: bool | str = False
    tags: list[str] = []
    cardData: dict[str, object] | None = None  # noqa: N815  the author's YAML

    @property
    def license(self) -> str:
        tagged = next((tag.removeprefix("license:") for tag in self.tags if tag.startswith("license:")), "")
        own = self.cardData.get("license") if self.cardData else None
        return (own if own and isinstance(own, str) else tagged)[:60]


class _Revision(_Model, kw_only=True):
    sha: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    siblings: list[_File] = []
    gguf: _Gguf | None = None


class _Found(_Model, kw_only=True):
    id: str
    downloads: Count = 0
    likes: Count = 0
    lastModified: str = ""  # noqa: N815
    createdAt: str = ""  # noqa: N815

    def result(self) -> SearchResult:
        updated = (self.lastModified or self.createdAt)[:10]
        return SearchResult(self.id, self.downloads, self.likes, self.license, bool(self.gated), updated)


def get_repo(reference: HubReference, offline: bool = False, notify: Notify = lambda _text: None) -> Repo:
    """The repository at the requested revision, in one request.

    Raises ModelNotFoundError (no such repository or revision), NotAllowedError (the token is missing or refused) or
    NetworkError (the Hub cannot be reached, or its response is not valid).
    """
    check_online(offline, str(reference))
    path = f"/api/models/{reference.repo}/revision/{quote(reference.revision or MAIN, safe='')}?blobs=true"
    answer = _get(path, reference, notify, _Revision)
    files = []
    for file in answer.siblings:
        sha256 = file.lfs.sha256 if file.lfs and _SHA256.fullmatch(file.lfs.sha256) else ""
        if file.size is not None and is_safe_path(file.rfilename):
            files.append(RepoFile(file.rfilename, file.size, sha256))
    n_parameters = answer.gguf.total if answer.gguf else None
    return Repo(reference.repo, answer.sha, tuple(files), bool(answer.gated), answer.license, n_parameters)


def search(text: str, limit: int, offline: bool = False, notify: Notify = lambda _text: None) -> list[SearchResult]:
    """Repositories with GGUF files that match the text, the most downloaded first. Raises NetworkError."""
    check_online(offline, "the search")
    query = urlencode({"filter": "gguf", "search": text, "sort": "downloads", "direction": "-1", "limit": str(limit)})
    answer = _get(f"/api/models?{query}", HubReference("the list of models"), notify, list[_Found])
    return [found.result() for found in answer if is_repo(found.id)][:limit]


def _get(path: str, reference: HubReference, notify: Notify, kind: type[T]) -> T:
    retries = RetryPolicy(notify, attempts=3, hint="check the network, the proxy and HF_ENDPOINT")
    body = retries.run(lambda: _request(path, reference))
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise NetworkError(
            f"the response about {reference.repo} is not that of a Hub: {error}",
            "check that HF_ENDPOINT is the URL of a Hub",
        ) from None
    except (msgspec.DecodeError, RecursionError):
        raise NetworkError(
            f"the response about {reference.repo} is not valid JSON",
            "check HF_ENDPOINT, or open a browser: the network may require a login",
        ) from None


def _request(path: str, reference: HubReference) -> bytes:
    with request(endpoint() + path, hub_headers(), to_other_hosts=False) as response:
        if response.status_code != 200:
            raise http_error(response, reference)
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_JSON:
                raise NetworkError(
                    f"the response about {reference.repo} is larger than {MAX_JSON >> 20} MiB", "check HF_ENDPOINT"
                )
    return bytes(body)
