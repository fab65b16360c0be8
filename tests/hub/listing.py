"""The replies of the API about repositories, as JSON values."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.hub.repos import Commit, Content, Repo

# What the Hub lists of a model when it is not asked for more.
_BRIEF = ("id", "modelId", "likes", "private", "downloads", "tags", "createdAt", "library_name", "pipeline_tag")
_FULL = (*_BRIEF, "author", "sha", "lastModified", "gated", "disabled", "siblings")
_SORTS = {"downloads": "downloads", "likes": "likes", "lastModified": "lastModified", "createdAt": "createdAt"}


def model_value(repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """All that the API tells of one model."""
    value: dict[str, Any] = {
        "_id": commit.id[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repo.commits[0].date,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": repo.all_tags,
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "cardData": {"license": repo.license} if repo.license else {},
        "siblings": [_sibling(name, content, blobs) for name, content in commit.files.items()],
    }
    if "gguf" in repo.all_tags:
        total = {"total": repo.parameters} if repo.parameters is not None else {}
        value["gguf"] = total | {"architecture": repo.architecture, "context_length": repo.context_length}
    return value


def asked_for(value: dict[str, Any], params: Mapping[str, list[str]], brief: bool = False) -> dict[str, Any]:
    """The fields that `expand` names, or else the usual ones."""
    if "expand" in params:
        return {name: value[name] for name in ("_id", "id", *params["expand"]) if name in value}
    if not brief:
        return value
    names = _FULL if params.get("full", [""])[0].lower() in ("true", "1") else _BRIEF
    return {name: value[name] for name in names}


def _sibling(name: str, content: Content, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": name}
    lfs = {"size": content.size, "sha256": content.sha256, "pointerSize": content.pointer_size}
    known: dict[str, Any] = {"rfilename": name, "size": content.size, "blobId": content.blob_id}
    return known | {"lfs": lfs} if content.lfs else known


def entry_value(name: str, content: Content) -> dict[str, Any]:
    """A file as the tree of a revision lists it."""
    entry: dict[str, Any] = {"type": "file", "oid": content.blob_id, "size": content.size, "path": name}
    lfs = {"oid": content.sha256, "size": content.size, "pointerSize": content.pointer_size}
    return entry | {"lfs": lfs} if content.lfs else entry


def tree_values(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders below a folder, in order; empty where there is no such folder."""
    return [*_tree(commit, folder, recursive)]


def _tree(commit: Commit, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    seen: set[str] = set()
    for name, content in commit.files.items():
        if not name.startswith(prefix):
            continue
        *above, _ = name.removeprefix(prefix).split("/")
        depths = range(1, (len(above) if recursive else min(1, len(above))) + 1)
        for path in (prefix + "/".join(above[:depth]) for depth in depths):
            if path not in seen:
                seen.add(path)
                yield {"type": "directory", "oid": commit.id, "size": 0, "path": path}
        if recursive or not above:
            yield entry_value(name, content)


def found_models(repos: list[Repo], params: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """The models that a search lists, in its order."""
    sort = _SORTS.get(params.get("sort", ["trendingScore"])[0])
    values = [model_value(repo, repo.commits[-1]) for repo in repos if _is_found(repo, params)]
    if sort is not None:
        values.sort(key=lambda value: value[sort], reverse=True)
    return [asked_for(value, params, brief=True) for value in values]


def _is_found(repo: Repo, params: Mapping[str, list[str]]) -> bool:
    filters = {tag for given in params.get("filter", []) for tag in given.split(",")}
    words = " ".join(params.get("search", [])).lower().split()
    author = params.get("author", [repo.id.partition("/")[0]])[0]
    return (
        filters <= set(repo.all_tags)
        and all(word in repo.id.lower() for word in words)
        and repo.id.startswith(f"{author}/")
    )
