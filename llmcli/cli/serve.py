"""`llmcli serve`: models behind HTTP, for other programs."""

import asyncio
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Option
from llmcli.cli.options import CHAT_ONLY, RESULT, Parallel, parse_parallel, with_settings
from llmcli.config.presets import layers_of
from llmcli.errors import UsageError
from llmcli.params.param import parse_duration
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, fields, resolve
from llmcli.text import ellipsize, plural
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.server.http_server import HttpServer
    from llmcli.server.keys import Keys
    from llmcli.server.loading import ModelEntry
    from llmcli.server.request_log import RequestRecord
    from llmcli.server.served_model import ServedModel
    from llmcli.server.service import ServerOptions

_NOT_HERE = CHAT_ONLY | RESULT | {"prompt", "file", "model", "prefill", "raw", "choices", "predicate", "rating"}
_NOT_HERE |= {
    "endpoint",
    "drop_unsupported",
    "keep_alive",
}
_POOLINGS = ("mean", "cls", "last")  # those that give a vector of a text
_SPARE_FILES = 64  # that are open beside connections
_API_KEY = "LLMCLI_API_KEY"  # a variable with one more key


@with_settings(only=fields().keys() - _NOT_HERE)
def serve(
    flags: Layer,
    model: Annotated[
        list[str] | None,
        Option("--model", "-m", metavar="REF", help="Model to serve: a name, file or reference; several are possible."),
    ] = None,
    host: Annotated[
        str, Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 = all.")
    ] = "127.0.0.1",
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
    parallel: Parallel = "auto",
    queue: Annotated[
        int, Option("--queue", metavar="N", min=0, max=100_000, help="Number of answers that wait; others get 503.")
    ] = 64,
    alias: Annotated[
        list[str] | None,
        Option(
            "--alias",
            metavar="NAME,...",
            help="Name of the model for clients, and other names for it. Repeatable: one for each --model.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        Option(
            "--pooling",
            metavar="mean|cls|last",
            show_default=False,
            help="How the vectors of the tokens become that of a text [default: as the model says].",
        ),
    ] = None,
    metrics: Annotated[bool, Option(help="Show counts for Prometheus at /metrics.")] = True,
    slots: Annotated[bool, Option(help="Show at /slots what is answered at the moment.")] = True,
    grace: Annotated[
        float, Option("--grace", metavar="SECONDS", min=0, max=3600, help="Time for running answers at the end.")
    ] = 10.0,
    api_key_file: Annotated[
        Path | None,
        Option("--api-key-file", metavar="FILE", help="Keys of clients: NAME: KEY on each line, with limits after it."),
    ] = None,
    insecure: Annotated[bool, Option("--insecure", help="Serve other machines without keys.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        Option("--allowed-host", metavar="NAME", help="Name under which clients reach it, repeatable; * = any."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Option("--cors-origin", metavar="ORIGIN", help="Web pages that may use it, repeatable: URL, localhost or *."),
    ] = None,
    max_body: Annotated[
        int, Option("--max-body", metavar="MIB", min=1, max=1024, help="Largest body of a request.")
    ] = 16,
    max_connections: Annotated[
        int, Option("--max-connections", metavar="N", min=1, max=65536, help="Number of open connections.")
    ] = 1024,
    client_timeout: Annotated[
        float,
        Option("--client-timeout", metavar="SECONDS", min=0.1, max=3600, help="Time of a client to send, and to read."),
    ] = 30.0,
    log_json: Annotated[bool, Option("--log-json", help="Write the log as JSON lines.")] = False,
    log_content: Annotated[bool, Option("--log-content", help="Add prompts and answers to the log.")] = False,
) -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UsageError(
            "serve needs the packages starlette and uvicorn", "install them: pip install starlette uvicorn"
        )
    from llmcli.server.addresses import allowed_names, listen, parse_hosts, parse_origins
    from llmcli.server.app import make_app
    from llmcli.server.guard import Access
    from llmcli.server.http_server import ConnectionLimits, HttpServer
    from llmcli.server.service import ServerOptions, Service

    if pooling not in (None, *_POOLINGS):
        raise UsageError(f"--pooling must be one of {', '.join(_POOLINGS)}, got {pooling[:40]!r}")
    options = ServerOptions(
        n_parallel=parse_parallel(parallel),
        n_queued=queue,
        grace=grace,
        keep_alive=_seconds(keep_alive),
        has_metrics=metrics,
        has_slots=slots,
        is_verbose=console.verbose,
        pooling=pooling or "",
    )
    stacks = [layers_of(replace(flags, values={**flags.values, "model": one})).below for one in model or ()]
    stacks = stacks or [layers_of(flags).below]
    for layers in stacks:
        check_chain(resolve(layers).settings)
    aliases = _parse_aliases(alias or [], len(stacks))
    keys, addresses, origins = _read_keys(api_key_file), parse_hosts(host, port), parse_origins(cors_origin or ())
    if not (keys or insecure or all(one.is_loopback for one in addresses)):
        hint = "give it --api-key-file FILE, or --insecure to serve everybody who reaches this machine"
        raise UsageError(f"--host {host} is reached from other machines, and the server has no keys", hint)
    if "*" in origins and not keys:
        console.warn("each web page that a browser here shows can use the server", "give it --api-key-file FILE")
    names = allowed_names(addresses, allowed_host or (), has_keys=keys is not None)
    access = Access(keys, names, origins, max_body << 20)
    limits = ConnectionLimits(_allow_connections(max_connections), client_timeout)
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(one)) for one in addresses]
        entries = [_find(*one, options) for one in zip(stacks, aliases, strict=True)]
        if twice := next((one.name for one in entries if sum(one.name == other.name for other in entries) > 1), ""):
            raise UsageError(f"two models are called {twice}", "give each a name: --alias A --alias B")
        kept = _choose_pinned(pin or (), entries)
        if keys and not any_model:
            _check_models(keys, entries)
        find_other = partial(_find_other, flags, options) if any_model else lambda _name: None

        def make_server(pinned: Sequence["ServedModel"]) -> HttpServer:
            service = Service(pinned, options, [one for one in entries if one not in kept], find_other)
            return HttpServer(make_app(service, access, partial(write_log, log_json, log_content)), service, limits)

        asyncio.run(_run(kept, make_server, listeners, keys))


