"""Replies with false facts: other digests, commits that are paths, and names that leave the folder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.hub.replies import Reply, json_reply

_PATHS = ("../../evil.gguf", "/abs.gguf", "a\x1b[2J.gguf")


def with_etag(reply: Reply, digest: str) -> Reply:
    """The answer with another digest: in the headers, and in the `lfs` of all files that it lists."""

    def lie(entry: dict[str, Any]) -> dict[str, Any]:
        told = {key: digest for key in ("sha256", "oid") if key in entry.get("lfs", {})}
        return entry | {"lfs": entry["lfs"] | told} if told else entry

    headers: dict[str, str] = {name: f'"{digest}"' for name in ("ETag", "X-Linked-Etag") if name in reply.headers}
    return _with_headers(_with_entries(reply, lie), headers)


def with_commit(reply: Reply, commit: str) -> Reply:
    """The answer with another commit id: in the header and in the value."""
    headers = {"X-Repo-Commit": commit} if "X-Repo-Commit" in reply.headers else {}
    if isinstance(reply.value, dict) and "sha" in reply.value:
        reply = _with_value(reply, reply.value | {"sha": commit})
    return _with_headers(reply, headers)


def with_paths(reply: Reply, path: str | None) -> Reply:
    """The answer with these names among the files that it lists, each with the facts of the first listed file."""
    names = _PATHS if path is None else (path,)
    if isinstance(reply.value, dict) and reply.value.get("siblings"):
        siblings = reply.value["siblings"]
        more = [siblings[0] | {"rfilename": name} for name in names]
        return _with_value(reply, reply.value | {"siblings": [*siblings, *more]})
    if isinstance(reply.value, list) and reply.value and "path" in reply.value[0]:
        more = [reply.value[0] | {"path": name} for name in names]
        return _with_value(reply, [*reply.value, *more])
    return reply


def _with_entries(reply: Reply, lie: Callable[[dict[str, Any]], dict[str, Any]]) -> Reply:
    if isinstance(reply.value, dict) and "siblings" in reply.value:
        return _with_value(reply, reply.value | {"siblings": [lie(entry) for entry in reply.value["siblings"]]})
    if isinstance(reply.value, list):
        return _with_value(reply, [lie(entry) for entry in reply.value])
    return reply


def _with_value(reply: Reply, value: Any) -> Reply:
    if value == reply.value:
        return reply
    kept = {name: text for name, text in reply.headers.items() if not name.startswith("Content-")}
    return replace(json_reply(value, reply.status, kept), about=reply.about)


def _with_headers(reply: Reply, headers: dict[str, str]) -> Reply:
    return replace(reply, headers=reply.headers | headers) if headers else reply
