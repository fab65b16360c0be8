"""Ask the Hub about a repository, and search for repositories."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta, Struct

from llmcli.errors import LlmcliError, NetworkError
from llmcli.models.download.http import RetryPolicy, TransientError, host_of, request, same_origin
from llmcli.models.hub.environment import check_online, endpoint, http_error, hub_headers
from llmcli.models.hub.repo_files import RepoFile, is_safe_path
from llmcli.models.locations import Notify
from llmcli.models.reference import MAIN, HubReference, is_repo

MAX_JSON = 32 << 20  # bytes of one response; the largest listings have about 2 MB
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEXT_PAGE = re.compile(r'<([^<>]+)>;\s*rel="next"')
_MAX_PAGES = 100  # of 1000 files
_MAX_ASKED = 64  # files whose size and checksum are asked for one by one
T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, lt=1 << 60)]


@dataclass(frozen=True)
class Repo:
    """One commit of a repository, by its own name. `n_parameters` is the Hub's value from one of its GGUF files."""

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


class _TreeLfs(Struct):
    oid: str = ""


class _TreeEntry(Struct):
    path: str
    type: str = "file"
    size: Count | None = None
    lfs: _TreeLfs | None = None


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
    id: str = ""
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
    """The repository at the requested revision: one request, and more for a mirror that lists files without facts.

    Raises ModelNotFoundError (no such repository or revision), NotAllowedError (the token is missing or refused) or
    NetworkError (the Hub cannot be reached, or its response is not valid).
    """
    check_online(offline, str(reference))
    path = f"/api/models/{reference.repo}/revision/{quote(reference.revision or MAIN, safe='')}?blobs=true"
    answer = _get(path, reference, notify, _Revision)[0]
    # The Hub takes a name in any case, and the earlier name of a repository: its own name is the key in the cache.
    name = answer.id if is_repo(answer.id) else reference.repo
    listed = [_known(f.rfilename, f.size, f.lfs.sha256 if f.lfs else "") for f in answer.siblings]
    files = _with_facts([file for file in listed if is_safe_path(file.path)], replace(reference, repo=name), answer.sha)
    n_parameters = answer.gguf.total if answer.gguf else None
    return Repo(name, answer.sha, tuple(files), bool(answer.gated), answer.license, n_parameters)


def _known(path: str, size: int | None, sha256: str) -> RepoFile:
    """A file as it is listed; its size is -1 if the list has none."""
    return RepoFile(path, -1 if size is None else size, sha256 if _SHA256.fullmatch(sha256) else "")


def _with_facts(files: list[RepoFile], reference: HubReference, commit: str) -> list[RepoFile]:
    """The files whose size is known: a mirror that ignores `?blobs=true` has it in the tree, or with each file.

    Raises NetworkError if there are GGUF files, and the size of none can be known.
    """
    for ask in (_from_tree, _from_responses):
        if incomplete := [file for file in files if _is_gguf(file) and not (file.sha256 and file.size >= 0)]:
            facts = ask(reference, commit, incomplete)
            files = [facts.get(file.path, file) for file in files]
    sizes = [file.size for file in files if _is_gguf(file)]
    if sizes and max(sizes) < 0:
        raise NetworkError(
            f"{host_of(endpoint())} lists the files of {reference.repo} without their sizes",
            "use another mirror: set HF_ENDPOINT, or remove it to use the Hub itself",
        )
    return [file for file in files if file.size >= 0]


def _is_gguf(file: RepoFile) -> bool:
    return file.path.lower().endswith(".gguf")


def _from_tree(reference: HubReference, commit: str, _files: list[RepoFile]) -> dict[str, RepoFile]:
    """The files by path from the list of a tree, in pages; {} if this server does not have it."""
    found: dict[str, RepoFile] = {}
    path = f"/api/models/{reference.repo}/tree/{commit}?recursive=true"
    with suppress(LlmcliError):
        for _ in range(_MAX_PAGES):
            entries, link = _get(path, reference, lambda _text: None, list[_TreeEntry])
            of_files = [
                _known(one.path, one.size, one.lfs.oid if one.lfs else "") for one in entries if one.type == "file"
            ]
            found |= {file.path: file for file in of_files if file.size >= 0}
            following = _NEXT_PAGE.search(link)
            if not following or not following[1].startswith(f"{endpoint()}/"):
                break
            path = following[1].removeprefix(endpoint())
    return found


def _from_responses(reference: HubReference, commit: str, files: list[RepoFile]) -> dict[str, RepoFile]:
    """The files by path from the headers of a response for each of them; {} if there are too many."""
    found: dict[str, RepoFile] = {}
    for file in files if len(files) <= _MAX_ASKED else []:
        url = f"{endpoint()}/{reference.repo}/resolve/{commit}/{quote(file.path)}"
        with (
            suppress(LlmcliError, TransientError),
            request(url, {**hub_headers(), "range": "bytes=0-0"}, to_other_hosts=True) as last,
        ):
            # The server that has the bytes, behind a redirect, has another ETag: not the sha256.
            own = [one.headers for one in (*last.history, last) if same_origin(str(one.url), url)]
            etags = [headers.get("x-linked-etag", "").removeprefix("W/").strip('"') for headers in own]
            sizes = [headers.get("x-linked-size", "") for headers in own]
            total = re.fullmatch(r"bytes 0-0/(\d+)", last.headers.get("content-range", ""))
            size = next(filter(str.isdigit, [*sizes, total[1] if total else ""]), "")
            if last.status_code in (200, 206) and 0 < len(size) < 18:
                found[file.path] = _known(file.path, int(size), next(filter(None, etags), file.sha256))
    return found


def search(text: str, limit: int, offline: bool = False, notify: Notify = lambda _text: None) -> list[SearchResult]:
    """Repositories with GGUF files that match the text, the most downloaded first. Raises NetworkError."""
    check_online(offline, "the search")
    query = urlencode({"filter": "gguf", "search": text, "sort": "downloads", "direction": "-1", "limit": str(limit)})
    answer, _link = _get(f"/api/models?{query}", HubReference("the list of models"), notify, list[_Found])
    return [found.result() for found in answer if is_repo(found.id)][:limit]


def _get(path: str, reference: HubReference, notify: Notify, kind: type[T]) -> tuple[T, str]:
    """The response as a value, and its header `Link`."""
    retries = RetryPolicy(notify, attempts=3, hint="check the network, the proxy and HF_ENDPOINT")
    body, link = retries.run(lambda: _request(path, reference))
    try:
        return msgspec.json.decode(body, type=kind), link
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


def _request(path: str, reference: HubReference) -> tuple[bytes, str]:
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
        return bytes(body), response.headers.get("link", "")
