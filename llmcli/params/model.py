"""Settings of the model: file, context size, threads, batches, GPU, KV cache, and how llama.cpp loads and computes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.params.param import (
    InvalidValueError,
    fields_of,
    from_data,
    parse_duration,
    setting,
    settings_group,
    show_duration,
)

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
LOAD_MODES = ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")
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


Override = tuple[str, bool | int | float | str]
_OVERRIDE = re.compile(r"([^=,\s]+)=(int|float|bool|str):(.*)", re.DOTALL)
_NEXT_OVERRIDE = re.compile(r",(?=[^=,\s]+=(?:int|float|bool|str):)")
_MAX_OVERRIDE = 127  # bytes of a key or a text: llama.h, `llama_model_kv_override`


def split_overrides(texts: tuple[str, ...]) -> tuple[str, ...]:
    """One text for each `KEY=TYPE:VALUE`; as in llama.cpp, a text can have several with commas between them."""
    found = tuple(one for text in texts for one in _NEXT_OVERRIDE.split(text))
    for text in found:
        read_override(text)
    return found


def read_override(text: str) -> Override:
    """The key and the typed value of `KEY=TYPE:VALUE`. Raises InvalidValueError."""
    found = _OVERRIDE.fullmatch(text)
    if not found:
        raise InvalidValueError("KEY=TYPE:VALUE, where TYPE is int, float, bool or str")
    key, kind, shown = found.groups()
    if len(key.encode()) > _MAX_OVERRIDE or len(shown.encode("utf-8", "replace")) > _MAX_OVERRIDE:
        raise InvalidValueError(f"KEY=TYPE:VALUE with a KEY and a VALUE of at most {_MAX_OVERRIDE} bytes")
    kinds = {"int": int, "float": float, "bool": bool}
    try:
        value: bool | int | float | str = from_data(kinds[kind], shown) if kind in kinds else shown
    except ValueError as error:
        raise InvalidValueError(f"KEY={kind}:VALUE, where VALUE is {error}") from None
    if kind == "int" and not -(2**63) <= value < 2**63:  # type: ignore[operator]
        raise InvalidValueError("KEY=int:VALUE, where VALUE has at most 64 bits")
    return key, value


def parse_shares(text: str) -> str:
    """Proportions such as `3,1`, one for each GPU; empty for none."""
    shares = [share.strip() for share in re.split(r"[,/]", text.strip())] if text.strip() not in ("", "none") else []
    rule = "numbers of at least 0 with commas between them, one of them above 0"
    if not all(re.fullmatch(r"\d+(\.\d+)?", share) for share in shares):
        raise InvalidValueError(rule)
    if shares and not any(map(float, shares)):
        raise InvalidValueError(rule)
    return ",".join(shares)


def read_shares(text: str) -> Sequence[float]:
    """The proportions of a text from `parse_shares`."""
    return [float(share) for share in text.split(",") if share]


def _check_endpoint(text: str | None) -> str | None:
    """An empty text comes from an empty variable of a script, which would have the model of this machine answer."""
    if text is not None and not text.strip():
        raise InvalidValueError("a URL or the name of a profile", hint="write none for a model of this machine")
    return text


_RPC = re.compile(
    r"(?P<ssh>ssh://)?(?:(?P<user>[\w.][\w.@-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)(?::(?P<port>\d{1,5}))?/?"
)


@dataclass(frozen=True)
class RpcAddress:
    """An RPC server as the user names it: reached directly, or through `ssh` (port 0 = that of its configuration)."""

    host: str
    port: int
    user: str = ""
    is_ssh: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether it needs no network."""
        return not self.is_ssh and (self.host == "localhost" or self.host.startswith("127."))


