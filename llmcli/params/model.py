"""Settings of the model: file, context size, threads, batches, GPU and KV cache."""

import re

from llmcli.params.param import InvalidValueError, setting, settings_group

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
MAX_THREADS = 512  # llama.cpp, GGML_MAX_N_THREADS; it crashes or hangs with more
GpuLayers = int | str


def parse_gpu_layers(text: str) -> GpuLayers:
    """A number of layers, `auto` or `all`."""
    word = text.strip().lower()
    if word in ("auto", "all"):
        return word
    if not re.fullmatch(r"\d+", word):
        raise InvalidValueError("an integer of at least 0, auto or all", hint="use all" if word == "-1" else "")
    return int(word)


@settings_group("Model and hardware")
class ModelParams:
    model: str = setting(
        "starter",
        "Model: a .gguf file, owner/repo[:Q4_K_M] on the Hub, ollama:NAME, an alias, or `starter`.",
        names="-m",
        metavar="MODEL",
        suggest=("starter",),
        path=True,
    )
    n_ctx: int = setting(
        0,
        "Context size (0 = as much as the model has and the memory allows).",
        min=0,
        unit="tokens",
        names="--ctx-size -c --n-ctx num_ctx max_context_length context_length",
        suggest=("2048", "4096", "8192"),
    )
    n_threads: int = setting(
        0,
        "Number of CPU threads for generation (0 = usable physical cores).",
        min=0,
        max=MAX_THREADS,
        names="--threads -t num_thread",
    )
    n_threads_batch: int = setting(
        0,
        "Number of CPU threads for prompt processing (0 = same as for generation).",
        min=0,
        max=MAX_THREADS,
        names="--threads-batch -tb",
    )
    n_batch: int = setting(
        2048, "Logical batch size for prompt processing.", min=1, unit="tokens", names="--batch-size -b num_batch"
    )
    n_ubatch: int = setting(
        512, "Physical batch size for prompt processing.", min=1, unit="tokens", names="--ubatch-size -ub"
    )
    n_gpu_layers: GpuLayers = setting(
        "auto",
        "Number of layers in GPU memory: a number, auto (as many as fit) or all.",
        names="--gpu-layers -ngl --n-gpu-layers ngl num_gpu gpulayers",
        metavar="N|auto|all",
        suggest=("auto", "all", "0"),
        text=parse_gpu_layers,
    )
    flash_attn: str = setting("auto", "Flash attention mode.", names="-fa", choices=("on", "off", "auto"))
    cache_type_k: str = setting("f16", "Data type of the K cache.", names="-ctk", choices=CACHE_TYPES)
    cache_type_v: str = setting("f16", "Data type of the V cache.", names="-ctv", choices=CACHE_TYPES)


@settings_group("Model sources")
class HubParams:
    pull: bool = setting(False, "Download a missing model without confirmation.")
    offline: bool = setting(False, "Offline mode: no network access (same as HF_HUB_OFFLINE=1).")
    model_folders: tuple[str, ...] = setting(
        (),
        "Additional folder with models. Repeatable; `llmcli models import` saves one.",
        names="--model-folder",
        metavar="FOLDER",
        path=True,
    )
