"""`llmcli serve`: models behind HTTP, for other programs."""

import asyncio
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmcli.cli.options import CHAT_ONLY, RESULT, with_settings
from llmcli.config.presets import layers_of
from llmcli.errors import LlmcliError, UsageError, error_text
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, ResolvedSettings, fields, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.server.served_model import ServedModel
    from llmcli.server.service import ServerOptions, Service

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
    parallel: Annotated[
        str, Option("--parallel", metavar="N|auto", help="Number of answers at a time; auto = the fastest.")
    ] = "auto",
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
    metrics: Annotated[bool, Option(help="Show counts for Prometheus at /metrics.")] = True,
    slots: Annotated[bool, Option(help="Show at /slots what is answered at the moment.")] = True,
    grace: Annotated[
        float, Option("--grace", metavar="SECONDS", min=0, max=3600, help="Time for running answers at the end.")
    ] = 10.0,
) -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UsageError("serve needs the packages starlette and uvicorn", 'install them: pip install "llmcli[serve]"')
    from llmcli.server.service import ServerOptions

    options = ServerOptions(_parse_parallel(parallel), queue, grace, metrics, slots, console.verbose)
    stacks = [layers_of(replace(flags, values={**flags.values, "model": one})).below for one in model or ()]
    stacks = stacks or [layers_of(flags).below]
    for layers in stacks:
        check_chain(resolve(layers).settings)
    names = _parse_aliases(alias or [], len(stacks))
    with _listen(host, port) as listener, ExitStack() as loaded:
        models = [loaded.enter_context(_open(*one, options)) for one in zip(stacks, names, strict=True)]
        from llmcli.server.service import Service

        asyncio.run(_run(Service(models, options), listener))


@contextmanager
def _open(layers: Sequence[Layer], names: Sequence[str], options: "ServerOptions") -> Iterator["ServedModel"]:
    """Find and load the model of these layers; the first of its names, if it has any, is what clients see."""
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome
    from llmcli.server.served_model import ServedModel

    first = resolve(layers)
    target = find_model(first.settings)
    welcome(first.origins["model"])
    resolved: ResolvedSettings = first.over(target.layer)
    print_settings(resolved)
    # The time limit is that of each request.
    with open_model(target, replace(resolved.settings, timeout=0.0), ProgressLine()) as (engine, _):
        own = Layer("context", {"n_ctx": engine.context_size(resolved.settings)})
        name = names[0] if names else target.file.name
        stack = [*layers, own]
        yield ServedModel(name, engine, stack, options.n_parallel, options.n_queued, names, target.file.path.name)


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


async def _run(service: "Service", listener: socket.socket) -> None:
    import uvicorn

    from llmcli.server.app import make_app

    await service.start()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    console.note(f"{', '.join(one.name for one in service.models)}: http://{shown}:{port} (Ctrl-C ends it)")
    config = uvicorn.Config(
        make_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    await uvicorn.Server(config).serve(sockets=[listener])


def _parse_aliases(texts: Sequence[str], n_models: int) -> Sequence[Sequence[str]]:
    """The names of each model; empty without any. Raises UsageError for one that two models have."""
    if len(texts) > n_models:
        raise UsageError(f"--alias is given {len(texts)} times for {n_models} models", "give it once for each --model")
    names = [[name.strip() for name in text.split(",") if name.strip()] for text in texts]
    every = [name for group in names for name in group]
    if twice := next((name for name in every if every.count(name) > 1), None):
        raise UsageError(f"--alias gives the name {twice!r} twice", "give each model names of its own")
    return [*names, *[[]] * (n_models - len(names))]


def _parse_parallel(text: str) -> int:
    """The number of answers at a time; 0 for auto."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= _MAX_PARALLEL:
        raise UsageError(f"--parallel must be auto, or an integer between 1 and {_MAX_PARALLEL}, got {text[:40]!r}")
    return int(text)
