"""Settings of the model: file, context size, threads, batches, GPU and KV cache."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from llmcli.params.param import Param, is_int

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
GpuLayers = int | str


def parse_gpu_layers(text: str) -> GpuLayers:
    """A number of layers, `auto` or `all`."""
    word = text.strip().lower()
    if word in ("auto", "all"):
        return word
    if not re.fullmatch(r"\d+", word):
        raise ValueError("an integer of at least 0, auto or all")
    return int(word)


def _gpu_layers_from_data(value: Any) -> GpuLayers:
    return parse_gpu_layers(str(value) if is_int(value) or isinstance(value, str) else "")


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """Settings of the model file and of the context that is created for it."""

    TITLE: ClassVar[str] = "Model and hardware"

    model: Annotated[
        str,
        Param(
            "Model: a .gguf file, owner/repo[:Q4_K_M] on the Hub, ollama:NAME, an alias, or `starter`.",
            flags=("-m",),
            metavar="MODEL",
            suggest=("starter",),
        ),
    ] = "starter"
    n_ctx: Annotated[
        int,
        Param(
            "Context size (0 = from the model, limited by memory).",
            min=0,
            unit="tokens",
            flag="--ctx-size",
            flags=("-c", "--n-ctx"),
            keys=("ctx_size", "num_ctx", "max_context_length", "context_length"),
            suggest=("2048", "4096", "8192"),
        ),
    ] = 0
    n_threads: Annotated[
        int,
        Param(
            "Number of CPU threads for generation (0 = usable physical cores).",
            min=0,
            flag="--threads",
            flags=("-t",),
            keys=("threads", "num_thread"),
        ),
    ] = 0
    n_threads_batch: Annotated[
        int,
        Param(
            "Number of CPU threads for prompt processing (0 = same as for generation).",
            min=0,
            flag="--threads-batch",
            flags=("-tb",),
            keys=("threads_batch",),
        ),
    ] = 0
    n_batch: Annotated[
        int,
        Param(
            "Logical batch size for prompt processing.",
            min=1,
            unit="tokens",
            flag="--batch-size",
            flags=("-b",),
            keys=("batch_size", "num_batch"),
        ),
    ] = 2048
    n_ubatch: Annotated[
        int,
        Param(
            "Physical batch size for prompt processing.",
            min=1,
            unit="tokens",
            flag="--ubatch-size",
            flags=("-ub",),
            keys=("ubatch_size",),
        ),
    ] = 512
    n_gpu_layers: Annotated[
        GpuLayers,
        Param(
            "Number of layers in GPU memory: a number, auto (as many as fit) or all.",
            flag="--gpu-layers",
            flags=("-ngl", "--n-gpu-layers"),
            keys=("gpu_layers", "ngl", "num_gpu", "gpulayers"),
            metavar="N|auto|all",
            suggest=("auto", "all", "0"),
            text=parse_gpu_layers,
            data=_gpu_layers_from_data,
        ),
    ] = "auto"
    flash_attn: Annotated[str, Param("Flash attention mode.", flags=("-fa",), choices=("on", "off", "auto"))] = "auto"
    cache_type_k: Annotated[str, Param("Data type of the K cache.", flags=("-ctk",), choices=CACHE_TYPES)] = "f16"
    cache_type_v: Annotated[str, Param("Data type of the V cache.", flags=("-ctv",), choices=CACHE_TYPES)] = "f16"


@dataclass(frozen=True, kw_only=True)
class HubParams:
    """Settings of downloads and model folders."""

    TITLE: ClassVar[str] = "Model sources"

    pull: Annotated[bool, Param("Download a missing model without confirmation.")] = False
    offline: Annotated[bool, Param("Offline mode: no network access (same as HF_HUB_OFFLINE=1).")] = False
    model_folders: Annotated[
        tuple[str, ...],
        Param(
            "Additional folder with models. Repeatable; `llmcli models import` saves one.",
            flag="--model-folder",
            keys=("model_folder",),
            metavar="FOLDER",
            path=True,
        ),
    ] = ()
