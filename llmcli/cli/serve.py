"""`llmcli serve`: models behind HTTP, for other programs."""

import asyncio
import math
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmcli.cli.options import CHAT_ONLY, RESULT, with_settings
from llmcli.config.presets import layers_of
from llmcli.errors import LlmcliError, UsageError, error_text
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, fields, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.server.loading import ModelEntry
    from llmcli.server.service import ServerOptions

_NOT_HERE = CHAT_ONLY | RESULT | {"prompt", "file", "model", "prefill", "raw"}
_MAX_PARALLEL = 256  # llama.cpp, LLAMA_MAX_SEQ
_BACKLOG = 2048  # connections that wait to be accepted


@with_settings(only=fields().keys() - _NOT_HERE)
def serve(
    flags: Layer,
    model: Annotated[
        list[str] | None,
        Option("--model", "-m", metavar="REF", help="Model to serve: a name, file or reference; several are possible."),
    ] = None,
    host: Annotated[str, Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", min=0, max=65535, help="Port to listen on; 0 = any free one.")] = 8080,
    pin: Annotated[
        list[str] | None, Option("--pin", metavar="NAME", help="Model of several that stays loaded. Repeatable.")
    ] = None,
    keep_alive: Annotated[
        str,
        Option("--keep-alive", metavar="TIME", help="Time after its last request that one of several stays loaded."),
    ] = "10m",
    any_model: Annotated[
        bool, Option("--any-model", help="Let requests name any model of `llmcli models list`; none is downloaded.")
    ] = False,
    parallel: Annotated[
        str, Option("--parallel", metavar="N|auto", help="Number of answers at a time; auto = the fastest.")
    ] = "auto",
    queue: Annotated[
        int, Option("--queue", metavar="N", min=0, max=100_000, help="Number of answers that wait; others get 503.")
    ] = 64,
    grace: Annotated[
        float, Option("--grace", metavar="SECONDS", min=0, max=3600, help="Time for running answers at the end.")
    ] = 10.0,
) -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UsageError("serve needs the packages starlette and uvicorn", 'install them: pip install "llmcli[serve]"')
    from llmcli.server.service import ServerOptions

    options = ServerOptions(_parse_parallel(parallel), queue, grace, _parse_duration(keep_alive))
    stacks = [layers_of(replace(flags, values={**flags.values, "model": one})).below for one in model or ()]
    stacks = stacks or [layers_of(flags).below]
    for layers in stacks:
        check_chain(resolve(layers).settings)
    with _listen(host, port) as listener:
        entries = [_find(layers, options) for layers in stacks]
        if twice := next((one.name for one in entries if sum(one.name == other.name for other in entries) > 1), ""):
            raise UsageError(f"two models are called {twice}", "name one of them with `llmcli models alias`")
        kept = _choose_pinned(pin or (), entries)
        find_other = partial(_find_other, flags, options) if any_model else lambda _name: None
        asyncio.run(_run(options, kept, [one for one in entries if one not in kept], find_other, listener))


def _find(layers: Sequence[Layer], options: "ServerOptions") -> "ModelEntry":
    """Find the model of these layers; a missing one is downloaded if the user allows it."""
    from llmcli.cli.open_model import find_model, print_settings, welcome
    from llmcli.server.loading import entry_of

    first = resolve(layers)
    target = find_model(first.settings, for_text=False)
    welcome(first.origins["model"])
    print_settings(first.over(target.layer))
    status = ProgressLine()
    return entry_of(target, layers, options.n_parallel, options.n_queued, console.warn, status.loading)


def _find_other(flags: Layer, options: "ServerOptions", name: str) -> "ModelEntry | None":
    """A model that a request names as `llmcli models list` does; never by a path, and none is downloaded."""
    from llmcli.inference.local import resolve_model
    from llmcli.models.installed import inventory_with_aliases
    from llmcli.models.locations import model_locations
    from llmcli.server.loading import entry_of

    layers = layers_of(replace(flags, values={**flags.values, "model": name, "offline": True})).below
    locations = model_locations(resolve(layers).settings)
    if name not in {one.name for one in inventory_with_aliases(locations)}:
        return None
    return entry_of(resolve_model(name, locations), layers, options.n_parallel, options.n_queued)


def _choose_pinned(names: Sequence[str], entries: Sequence["ModelEntry"]) -> list["ModelEntry"]:
    """The models that stay loaded: those named, or the only one. Raises UsageError for a name that is none of them."""
    known = [one.name for one in entries]
    for name in names:
        if name not in known:
            raise UsageError(f"--pin {name[:40]!r} is not a model of this server", f"use one of: {', '.join(known)}")
    return [one for one in entries if one.name in names or len(entries) == 1]


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, before a model is loaded. Raises LlmcliError for an address that cannot be used."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        hint = "another program uses it: choose another --port" if port else ""
        raise LlmcliError(f"cannot listen on {host}:{port}: {error_text(error)}", hint) from None
    with listener:
        yield listener


async def _run(
    options: "ServerOptions",
    pinned: Sequence["ModelEntry"],
    entries: Sequence["ModelEntry"],
    find_other: Callable[[str], "ModelEntry | None"],
    listener: socket.socket,
) -> None:
    import uvicorn

    from llmcli.server.app import make_app
    from llmcli.server.service import Service

    models = [await asyncio.to_thread(one.load) for one in pinned]
    service = Service(models, options, entries, find_other)
    await service.start()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    console.note(f"{', '.join(service.names)}: http://{shown}:{port} (Ctrl-C ends it)")
    app = make_app(service)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False)
    await uvicorn.Server(config).serve(sockets=[listener])


def _parse_duration(text: str) -> float:
    """Seconds of a duration such as 90, 90s, 10m or 2h; endless for `forever`. Raises UsageError."""
    if text == "forever":
        return math.inf
    found = re.fullmatch(r"(\d{1,7}(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise UsageError(f"--keep-alive must be a duration such as 90s, 10m, 2h or forever, got {text[:40]!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _parse_parallel(text: str) -> int:
    """The number of answers at a time; 0 for auto."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= _MAX_PARALLEL:
        raise UsageError(f"--parallel must be auto, or an integer between 1 and {_MAX_PARALLEL}, got {text[:40]!r}")
    return int(text)
