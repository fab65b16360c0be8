"""The app: each path with its handler, and what stands before and after all of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmcli.errors import LlmcliError
from llmcli.server import (
    anthropic_routes,
    control_routes,
    decision_routes,
    inspection_routes,
    native_routes,
    openai_routes,
    page_routes,
    responses_routes,
    status_routes,
    tokenizer_routes,
    vector_routes,
)
from llmcli.server.errors import MethodError, RequestError, UnknownError
from llmcli.server.guard import Access, Guard
from llmcli.server.http import ClientGoneError, error_response
from llmcli.server.request_log import RequestLog, RequestRecord
from llmcli.server.service import Service


def make_app(
    service: Service,
    access: Access | None = None,
    log: Callable[[RequestRecord], None] = lambda _record: None,
) -> ASGIApp:
    """The ASGI app of a service, which it closes at its end; without `access` for this machine, without keys.

    `log` gets each request at its end.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    routes = [
        Route("/", page_routes.page),
        Route("/status", page_routes.status),
        _post("/llmcli/inspect", inspection_routes.inspect),
        _post("/llmcli/control", control_routes.control),
        Route("/health", status_routes.health),
        Route("/v1/health", status_routes.health),
        Route("/v1/models", status_routes.models),
        Route("/v1/models/{name:path}", status_routes.model),
        Route("/models", status_routes.models),
        Route("/props", status_routes.props),
        Route("/slots", status_routes.slots),
        Route("/metrics", status_routes.metrics),
        *_both("/chat/completions", openai_routes.chat_completions),
        *_both("/chat/completions/input_tokens", tokenizer_routes.input_tokens),
        _post("/v1/completions", openai_routes.completions),
        _post("/completions", native_routes.completion),  # as in llama-server
        _post("/completion", native_routes.completion),
        *_both("/responses", responses_routes.responses),
        *_both("/responses/input_tokens", responses_routes.input_tokens),
        _post("/v1/messages", anthropic_routes.messages),
        _post("/v1/messages/count_tokens", anthropic_routes.count_tokens),
        *_both("/tokenize", tokenizer_routes.tokenize),
        *_both("/detokenize", tokenizer_routes.detokenize),
        *_both("/apply-template", tokenizer_routes.apply_template),
        Route("/tokenizer_info", tokenizer_routes.tokenizer_info),
        Route("/v1/tokenizer_info", tokenizer_routes.tokenizer_info),
        *_both("/embeddings", vector_routes.embeddings),
        *_both("/rerank", vector_routes.rerank),
        *_both("/reranking", vector_routes.rerank),
        *_both("/decisions", decision_routes.decisions),
    ]
    handlers = {LlmcliError: _on_error, HTTPException: _on_http_error, ClientDisconnect: _on_gone, Exception: _on_fault}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)  # type: ignore[arg-type]
    app.router.redirect_slashes = False  # a redirect loses the body of some clients, and names the host of the request
    app.state.service = service
    return RequestLog(Guard(app, service, access or Access()), service.running, service.meter, log)


def _both(path: str, handler: object) -> list[Route]:
    """The same handler with and without /v1, as in llama-server."""
    return [_post(start + path, handler) for start in ("/v1", "")]


def _post(path: str, handler: object) -> Route:
    return Route(path, handler, methods=["POST"])  # type: ignore[arg-type]


async def _on_error(request: Request, error: LlmcliError) -> Response:
    return error_response(error, request.url.path)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    method, path, allow = request.method, request.url.path, (error.headers or {}).get("Allow", "")
    if error.status_code == 405:
        others = " or ".join(sorted({*allow.split(", ")} - {"HEAD"}))
        refusal: RequestError = MethodError(f"{path} does not take {method}", f"use {others}", headers={"Allow": allow})
    elif error.status_code == 404:
        refusal = UnknownError(f"no such route: {method} {path}")
    else:
        refusal = RequestError(str(error.detail))
    return error_response(refusal, path)


async def _on_gone(_request: Request, _error: ClientDisconnect) -> Response:
    return error_response(ClientGoneError("the client closed the connection"))  # nobody reads it


async def _on_fault(_request: Request, error: Exception) -> Response:
    return error_response(LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it"))
