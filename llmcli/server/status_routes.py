"""Routes about the server: whether it is ready, its models, what it counts."""

from starlette.requests import Request
from starlette.responses import Response

from llmcli.server.http import json_response
from llmcli.server.served_model import ServedModel
from llmcli.server.service import service_of


async def health(request: Request) -> Response:
    """Whether it answers requests; it needs no key. Raises LlmcliError if the thread of a model has ended."""
    for model in service_of(request).models:
        model.worker.check_running()
    return json_response({"status": "ok"})


async def models(request: Request) -> Response:
    """The models that the key may use, in OpenAI's form."""
    return json_response({"object": "list", "data": [_model_data(one) for one in service_of(request).allowed_models()]})


def _model_data(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.loaded_at),
        "owned_by": "llmcli",
        "aliases": list(model.aliases),
        "meta": {"n_ctx": model.n_ctx, "n_ctx_train": model.engine.n_ctx_train},
    }
