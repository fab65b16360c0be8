"""The routes of the Hub: the API, the URLs of files, and the errors of both."""

import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from tests.hub.listing import asked_for, entry_value, found_models, model_value, tree_values
from tests.hub.replies import Reply, Request, bytes_reply, error_reply, file_reply, json_reply
from tests.hub.repos import Commit, Repo
from tests.hub.state import State


def hub_reply(state: State, request: Request) -> Reply:
    """The answer of the hub when nothing goes wrong."""
    refusal = state.refusal(request)
    if refusal is not None:
        return refusal
    match request.parts:
        case ("api", "whoami-v2"):
            return _whoami(state, request)
        case ("api", "models"):
            return _page(state, request, found_models(state.visible(request), request.params))
        case ("api", "models", owner, name, *rest):
            return _in_repo(state, request, f"{owner}/{name}", tuple(rest))
        case (owner, name, "resolve", revision, *path) if path:
            return _in_repo(state, request, f"{owner}/{name}", ("resolve", revision, *path))
        case _:
            return error_reply(404, None, "Sorry, we can't find the page you are looking for.")


def cdn_reply(state: State, request: Request) -> Reply:
    """The answer of the other origin: the content with the digest that the path names."""
    signature = request.params.get("X-Amz-Signature", [""])[0]
    repo, path = state.signed.get(signature, ("", ""))
    about = (path, repo, f"{repo}/{path}")
    content = state.content(request.parts[0])
    if signature in state.expired:
        return replace(error_reply(403, None, "Request has expired"), about=about)
    if content is None:
        return error_reply(404, None, "The specified key does not exist.")
    reply = file_reply(request, content.source, content.size, {"ETag": f'"{content.sha256}"'})
    return replace(reply, about=about)


def _in_repo(state: State, request: Request, name: str, rest: tuple[str, ...]) -> Reply:
    if state.any_case:
        name = next((own for own in (*state.repos, *state.renamed) if own.casefold() == name.casefold()), name)
    if name in state.renamed:
        return _moved(request, name, state.renamed[name])
    repo = state.repos.get(name)
    if repo is None or repo not in state.visible(request):
        if request.token is None:
            return error_reply(401, "RepoNotFound", "Invalid username or password.")
        return error_reply(404, "RepoNotFound", "Repository not found")
    reply = _of_repo(state, request, repo, rest)
    path = "/".join(rest[2:])
    return replace(reply, about=(path, repo.id, f"{repo.id}/{path}"))


def _of_repo(state: State, request: Request, repo: Repo, rest: tuple[str, ...]) -> Reply:
    if rest == ("auth-check",):
        return state.gate(request, repo) or json_reply({})
    if rest and rest[0] == "resolve":
        gate = state.gate(request, repo)
        if gate is not None:
            return gate
    commit = repo.at(rest[1] if len(rest) > 1 else "main")
    if commit is None:
        return error_reply(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
    match rest:
        case () | ("revision", _):
            blobs = request.params.get("blobs", [""])[0].lower() in ("true", "1") and "blobs" not in state.lacks
            return json_reply(asked_for(model_value(repo, commit, blobs), request.params))
        case ("tree", _, *folder) if "tree" not in state.lacks:
            return _tree(state, request, commit, "/".join(folder))
        case ("paths-info", _):
            return _paths_info(request, commit)
        case ("resolve", _, *path):
            return _resolve(state, request, repo, commit, "/".join(path))
        case _:
            return error_reply(404, None, "Not found")


def _resolve(state: State, request: Request, repo: Repo, commit: Commit, path: str) -> Reply:
    content = commit.files.get(path)
    headers = {"X-Repo-Commit": commit.id}
    if content is None:
        return error_reply(404, "EntryNotFound", "Entry not found", headers)
    if not content.lfs:
        return file_reply(request, content.source, content.size, headers | {"ETag": f'"{content.blob_id}"'})
    etag, location = f'"{content.sha256}"', state.sign(repo, path, content)
    headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(content.size)}
    headers = {} if "headers" in state.lacks else headers
    headers |= {"Location": location, "Accept-Ranges": "bytes"}
    text = f"Found. Redirecting to {location}".encode()
    return replace(bytes_reply(text, "text/plain; charset=utf-8", 302, headers), stretch=None)


def _tree(state: State, request: Request, commit: Commit, folder: str) -> Reply:
    recursive = request.params.get("recursive", [""])[0].lower() in ("true", "1")
    values = tree_values(commit, folder, recursive)
    headers = {"X-Repo-Commit": commit.id}
    if folder and not values:
        return error_reply(404, "EntryNotFound", f"{folder} does not exist", headers)
    return _page(state, request, values, headers)


def _paths_info(request: Request, commit: Commit) -> Reply:
    form = parse_qs(request.body.decode("utf-8", "replace"))
    asked = [*form.get("paths", []), *form.get("paths[]", [])]
    return json_reply([entry_value(name, commit.files[name]) for name in asked if name in commit.files])


def _page(state: State, request: Request, values: list[Any], headers: dict[str, str] | None = None) -> Reply:
    """One page of a list, and in the header the address of the next one."""
    first = int(request.params.get("cursor", ["0"])[0])
    limit = int(request.params.get("limit", [str(state.page_size)])[0])
    last = first + min(limit, state.page_size)
    headers = dict(headers or {})
    if last < len(values):
        query = urlencode(request.params | {"cursor": [str(last)]}, doseq=True)
        path = "/".join(quote(part, safe="") for part in request.parts)
        headers["Link"] = f'<{state.endpoint}/{path}?{query}>; rel="next"'
    return json_reply(values[first:last], headers=headers)


def _whoami(state: State, request: Request) -> Reply:
    if not state.knows(request):
        return error_reply(401, None, "Invalid username or password.")
    token = {"displayName": "test", "role": "read"}
    return json_reply({"type": "user", "name": "tester", "auth": {"type": "access_token", "accessToken": token}})


def _moved(request: Request, old: str, new: str) -> Reply:
    parts = "/".join(quote(part, safe="") for part in request.parts)
    path = re.sub(re.escape(old), new, parts, count=1, flags=re.I) + (f"?{request.query}" if request.query else "")
    return replace(bytes_reply(b"", "text/plain", 307, {"Location": f"/{path}"}), stretch=None)
