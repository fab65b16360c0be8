"""The facts about a model, on this machine or on the Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from llmcli.engine.llama import hardware
from llmcli.engine.llama.model import ALL_LAYERS
from llmcli.inference.fastest_settings import describe, saved_layer, with_choices
from llmcli.inference.ollama_template import chat_template_of, sampling_defaults_of
from llmcli.inference.placement import loading_settings, placement_facts
from llmcli.inference.sizing import (
    MemoryNeed,
    ModelShape,
    choose_gpu_layers,
    memory_need,
    possible_gpu_layers,
    shape_of,
)
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.kind import kind_of
from llmcli.models.gguf.parser import read_headers
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.models.hub.repo_download import PullPlan


@dataclass(frozen=True)
class ModelMemory(MemoryNeed):
    """Bytes that a model needs with a context of `n_ctx` tokens, and that are free (0 = unknown)."""

    n_ctx: int
    free: int
    fits: bool | None  # None: unknown


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The facts about a model. The fields are the keys of the JSON data, in this order.

    `kind` is one word (`models/gguf/kind.py`); `problem` says what a model is that does not generate text, and
    `advice` what would help where llama.cpp cannot load it. `sampling` are the model's own settings. `loading` is what
    the settings for loading come to, and those that are not the default. `sha256` is the published one; `verified` is
    when the file was found to have it, `damaged` means that it has another one. Times are in seconds since 1970, sizes
    in bytes.
    """

    title: str
    kind: str
    problem: str
    advice: str
    architecture: str
    n_parameters: int | None
    quantization: str
    size: int
    n_ctx_train: int | None
    n_vocab: int | None
    chat_template: str | None
    sampling: Mapping[str, object]
    memory: ModelMemory
    loading: Mapping[str, str]
    name: str
    downloaded: bool
    n_files: int
    license: str
    commit: str | None
    file: str
    sha256: str
    verified: float | None = None
    damaged: bool = False
    used: float | None = None
    projector: str | None


def local_model_info(file: ModelFile, locations: ModelLocations, settings: Settings) -> ModelInfo:
    """The facts about a model on this machine. Raises ModelInvalidError when its file is damaged."""
    from llmcli.models.hub import cache
    from llmcli.models.installed import installed_model

    item = installed_model(file, locations)
    headers, kept = read_headers(file.parts), saved_layer(locations.data_dir, file.path)
    facts = _header_facts(headers, item.size, with_choices(settings, kept))
    if kept.values:
        facts["loading"]["kept by bench"] = describe(kept.values)
    facts["chat_template"] = chat_template_of(file, headers[0])[0] or None
    facts["sampling"] |= sampling_defaults_of(file)
    note = notes.read(locations.data_dir, file.path)
    sha256, hashed = note.get("sha256", ""), note.get("hashed")
    projector = item.cached.projector.path if item.cached and item.cached.projector else item.projector
    license_name = str(headers[0].metadata.get("general.license", ""))
    if not license_name and item.cached:  # what the Hub gave when the model was pulled
        pulled, parts = cache.all_revisions(locations.data_dir), item.cached.variant.parts
        license_name = next((one.license for one in pulled if one.files == parts), "")
    return ModelInfo(
        **facts,
        n_parameters=sum(part.n_parameters for part in headers),
        name=item.name,
        downloaded=True,
        n_files=len(file.parts),
        license=license_name,
        commit=item.cached.commit if item.cached else None,
        file=str(file.path),
        sha256=item.digests[0],
        verified=hashed if sha256 == item.digests[0] else None,
        damaged=bool(sha256 and item.digests[0] and sha256 != item.digests[0]),
        used=item.last_used,
        projector=str(projector) if projector else None,
    )


def remote_model_info(plan: "PullPlan", settings: Settings) -> ModelInfo:
    """The facts about a model on the Hub, of which only the header is read."""
    header = plan.header()
    first = plan.variant.parts[0]
    return ModelInfo(
        **_header_facts([header], plan.variant.size, settings),
        n_parameters=header.n_parameters if len(plan.variant.parts) == 1 else plan.repo.n_parameters,
        name=str(plan.reference),
        downloaded=False,
        n_files=len(plan.variant.parts),
        license=plan.repo.license or str(header.metadata.get("general.license", "")),
        commit=plan.repo.commit,
        file=f"{plan.repo.name}/{first.path}",
        sha256=first.sha256,
        projector=plan.projector.path if plan.projector else None,
    )


def _header_facts(headers: Sequence[GGUFHeader], size: int, settings: Settings) -> dict[str, Any]:
    header, shape, kind = headers[0], shape_of(headers, settings), kind_of(headers[0])
    if len(headers) == 1 and header.split_count > 1:
        shape = replace(shape, weights=size)  # the tensors of the other parts were not read
    n_ctx, free = settings.n_ctx or shape.n_ctx_train, hardware.available_memory()
    need = memory_need(shape, settings, n_ctx)
    fits = need.total <= free if free else None
    return {
        "title": header.name,
        "kind": kind.name,
        "problem": "" if kind.generates else kind.noun,
        "advice": "" if kind.loads else kind.hint,
        "architecture": header.architecture,
        "quantization": header.quantization,
        "size": size,
        "n_ctx_train": header.n_ctx_train,
        "n_vocab": header.n_vocab,
        "chat_template": header.chat_template,
        "sampling": header.sampling_defaults,
        "memory": ModelMemory(**asdict(need), n_ctx=n_ctx, free=free, fits=fits),
        "loading": {
            "gpu layers": _gpu_layers(shape, settings, n_ctx),
            **placement_facts(settings),
            **loading_settings(settings),
        },
    }


def _gpu_layers(shape: ModelShape, settings: Settings, n_ctx: int) -> str:
    """The layers that would be on the GPU, of all with the output layer."""
    layers = shape.n_layers + 1
    if settings.rpc and settings.device != "none" and settings.n_gpu_layers == "auto":  # the servers are not asked here
        return f"as many of {layers} as fit on the RPC servers"
    chosen = choose_gpu_layers(shape, settings, n_ctx)
    chosen = chosen if settings.rpc and settings.device != "none" else possible_gpu_layers(chosen)
    return f"{layers if chosen == ALL_LAYERS else min(chosen, layers)} of {layers}"
