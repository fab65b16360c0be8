"""The app: each path with its handler, and what stands before and after all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmcli.errors import LlmcliError
from llmcli.server import decision_routes, inspection_routes, openai_routes, page_routes, status_routes, vector_routes
from llmcli.server.errors import RequestError, UnknownError
from llmcli.server.http import error_response
from llmcli.server.service import Service


def make_app(service: Service) -> Starlette:
    """The ASGI app of a service, which it closes at its end."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    routes = [
        Route("/", page_routes.page),
        Route("/status", page_routes.status),
        Route("/llmcli/inspect", inspection_routes.inspect, methods=["POST"]),
        Route("/health", status_routes.health),
        Route("/v1/health", status_routes.health),
        Route("/v1/models", status_routes.models),
        Route("/models", status_routes.models),
        *_both("/chat/completions", openai_routes.chat_completions),
        *_both("/completions", openai_routes.completions),
        *_both("/embeddings", vector_routes.embeddings),
        *_both("/rerank", vector_routes.rerank),
        *_both("/reranking", vector_routes.rerank),
        *_both("/decisions", decision_routes.decisions),
    ]
    handlers = {LlmcliError: _on_error, HTTPException: _on_http_error, Exception: _on_fault}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)  # type: ignore[arg-type]
    app.state.service = service
    return app


def _both(path: str, handler: object) -> list[Route]:
    """The same handler with and without /v1, as in llama-server."""
    return [Route(start + path, handler, methods=["POST"]) for start in ("/v1", "")]  # type: ignore[arg-type]


async def _on_error(_request: Request, error: LlmcliError) -> Response:
    return error_response(error)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code in (404, 405):
        return error_response(UnknownError(f"no such route: {request.method} {request.url.path}"))
    return error_response(RequestError(str(error.detail)))


async def _on_fault(_request: Request, error: Exception) -> Response:
    return error_response(LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it"))
