"""Routes about the server: whether it is ready, its models, what it counts."""

from starlette.requests import Request
from starlette.responses import Response

from llmcli.server.http import json_response
from llmcli.server.served_model import ServedModel
from llmcli.server.service import service_of


async def health(_request: Request) -> Response:
    """Whether it answers requests; it needs no key."""
    return json_response({"status": "ok"})


async def models(request: Request) -> Response:
    """The models, in OpenAI's form."""
    service = service_of(request)
    loaded = service.models
    names = {one.name for one in loaded}
    others = [
        {"id": one.name, "object": "model", "created": int(service.started_at), "owned_by": "llmcli", "meta": None}
        for one in service.entries
        if one.name not in names
    ]
    return json_response({"object": "list", "data": [*map(_model_data, loaded), *others]})


def _model_data(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.loaded_at),
        "owned_by": "llmcli",
        "aliases": list(model.aliases),
        "meta": {"n_ctx": model.n_ctx},
    }