def _find(layers: Sequence[Layer], names: Sequence[str], options: "ServerOptions") -> "ModelEntry":
    """Find the model of these layers; a missing one is downloaded if the user allows it."""
    from llmcli.cli.open_model import find_model, print_settings, welcome
    from llmcli.server.loading import entry_of

    first = resolve(layers)
    target = find_model(first.settings, for_text=False)
    welcome(first)
    print_settings(first.over(target.layer))
    status = ProgressLine()
    return entry_of(
        target, layers, options.n_parallel, options.n_queued, console.warn, status.loading, names, options.pooling
    )


def _find_other(flags: Layer, options: "ServerOptions", name: str) -> "ModelEntry | None":
    """A model that a request names as `llmcli models list` does; never by a path, and none is downloaded."""
    from llmcli.inference.resolved_model import resolve_model
    from llmcli.models.installed import inventory_with_aliases
    from llmcli.models.locations import model_locations
    from llmcli.server.loading import entry_of

    layers = layers_of(replace(flags, values={**flags.values, "model": name, "offline": True})).below
    locations = model_locations(resolve(layers).settings)
    if name not in {one.name for one in inventory_with_aliases(locations)}:
        return None
    found = resolve_model(name, locations)
    return entry_of(found, layers, options.n_parallel, options.n_queued, pooling=options.pooling)


def _check_models(keys: "Keys", entries: Sequence["ModelEntry"]) -> None:
    """Warn of a key that is limited to a model which is not served: its owner would see an empty list."""
    served = {name for one in entries for name in (one.name, *one.aliases)}
    for key, model in keys.restrictions():
        if model not in served:
            console.warn(
                f"the key of {key} is for the model {model}, which is not served", f"use: {', '.join(sorted(served))}"
            )


