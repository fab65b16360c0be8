"""Ask the Hub about a repository, and search for repositories."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from llmcli.errors import ModelNotFoundError, NetworkError
from llmcli.models.download.http import Notify, RetryPolicy, TransientError, check_online, hub_headers, request
from llmcli.models.hub import environment
from llmcli.models.hub.environment import http_error
from llmcli.models.hub.repo_files import RepoFile, is_safe_path
from llmcli.models.reference import MAIN, HubReference, is_repo

MAX_JSON = 32 << 20  # bytes of one response; the largest listings have about 2 MB
_ATTEMPTS = 3
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


def get_repo(reference: HubReference, offline: bool = False, notify: Notify = ignore_message) -> Repo:
    """The repository at the requested revision, in one request.

    Raises:
        ModelNotFoundError: the repository or revision does not exist.
        NotAllowedError: the token is missing or refused.
        NetworkError: the Hub cannot be reached, or its response is not valid.
    """
    check_online(offline, str(reference))
    revision = reference.revision or MAIN
    path = f"/api/models/{reference.repo}/revision/{quote(revision, safe='')}?blobs=true"
    data = _object(_get_json(path, reference, notify))
    commit = _text(data.get("sha"))
    if not _COMMIT.fullmatch(commit):
        raise NetworkError(
            f"the response about {reference.repo} has no valid commit", "check that HF_ENDPOINT is the URL of a Hub"
        )
    details = _object(data.get("gguf"))
    return Repo(
        reference.repo,
        revision,
        commit,
        tuple(filter(None, map(_file, _list(data.get("siblings"))))),
        bool(data.get("gated")),
        _license(data),
        _count(details.get("total")),
        _count(details.get("context_length")),
        _text(details.get("architecture")),
    )


def search(text: str, limit: int, offline: bool = False, notify: Notify = ignore_message) -> list[SearchResult]:
    """Repositories with GGUF files that match the text, the most downloaded first.

    Raises:
        NetworkError: the Hub cannot be reached, or its response is not valid.
    """
    check_online(offline, "the search")
    query = urlencode({"filter": "gguf", "search": text, "sort": "downloads", "direction": "-1", "limit": str(limit)})
    answer = _get_json(f"/api/models?{query}", HubReference("the list of models"), notify)
    found = map(_search_result, _list(answer))
    return [result for result in found if is_repo(result.name)][:limit]


def check_has_sha256(file: RepoFile, reference: HubReference) -> None:
    """Raise ModelNotFoundError for a file without a published sha256: a download of it cannot be verified."""
    if not file.sha256:
        raise ModelNotFoundError(
            f"cannot verify {file.path}: the Hub publishes no sha256 for it",
            f"choose another file of {reference.repo}",
        )


def _get_json(path: str, reference: HubReference, notify: Notify) -> Any:
    retries = RetryPolicy(notify, _ATTEMPTS)
    while True:
        try:
            return _request_json(path, reference)
        except TransientError as transient:
            try:
                retries.wait(transient)
            except NetworkError as error:
                hint = error.hint if "try again at" in error.hint else "check the network, the proxy and HF_ENDPOINT"
                raise NetworkError(str(error), hint) from None


def _request_json(path: str, reference: HubReference) -> Any:
    with request(environment.endpoint() + path, hub_headers(), to_other_hosts=False) as (response, _hops):
        if response.status_code != 200:
            raise http_error(response, reference)
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_JSON:
                raise NetworkError(
                    f"the response about {reference.repo} is larger than {MAX_JSON >> 20} MiB", "check HF_ENDPOINT"
                )
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NetworkError(
            f"the response about {reference.repo} is not valid JSON",
            "check HF_ENDPOINT, or open a browser: the network may require a login",
        ) from None


def _file(entry: Any) -> RepoFile | None:
    """A file of the listing; None if its name or size is not valid."""
    entry = _object(entry)
    lfs = _object(entry.get("lfs"))
    path, size = _text(entry.get("rfilename")), _count(lfs.get("size", entry.get("size")))
    digest = _text(lfs.get("sha256", lfs.get("oid")))
    if size is None or not is_safe_path(path):
        return None
    return RepoFile(path, size, digest if _SHA256.fullmatch(digest) else "")


def _search_result(item: Any) -> SearchResult:
    item = _object(item)
    return SearchResult(
        _text(item.get("id") or item.get("modelId")),
        _count(item.get("downloads")) or 0,
        _count(item.get("likes")) or 0,
        _license(item),
        bool(item.get("gated")),
        _text(item.get("lastModified") or item.get("createdAt"))[:10],
    )


def _license(data: Mapping[str, Any]) -> str:
    tags = map(_text, _list(data.get("tags")))
    tagged = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    return (_text(_object(data.get("cardData")).get("license")) or tagged)[:60]


# The Hub's responses are untrusted: a value of another type counts as missing.


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
