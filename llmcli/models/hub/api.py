"""Ask the Hub about a repository, and search for repositories."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError
from llmcli.models.download.http import Notify, RetryPolicy, TransientError, check_online, hub_headers, request
from llmcli.models.hub import environment
from llmcli.models.hub.environment import http_error
from llmcli.models.hub.repo_files import RepoFile, is_safe_path
from llmcli.models.reference import MAIN, HubReference, is_repo

MAX_JSON = 32 << 20  # bytes of one response; the largest listings have about 2 MB
_TRIES = 3
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repo:
    """One commit of a repository. `n_parameters` and `n_ctx_train` are the Hub's values from its GGUF files."""

    name: str
    revision: str
    commit: str
    files: tuple[RepoFile, ...]
    gated: bool
    license: str
    n_parameters: int | None
    n_ctx_train: int | None
    architecture: str


@dataclass(frozen=True)
class SearchResult:
    """One repository in the results of a search."""

    name: str
    downloads: int
    likes: int
    license: str
    gated: bool
    updated: str


def ignore_message(_text: str) -> None:
    """Ignore a message."""


def get_repo(wanted: HubReference, offline: bool = False, say: Notify = ignore_message) -> Repo:
    """The repository at the requested revision, in one request.

    Raises:
        ModelNotFoundError: there is no such repository or revision.
        NotAllowedError: the token is missing or refused.
        NetworkError: the Hub cannot be reached, or its response is not valid.
    """
    check_online(offline, str(wanted))
    revision = wanted.revision or MAIN
    path = f"/api/models/{wanted.repo}/revision/{quote(revision, safe='')}?blobs=true"
    data = _get_json(path, wanted, say)
    commit = data.get("sha") if isinstance(data, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise NetworkError(
            f"the response about {wanted.repo} has no valid commit", "check that HF_ENDPOINT is the URL of a Hub"
        )
    details = _table(data.get("gguf"))
    return Repo(
        wanted.repo,
        revision,
        commit,
        tuple(filter(None, map(_file, _list(data.get("siblings"))))),
        bool(data.get("gated")),
        _license(data),
        _count(details.get("total")),
        _count(details.get("context_length")),
        _text(details.get("architecture")),
    )


def search(text: str, limit: int, offline: bool = False, say: Notify = ignore_message) -> list[SearchResult]:
    """Repositories with GGUF files that match the text, the most downloaded first.

    Raises:
        NetworkError: the Hub cannot be reached, or its response is not valid.
    """
    check_online(offline, "the search")
    query = urlencode({"filter": "gguf", "search": text, "sort": "downloads", "direction": "-1", "limit": str(limit)})
    answer = _get_json(f"/api/models?{query}", HubReference("the list of models"), say)
    found = [_found(item) for item in _list(answer)]
    return [item for item in found if is_repo(item.name)][:limit]


def _get_json(path: str, wanted: HubReference, say: Notify) -> Any:
    patience = RetryPolicy(say, _TRIES)
    while True:
        try:
            return _request_json(path, wanted)
        except TransientError as fault:
            try:
                patience.wait(fault)
            except NetworkError as error:
                hint = error.hint if "try again at" in error.hint else "check the network, the proxy and HF_ENDPOINT"
                raise NetworkError(str(error), hint) from None


def _request_json(path: str, wanted: HubReference) -> Any:
    with request(environment.endpoint() + path, hub_headers(), to_other_hosts=False) as (response, _hops):
        if response.status_code != 200:
            raise http_error(response, wanted)
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_JSON:
                raise NetworkError(
                    f"the response about {wanted.repo} is larger than {MAX_JSON >> 20} MiB", "check HF_ENDPOINT"
                )
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _not_json(wanted) from None


def _not_json(wanted: HubReference) -> LlmcliError:
    return NetworkError(
        f"the response about {wanted.repo} is not valid JSON",
        "check HF_ENDPOINT, or open a browser: the network may require a login",
    )


def _file(entry: Any) -> RepoFile | None:
    """A file of the listing; None if its name or size is not valid."""
    entry = _table(entry)
    lfs = _table(entry.get("lfs"))
    path, size = entry.get("rfilename"), lfs.get("size", entry.get("size"))
    digest = lfs.get("sha256", lfs.get("oid"))
    if not isinstance(path, str) or not is_safe_path(path) or _count(size) is None:
        return None
    valid = isinstance(digest, str) and _SHA256.fullmatch(digest)
    return RepoFile(path, int(size), str(digest) if valid else "")


def check_has_sha256(file: RepoFile, wanted: HubReference) -> None:
    """Raise ModelNotFoundError for a file without a published sha256: a download of it cannot be verified."""
    if not file.sha256:
        raise ModelNotFoundError(
            f"cannot verify {file.path}: the Hub publishes no sha256 for it",
            f"choose another file of {wanted.repo}",
        )


def _found(item: Any) -> SearchResult:
    item = _table(item)
    downloads, likes = _count(item.get("downloads")) or 0, _count(item.get("likes")) or 0
    updated = _text(item.get("lastModified") or item.get("createdAt"))[:10]
    return SearchResult(
        _text(item.get("id") or item.get("modelId")),
        downloads,
        likes,
        _license(item),
        bool(item.get("gated")),
        updated,
    )


def _license(data: Mapping[str, Any]) -> str:
    tags = [tag for tag in _list(data.get("tags")) if isinstance(tag, str)]
    tagged = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    return (_text(_table(data.get("cardData")).get("license")) or tagged)[:60]


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
