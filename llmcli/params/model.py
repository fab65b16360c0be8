"""Settings of the model: which one, how much context, which cores and which memory it runs on."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
GpuLayers = int | str


def parse_gpu_layers(text: str) -> GpuLayers:
    """A number of layers, `auto` or `all`."""
    word = text.strip().lower()
    if word in ("auto", "all"):
        return word
    if not re.fullmatch(r"\d+", word):
        raise ValueError("a number of layers, auto or all")
    return int(word)


def _gpu_layers_from_data(value: Any) -> GpuLayers:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a number of layers, auto or all")
    return parse_gpu_layers(str(value))


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """Model and hardware"""

    model: Annotated[
        str,
        Param(
            help="The model: a .gguf file, owner/repo[:Q4_K_M] on the hub, ollama:NAME, an alias, or `starter`.",
            flags=("-m",),
            metavar="MODEL",
            suggest=("starter",),
        ),
    ] = "starter"
    n_ctx: Annotated[
        int,
        Param(
            help="Size of the context (0 = from the model, capped by memory).",
            min=0,
            unit="tokens",
            flag="--ctx-size",
            flags=("-c", "--n-ctx"),
            keys=("ctx_size",),
            suggest=("2048", "4096", "8192"),
        ),
    ] = 0
    n_threads: Annotated[
        int,
        Param(
            help="CPU threads for generation (0 = the physical cores this process may use).",
            min=0,
            flag="--threads",
            flags=("-t",),
            keys=("threads",),
        ),
    ] = 0
    n_threads_batch: Annotated[
        int,
        Param(
            help="CPU threads for reading the prompt (0 = as many as for generation).",
            min=0,
            flag="--threads-batch",
            flags=("-tb",),
            keys=("threads_batch",),
        ),
    ] = 0
    n_batch: Annotated[
        int,
        Param(
            help="How many prompt tokens are handed over at a time.",
            min=1,
            unit="tokens",
            flag="--batch-size",
            flags=("-b",),
            keys=("batch_size",),
        ),
    ] = 2048
    n_ubatch: Annotated[
        int,
        Param(
            help="How many prompt tokens are computed at a time.",
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
            help="Layers kept in GPU memory: a number, auto (as many as fit) or all.",
            flag="--gpu-layers",
            flags=("-ngl", "--n-gpu-layers"),
            keys=("gpu_layers",),
            metavar="N|auto|all",
            suggest=("auto", "all", "0"),
            text=parse_gpu_layers,
            data=_gpu_layers_from_data,
        ),
    ] = "auto"
    flash_attn: Annotated[str, Param(help="Flash attention.", flags=("-fa",), choices=("on", "off", "auto"))] = "auto"
    cache_type_k: Annotated[str, Param(help="Number format of the K cache.", flags=("-ctk",), choices=CACHE_TYPES)] = (
        "f16"
    )
    cache_type_v: Annotated[str, Param(help="Number format of the V cache.", flags=("-ctv",), choices=CACHE_TYPES)] = (
        "f16"
    )