def _choose_pinned(names: Sequence[str], entries: Sequence["ModelEntry"]) -> list["ModelEntry"]:
    """The models that stay loaded: those named, or the only one. Raises UsageError for a name that is none of them."""
    known = [one.name for one in entries]
    for name in names:
        if name not in known:
            raise UsageError(f"--pin {name[:40]!r} is not a model of this server", f"use one of: {', '.join(known)}")
    return [one for one in entries if one.name in names or len(entries) == 1]


async def _run(
    pinned: Sequence["ModelEntry"],
    make_server: "Callable[[Sequence[ServedModel]], HttpServer]",
    listeners: Sequence[socket.socket],
    keys: "Keys | None",
) -> None:
    """Load the models, and serve until the end. Raises KeyboardInterrupt where Ctrl-C ended it in good order."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # asyncio would wait for the thread that loads
    server = make_server([await asyncio.to_thread(one.load) for one in pinned])
    await server.service.start()
    addresses = ", ".join(f"http://{_url_host(one)}" for one in listeners)
    console.note(f"{', '.join(server.service.names)}: {addresses} (Ctrl-C ends it)")
    if keys:
        names = ellipsize(", ".join(keys.names), 60)
        console.note(f"clients need a key: {names}")
    with _reading_again_at_hangup(server, keys):
        await server.serve([*listeners])
    if server.is_interrupted:
        raise KeyboardInterrupt


def _url_host(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_keys(path: Path | None) -> "Keys | None":
    """The keys of the file and of the environment; None without any."""
    from llmcli.server.keys import SHORT, Keys, make_key, warn_short

    text = os.environ.get(_API_KEY, "").strip()
    own = [make_key(_API_KEY, text)] if text else []
    if 0 < len(text) < SHORT:
        warn_short(console.warn, f"the key in {_API_KEY}")
    return Keys(path.expanduser() if path else None, own, console.warn) if path or own else None


def _allow_connections(most: int) -> int:
    """Let the process open enough files for this number of connections; returns the number that is possible."""
    if sys.platform == "win32":
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        most = min(most, max(soft - _SPARE_FILES, 1))
    return most


@contextmanager
def _reading_again_at_hangup(server: "HttpServer", keys: "Keys | None") -> Iterator[None]:
    """Within this block SIGHUP lets the server read its keys again, unless its terminal was closed: that ends it."""
    number = getattr(signal, "SIGHUP", None)  # Windows does not have it
    if number is None or not keys:
        yield
        return
    had_terminal = is_terminal(sys.stderr)

    def handle(*_: object) -> None:
        if had_terminal and not is_terminal(sys.stderr):
            server.handle_exit(number, None)
        else:
            keys.read_again()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


def write_log(as_json: bool, has_content: bool, record: "RequestRecord") -> None:
    """Write the line of a request to stderr, unless `--quiet`; with `--debug` the traceback of its error too."""
    from llmcli.server.request_log import json_line, text_line

    if not console.quiet:
        data = record.data(has_content)
        console.write(json_line(data) if as_json else text_line(data))
    if record.error and console.debug:
        traceback.print_exception(record.error)


def _parse_aliases(texts: Sequence[str], n_models: int) -> Sequence[Sequence[str]]:
    """The names of each model; empty without any. Raises UsageError for one that two models have."""
    if len(texts) > n_models:
        told = f"--alias is given {plural(len(texts), 'time')} for {plural(n_models, 'model')}"
        raise UsageError(told, "give it once for each --model, with commas between the names")
    names = [[name.strip() for name in text.split(",") if name.strip()] for text in texts]
    every = [name for group in names for name in group]
    if twice := next((name for name in every if every.count(name) > 1), None):
        raise UsageError(f"--alias gives the name {twice!r} twice", "give each model names of its own")
    return [*names, *[[]] * (n_models - len(names))]


def _seconds(keep_alive: str) -> float:
    """Raises UsageError."""
    try:
        return parse_duration(keep_alive)
    except ValueError as error:
        raise UsageError(f"--keep-alive must be {error}, got {keep_alive[:40]!r}") from None
