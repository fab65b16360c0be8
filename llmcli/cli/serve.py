"""`llmcli serve`: models behind HTTP, for other programs."""

import asyncio
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmcli.cli.options import CHAT_ONLY, RESULT, with_settings
from llmcli.config.presets import layers_of
from llmcli.errors import UsageError
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, ResolvedSettings, fields, resolve
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.server.http_server import HttpServer
    from llmcli.server.keys import Keys
    from llmcli.server.request_log import RequestRecord
    from llmcli.server.served_model import ServedModel
    from llmcli.server.service import ServerOptions

_NOT_HERE = CHAT_ONLY | RESULT | {"prompt", "file", "model", "prefill", "raw"}
_MAX_PARALLEL = 256  # llama.cpp, LLAMA_MAX_SEQ
_SPARE_FILES = 64  # that are open beside connections
_API_KEY = "LLMCLI_API_KEY"  # a variable with one more key


@with_settings(only=fields().keys() - _NOT_HERE)
def serve(
    flags: Layer,
    model: Annotated[
        list[str] | None,
        Option("--model", "-m", metavar="REF", help="Model to serve: a name, file or reference; several are possible."),
    ] = None,
    host: Annotated[str, Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", min=0, max=65535, help="Port to listen on; 0 = any free one.")] = 8080,
    parallel: Annotated[
        str, Option("--parallel", metavar="N|auto", help="Number of answers at a time; auto = the fastest.")
    ] = "auto",
    queue: Annotated[
        int, Option("--queue", metavar="N", min=0, max=100_000, help="Number of answers that wait; others get 503.")
    ] = 64,
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
        raise UsageError("serve needs the packages starlette and uvicorn", 'install them: pip install "llmcli[serve]"')
    from llmcli.server.addresses import allowed_names, listen, parse_hosts, parse_origins
    from llmcli.server.app import make_app
    from llmcli.server.guard import Access
    from llmcli.server.http_server import ConnectionLimits, HttpServer
    from llmcli.server.service import ServerOptions, Service

    options = ServerOptions(_parse_parallel(parallel), queue, grace)
    stacks = [layers_of(replace(flags, values={**flags.values, "model": one})).below for one in model or ()]
    stacks = stacks or [layers_of(flags).below]
    for layers in stacks:
        check_chain(resolve(layers).settings)
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
        service = Service([stack.enter_context(_open(layers, options)) for layers in stacks], options)
        app = make_app(service, access, partial(_write_log, log_json, log_content))
        server = HttpServer(app, service, limits)
        with _reading_again_at_hangup(server, keys):
            asyncio.run(_run(server, listeners))
    if server.is_interrupted:
        raise KeyboardInterrupt


@contextmanager
def _open(layers: Sequence[Layer], options: "ServerOptions") -> Iterator["ServedModel"]:
    """Find and load the model of these layers."""
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome
    from llmcli.server.served_model import ServedModel

    first = resolve(layers)
    target = find_model(first.settings)
    welcome(first.origins["model"])
    resolved: ResolvedSettings = first.over(target.layer)
    print_settings(resolved)
    # The time limit is that of each request.
    with open_model(target, replace(resolved.settings, timeout=0.0), ProgressLine()) as (engine, _):
        engine.tokenizer.abort = None  # what stops a load is also set by SIGHUP
        own = Layer("context", {"n_ctx": engine.context_size(resolved.settings)})
        yield ServedModel(target.file.name, engine, [*layers, own], options.n_parallel, options.n_queued)


async def _run(server: "HttpServer", listeners: Sequence[socket.socket]) -> None:
    try:
        await server.service.start()
        addresses = [f"http://{_url_host(one)}" for one in listeners]
        names = ", ".join(one.name for one in server.service.models)
        console.note(f"{names}: {', '.join(addresses)} (Ctrl-C ends it)")
        await server.serve([*listeners])
    finally:  # also where Ctrl-C comes before it serves
        server.service.end_answers()
        await asyncio.to_thread(server.service.close)


def _url_host(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_keys(path: Path | None) -> "Keys | None":
    """The keys of the file and of the environment; None without any."""
    from llmcli.server.keys import Keys, make_key

    own = [make_key(_API_KEY, os.environ[_API_KEY])] if os.environ.get(_API_KEY) else []
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


def _write_log(as_json: bool, has_content: bool, record: "RequestRecord") -> None:
    from llmcli.server.request_log import json_line, text_line

    if not console.quiet:
        data = record.data(has_content)
        console.write(json_line(data) if as_json else text_line(data))
    if record.error and console.debug:
        traceback.print_exception(record.error)


def _parse_parallel(text: str) -> int:
    """The number of answers at a time; 0 for auto."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= _MAX_PARALLEL:
        raise UsageError(f"--parallel must be auto, or an integer between 1 and {_MAX_PARALLEL}, got {text[:40]!r}")
    return int(text)
