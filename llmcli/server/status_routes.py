"""Routes about the server: whether it is ready, its models, what it counts."""

from starlette.requests import Request
from starlette.responses import Response

from llmcli.server.http import json_response
from llmcli.server.request_log import current_record
from llmcli.server.served_model import ServedModel
from llmcli.server.service import is_allowed, service_of


async def health(request: Request) -> Response:
    """Whether it answers requests; it needs no key. Raises LlmcliError if the thread of a model has ended."""
    for model in service_of(request).models:
        model.worker.check_running()
    return json_response({"status": "ok"})


async def models(request: Request) -> Response:
    """The models that the key may use, in OpenAI's form."""
    service, record = service_of(request), current_record()
    key = record.key if record else None
    loaded = [one for one in service.models if is_allowed(key, one)]
    names = {one.name for one in loaded}
    others = [
        {"id": one.name, "object": "model", "created": int(service.started_at), "owned_by": "llmcli", "meta": None}
        for one in service.entries
        if one.name not in names and is_allowed(key, one)
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
