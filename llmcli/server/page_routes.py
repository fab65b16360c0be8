"""The page for a person at `/`: what runs, and a small chat with the heat of each token; and its data."""

import secrets
import time
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from llmcli import __version__
from llmcli.server.http import json_response
from llmcli.server.service import Service, service_of

_PAGE = Path(__file__).parent / "page" / "index.html"
# The page loads nothing from elsewhere, and nobody can show it in a frame.
_POLICY = (
    "default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _page() -> str:
    return _PAGE.read_text(encoding="utf-8")


async def page(_request: Request) -> Response:
    """The page; it has no data, so that it needs no key."""
    nonce = secrets.token_urlsafe(16)
    headers = {
        "Content-Security-Policy": _POLICY.format(nonce),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(_page().replace("NONCE", nonce), headers=headers)


async def status(request: Request) -> Response:
    """What runs, as the page shows it."""
    service = service_of(request)
    return json_response(
        {
            "version": __version__,
            "uptime": time.time() - service.started_at,
            "models": _models(service),
        }
    )


def _models(service: Service) -> list[dict[str, object]]:
    loaded = {one.name: one for one in service.models}
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys([*service.names, *loaded]):
        model = loaded.get(name)
        row: dict[str, object] = {"name": name, "is_loaded": model is not None}
        if model:
            row |= {"n_ctx": model.n_ctx, "running": model.worker.n_running, "waiting": model.worker.n_waiting}
        rows.append(row)
    return rows