def read_rpc(text: str) -> RpcAddress:
    """The server of `HOST:PORT` or `ssh://USER@HOST[:PORT]`. Raises InvalidValueError."""
    found = _RPC.fullmatch(text.strip())
    rule = "HOST:PORT, or ssh://USER@HOST"
    if not found or (found["user"] and not found["ssh"]) or int(found["port"] or 0) > 65535:
        hint = "llama.cpp reaches RPC servers by IPv4 only" if text.count(":") > 1 and "/" not in text else ""
        if url := re.fullmatch(r"(?:http|https|tcp|grpc|rpc)://([\w.-]+:\d+)/?", text.strip()):
            hint = f"write {url[1]}"
        raise InvalidValueError(rule, hint=hint)
    if not found["ssh"] and not int(found["port"] or 0):
        raise InvalidValueError(rule, hint=f"write {found['host']}:50052" if not found["port"] else "")
    return RpcAddress(found["host"], int(found["port"] or 0), found["user"] or "", bool(found["ssh"]))


def split_rpc(texts: tuple[str, ...]) -> tuple[str, ...]:
    """One text for each server; as in llama.cpp, a text can have several with commas between them."""
    found = tuple(one.strip() for text in texts for one in text.split(",") if one.strip())
    for text in found:
        read_rpc(text)
    return found


@settings_group("Loading and devices")
class PlacementParams:
    """How the weights get into memory, and what computes with them; no answer depends on it."""

    load_mode: str = setting(
        "auto",
        "How the file gets into memory: mapped (mmap), read (none), locked so that it is never swapped (mlock), or "
        "read past the cache of the system (dio); auto = mmap, unless a device does not support it.",
        names="-lm",
        choices=LOAD_MODES,
    )
    check_tensors: bool = setting(False, "Check the weights for invalid values while they are loaded: slower.")
    device: str = setting(
        "auto",
        "Devices that layers are offloaded to, with commas between them; auto = all, none = only the CPU. `llmcli "
        "doctor` lists them.",
        names="-dev",
        metavar="NAME,...",
        suggest=("auto", "none"),
    )
    rpc: tuple[str, ...] = setting(
        (),
        "RPC server whose devices hold a part of the model (`llmcli rpc serve` on another machine). Repeatable; ssh:// "
        "starts it there, and reaches it through a tunnel.",
        metavar="HOST:PORT",
        check=split_rpc,
        suggest=("127.0.0.1:50052", "ssh://user@host"),
    )
    rpc_timeout: float = setting(
        60.0,
        "Time without a sign of life from an RPC server until it counts as gone, in seconds.",
        min=1,
        max=86400,
        unit="s",
    )
    split_mode: str = setting(
        "layer",
        "How a model is split over several GPUs: not at all (none), by layers, by rows, or by tensors.",
        names="-sm",
        choices=("none", "layer", "row", "tensor"),
    )
    tensor_split: str = setting(
        "",
        "Share of the model for each GPU, for example 3,1 (default: by free memory).",
        names="-ts",
        metavar="N,N,...",
        text=parse_shares,
        suggest=("1,1", "3,1"),
    )
    main_gpu: int = setting(
        0,
        "Number of the GPU that has the model with --split-mode none, or the intermediate results with row.",
        min=0,
        names="-mg",
    )
    cpu_moe: bool = setting(
        False, "Keep the weights of all experts of a mixture-of-experts model on the CPU.", names="-cmoe"
    )
    n_cpu_moe: int = setting(
        0, "Keep the weights of the experts of the first N layers on the CPU (0 = off).", min=0, max=512, names="-ncmoe"
    )
    numa: str = setting(
        "off",
        "Placement on machines with several NUMA nodes: spread over all nodes (distribute), only the node of the start "
        "(isolate), or as numactl says.",
        choices=("off", "distribute", "isolate", "numactl"),
    )
    poll: int = setting(
        50, "How actively threads wait for work: 0 = they sleep, 100 = they use the CPU all the time.", min=0, max=100
    )


