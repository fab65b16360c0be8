"""Routes about the server: whether it is ready, its models, what it does and what it counts."""

from starlette.requests import Request
from starlette.responses import Response

from llmcli.inference.request import template_options
from llmcli.server.answer_group import RunningAnswer
from llmcli.server.errors import UnsupportedError
from llmcli.server.http import Values, json_response
from llmcli.server.loading import ModelEntry
from llmcli.server.metrics import prometheus_text
from llmcli.server.native_routes import sampling_data
from llmcli.server.request_log import current_record
from llmcli.server.served_model import ServedModel
from llmcli.server.service import Service, is_allowed, service_of
from llmcli.server.tokenizer_routes import special_tokens


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
    others = [one for one in service.entries if one.name not in names and is_allowed(key, one)]
    found: list[ServedModel | ModelEntry] = [*loaded, *others]
    return json_response({"object": "list", "data": [_model_data(service, one) for one in found]})


def _model_data(service: Service, model: ServedModel | ModelEntry) -> Values:
    created = model.loaded_at if isinstance(model, ServedModel) else service.started_at
    head = {"id": model.name, "object": "model", "created": int(created), "owned_by": "llmcli"}
    if not isinstance(model, ServedModel):
        return {**head, "meta": None}
    return {
        **head,
        "aliases": list(model.aliases),
        "max_model_len": model.n_ctx,
        "meta": {
            "n_ctx": model.n_ctx,
            "file": model.file_name,
            **(
                {"n_ctx_train": model.engine.n_ctx_train, "n_vocab": model.engine.tokenizer.n_tokens}
                if model.generates
                else {}
            ),
        },
    }


async def model(request: Request) -> Response:
    """One model, in OpenAI's form; it is not loaded for that."""
    service = service_of(request)
    return json_response(_model_data(service, await service.look_up(request.path_params["name"])))


async def props(request: Request) -> Response:
    """What a client of llama-server wants to know of a model and its defaults."""
    model = await service_of(request).model(request.query_params.get("model", ""), request)
    settings, worker = model.common.settings, model.worker
    special = special_tokens(model)
    return json_response(
        {
            "default_generation_settings": {"params": sampling_data(settings, model.engine), "n_ctx": model.n_ctx},
            "total_slots": worker.n_slots,
            "model_alias": model.name,
            "model_path": model.file_name,
            "modalities": {"vision": False, "audio": False, "video": False},
            "chat_template": template_options(model.engine, settings).source,
            "bos_token": special["bos_token"] or "",
            "eos_token": special["eos_token"] or "",
            "build_info": model.fingerprint,
            "is_sleeping": False,
        }
    )


async def slots(request: Request) -> Response:
    """What is answered at the moment, without the texts."""
    service = service_of(request)
    if not service.options.has_slots:
        raise UnsupportedError("this server does not show its slots", "start it without --no-slots")
    model = await service.model(request.query_params.get("model", ""), request)
    return json_response([_slot(model, index, one) for index, one in enumerate(list(model.worker.slots))])


def _slot(model: ServedModel, index: int, running: RunningAnswer | None) -> Values:
    data: Values = {"id": index, "n_ctx": model.n_ctx, "speculative": False, "is_processing": running is not None}
    if running is None:
        return data
    answer = running.answer
    limit, n_decoded = answer.settings.max_tokens, answer.record.timings.predicted_n
    next_token = {
        "has_next_token": True,
        "has_new_line": "\n" in answer.text,
        "n_remain": limit - n_decoded if limit >= 0 else -1,
        "n_decoded": n_decoded,
    }
    return data | {"n_prompt_tokens": len(answer.prompt.tokens), "next_token": [next_token]}


async def metrics(request: Request) -> Response:
    """Counts in the text form of Prometheus."""
    service = service_of(request)
    if not service.options.has_metrics:
        raise UnsupportedError("this server does not show metrics", "start it without --no-metrics")
    workers = [one.worker for one in service.models]
    n_running, n_waiting = sum(one.n_running for one in workers), sum(one.n_waiting for one in workers)
    text = prometheus_text(service.metrics, n_running, n_waiting)
    headers = {"Process-Start-Time-Unix": str(int(service.started_at))}
    return Response(text, headers=headers, media_type="text/plain; version=0.0.4")
