"""The facts about a model, without loading it: from its header, its location and its repository."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from llmcli.engine.llama import hardware
from llmcli.engine.llama.hardware import estimate
from llmcli.inference.sizing import shape_of
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.splits import read_headers
from llmcli.models.hub import cache
from llmcli.models.inventory import Item, item_of
from llmcli.models.locations import ModelFile, Shelf
from llmcli.models.sources.hub import Plan
from llmcli.params.settings import Settings


def local_portrait(file: ModelFile, shelf: Shelf, settings: Settings) -> dict[str, Any]:
    """The facts about a model on this machine.

    Raises:
        ModelInvalidError: it is damaged.
        ModelNotFoundError: it is the starter, which is not downloaded yet.
    """
    item = item_of(file, shelf)
    headers = read_headers(file.parts)
    recorded = notes.when_verified(shelf.data_dir, file.path)
    if item.source == "starter":  # it was verified when it was downloaded
        recorded = item.digests[0], file.path.stat().st_mtime
    license_name = str(headers[0].metadata.get("general.license", "")) or license_of(item, shelf)
    return _portrait(headers, item.size, settings) | {
        "name": item.name,
        "downloaded": True,
        "n_files": len(file.parts),
        "license": license_name,
        "commit": item.cached.commit if item.cached else None,
        "file": str(file.path),
        "sha256": item.digests[0],
        "verified": recorded[1] if recorded and recorded[0] == item.digests[0] else None,
        "damaged": bool(recorded and item.digests[0] and recorded[0] != item.digests[0]),
        "used": item.used,
        "projector": item.cached.projector.path if item.cached and item.cached.projector else None,
    }


def license_of(item: Item, shelf: Shelf) -> str:
    """The license that the Hub gave when the model was pulled; "" if it is not known."""
    pulled = cache.all_revisions(shelf.data_dir) if item.cached else []
    matching = (one.license for one in pulled if item.cached and one.files == item.cached.variant.parts)
    return next(matching, "")


def remote_portrait(plan: Plan, settings: Settings) -> dict[str, Any]:
    """The facts about a model on the Hub, of which only the header is read.

    Raises:
        LlmcliError: the Hub cannot be reached, or the file is not a model.
    """
    from llmcli.models.sources.hub import remote_header

    header = remote_header(plan.files[0])
    first = plan.variant.parts[0]
    license_name = plan.repo.license or str(header.metadata.get("general.license", ""))
    return _portrait([header], plan.variant.size, settings) | {
        "name": str(plan.reference),
        "downloaded": False,
        "n_parameters": header.n_parameters if len(plan.variant.parts) == 1 else plan.repo.n_parameters,
        "n_files": len(plan.variant.parts),
        "license": license_name,
        "commit": plan.repo.commit,
        "file": f"{plan.repo.name}/{first.path}",
        "sha256": first.sha256,
        "verified": None,
        "damaged": False,
        "used": None,
        "projector": plan.projector.file.path if plan.projector else None,
    }


def _portrait(headers: Sequence[GGUFHeader], size: int, settings: Settings) -> dict[str, Any]:
    header = headers[0]
    shape = shape_of(headers)
    if len(headers) == 1 and header.split_count > 1:
        shape = replace(shape, weights=size)  # the tensors of the other parts were not read
    n_ctx = settings.n_ctx or shape.n_ctx_train
    need = estimate(shape, n_ctx, settings.n_ubatch, settings.cache_type_k, settings.cache_type_v)
    memory = hardware.available_memory()
    return {
        "title": header.name,
        "architecture": header.architecture,
        "n_parameters": sum(part.n_parameters for part in headers),
        "quantization": header.quantization,
        "size": size,
        "n_ctx_train": header.n_ctx_train,
        "n_vocab": header.n_vocab,
        "chat_template": header.chat_template,
        "sampling": header.sampling_defaults,
        "memory": asdict(need)
        | {"total": need.total, "n_ctx": n_ctx, "free": memory, "fits": need.total <= memory if memory else None},
    }