@settings_group("RoPE and YaRN")
class RopeParams:
    """Positions beyond the trained context."""

    rope_scaling: str = setting(
        "auto",
        "RoPE scaling method, for a context beyond the trained one (auto = as the model says).",
        choices=("auto", "none", "linear", "yarn"),
    )
    rope_scale: float = setting(
        0.0, "RoPE context scaling factor: the context can be so many times as large (0 = as the model says).", min=0
    )
    rope_freq_base: float = setting(0.0, "RoPE base frequency, for NTK-aware scaling (0 = as the model says).", min=0)
    rope_freq_scale: float = setting(
        0.0, "RoPE frequency scaling factor: 1 / --rope-scale (0 = as the model says).", min=0
    )
    yarn_orig_ctx: int = setting(
        0, "YaRN: context size that the model was trained on (0 = as the model says).", min=0, unit="tokens"
    )
    yarn_ext_factor: float = setting(
        -1.0,
        "YaRN: extrapolation mix factor (-1 = as the model says, 0 = full interpolation).",
        min=0,
        extra_values=(-1.0,),
    )
    yarn_attn_factor: float = setting(
        -1.0, "YaRN: scale of the attention magnitude (-1 = as the model says).", min=0, extra_values=(-1.0,)
    )
    yarn_beta_slow: float = setting(
        -1.0, "YaRN: high correction dimension, alpha (-1 = as the model says).", min=0, extra_values=(-1.0,)
    )
    yarn_beta_fast: float = setting(
        -1.0, "YaRN: low correction dimension, beta (-1 = as the model says).", min=0, extra_values=(-1.0,)
    )


@settings_group("Model and hardware")
class ModelParams(PlacementParams, RopeParams):
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
    swa_full: bool = setting(
        True,
        "Keep the whole context in the layers with a sliding window: it needs more memory, and earlier messages can be "
        "changed without reading all others again.",
    )
    override_kv: tuple[str, ...] = setting(
        (),
        "Replace a value of the model's metadata, for example tokenizer.ggml.add_bos_token=bool:false. Repeatable; the "
        "type is int, float, bool or str.",
        metavar="KEY=TYPE:VALUE",
        check=split_overrides,
    )

    draft_model: str | None = setting(
        None,
        "Draft model for speculative decoding: a small model of the same family, which guesses the next tokens.",
        names="--draft-model -md --model-draft",
        metavar="MODEL",
        default_text="none",
        path=True,
    )
    keep_alive: float = setting(
        0.0,
        "Time for which a command leaves its model loaded in the background, so that the next one begins at once.",
        metavar="TIME",
        suggest=("off", "10m", "2h", "forever"),
        text=parse_duration,
        show=show_duration,
    )

    @property
    def changes_positions(self) -> bool:
        """Whether positions or metadata are not those of the model file."""
        changed = (getattr(self, key) != field.default for key, field in fields_of(RopeParams).items())
        return bool(self.override_kv) or any(changed)

    @property
    def has_default_load(self) -> bool:
        """Whether the model is loaded as without any settings, apart from its layers on the GPU."""
        changed = (getattr(self, key) != field.default for key, field in fields_of(PlacementParams).items())
        return not self.override_kv and not any(changed)


@settings_group("Stored contexts")
class StateParams:
    """What is kept on disk of contexts, so that later processes need not evaluate it again; no answer depends on it."""

    kv_cache: bool = setting(
        True, "Store evaluated prompts and conversations on disk, and restore them instead of evaluating them again."
    )
    kv_cache_min: int = setting(256, "Least number of tokens of a stored context.", min=64, unit="tokens")
    kv_cache_limit: int = setting(
        2048,
        "Most disk space for all stored contexts, in MiB; it is never more than a tenth of the free space (0 = off).",
        min=0,
        unit="MiB",
    )


@settings_group("Endpoint")
class EndpointParams:
    endpoint: str | None = setting(
        None,
        "Server with OpenAI's API that answers in place of a model file: its URL, or the name of a profile; --model is "
        "then the name of a model there. Batch takes several, with commas.",
        metavar="URL|NAME",
        default_text="none",
        check=_check_endpoint,
    )
    drop_unsupported: bool = setting(
        False, "With --endpoint: leave out what the server does not support, with a warning, in place of an error."
    )


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
