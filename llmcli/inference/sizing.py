"""A model that is found and checked; what fits in memory: context size and layers on the GPU; facts of a model."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.hardware import ModelShape, estimate, fitting_context, fitting_layers
from llmcli.engine.llama.model import ALL_LAYERS, Model
from llmcli.engine.llama.probe import probe
from llmcli.errors import ContextOverflowError, LlmcliError, ModelInvalidError, UsageError
from llmcli.inference.engine import Tokenizer
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_headers
from llmcli.models.locations import ModelFile, ModelLocations, is_starter_downloaded, model_locations, starter_path
from llmcli.models.lookup import find_model_file
from llmcli.params.settings import Layer, Settings
from llmcli.params.settings import find as find_setting
from llmcli.text import plural

if TYPE_CHECKING:
    from llmcli.models.hub.repo_download import PullPlan

_ROUND = 256  # llama.cpp rounds a context up to this
_GIB = 1 << 30
_MAX_WIDTH = 16  # answers at a time; more do not make a processor faster
_MIN_ROOM = 2048  # tokens that each of several answers of unlimited length gets at least, if the model has them
Fetch = Callable[[int, int], None]  # gets the bytes that are downloaded, and all
Checking = Callable[[str, int], None]  # gets the name and the size of a file


def shape_of(headers: Sequence[GGUFHeader]) -> ModelShape:
    """What the memory estimate needs, from the headers of all the model's files (metadata is in the first)."""
    header = headers[0]
    layers = header.block_count or 1
    heads = header.head_count_kv or 0
    n_heads = sum(heads) if isinstance(heads, list) else heads * layers
    return ModelShape(
        weights=sum(part.n_tensor_bytes for part in headers),
        n_layers=layers,
        n_ctx_train=header.n_ctx_train or 2048,
        n_embd=header.embedding_length or 0,
        n_vocab=header.n_vocab or 0,
        kv_width_k=n_heads * (header.key_length or 0),
        kv_width_v=n_heads * (header.value_length or 0),
    )


def choose_context(shape: ModelShape, settings: Settings, n_prompt: int) -> tuple[int, str]:
    """The context size in tokens, and a note for the user ("" for none).

    If not set, it is what this call can use: the prompt and `max_tokens` if that is known, else the trained
    context, and never more than fits into memory. A smaller context starts faster: its caches are zeroed.
    """
    if settings.n_ctx:
        past = settings.n_ctx > shape.n_ctx_train
        note = f"the context of {settings.n_ctx} tokens is larger than the {shape.n_ctx_train} the model was trained on"
        return settings.n_ctx, note if past else ""
    fits = fitting_context(
        shape, hardware.available_memory(), settings.n_ubatch, settings.cache_type_k, settings.cache_type_v
    )
    n_ctx = shape.n_ctx_train
    if settings.max_tokens >= 0:
        n_ctx = min(n_ctx, -(-(n_prompt + settings.max_tokens + 1) // _ROUND) * _ROUND)
    if n_ctx <= fits:
        return n_ctx, ""
    return fits, f"the context is {fits} of {shape.n_ctx_train} tokens: more does not fit in memory"


@dataclass(frozen=True)
class SharedContext:
    """A context for several answers: its tokens, those of one prompt with its answer, and how many at a time."""

    n_ctx: int
    n_ctx_seq: int
    width: int
    note: str = ""


def choose_shared(shape: ModelShape, settings: Settings, prompts: Sequence[int], n_answers: int) -> SharedContext:
    """The context for `n_answers` answers to prompts of so many tokens; each prompt is in it once.

    With `max_tokens` set, an answer has as much room as it would have alone. Without, all answers share what one alone
    would have, or more where that is little for each. Answers that do not fit in memory together come in rounds.

    Raises:
        ContextOverflowError: when a prompt leaves no room for an answer.
    """
    longest = max(prompts)
    alone, note = choose_context(shape, settings, longest)
    check_room(settings, longest, alone, note)
    open_ended = max((alone - longest) // n_answers, _MIN_ROOM)
    room = min(alone - longest, settings.max_tokens + 1 if settings.max_tokens >= 0 else open_ended)
    together = replace(shape, n_ctx_train=sum(prompts) + n_answers * room)
    types = settings.cache_type_k, settings.cache_type_v
    fits = fitting_context(together, hardware.available_memory(), settings.n_ubatch, *types)
    rounds = -(-n_answers // min(max((fits - sum(prompts)) // room, 1), _MAX_WIDTH))
    width = -(-n_answers // rounds)
    n_ctx = -(-(sum(prompts) + width * room) // _ROUND) * _ROUND
    return SharedContext(n_ctx, longest + room, width, note)


def check_room(settings: Settings, n_prompt: int, n_ctx: int, note: str) -> None:
    """Refuse a prompt that leaves no room for an answer; `note` is that of `choose_context`.

    Raises:
        ContextOverflowError: with the figures.
    """
    if n_prompt >= n_ctx:
        raise ContextOverflowError(
            f"the prompt has {n_prompt} tokens, and the context has {n_ctx}" + (f" ({note})" if note else ""),
            "shorten the prompt" + (" or raise --ctx-size" if settings.n_ctx else ""),
        )


def check_memory(shape: ModelShape, settings: Settings, n_ctx: int) -> str:
    """Refuse, before anything is loaded, a context that does not fit in memory.

    A model that fits only with its weights paged in from disk again and again is not refused: the result is a note.

    Raises:
        LlmcliError: with the figures.
    """
    memory = hardware.available_memory()
    need = estimate(shape, n_ctx, settings.n_ubatch, settings.cache_type_k, settings.cache_type_v)
    # The weights are mapped from the file and may be paged; the caches must be in memory.
    if memory and need.kv_cache + need.compute > memory:
        raise LlmcliError(
            f"a context of {n_ctx} tokens needs {need.kv_cache / _GIB:.1f} GiB of memory in addition to the model's "
            f"{need.weights / _GIB:.1f} GiB, and {memory / _GIB:.1f} GiB are free",
            "use a smaller --ctx-size, or --cache-type-k q8_0 --cache-type-v q8_0",
        )
    if memory and need.total > memory and settings.n_gpu_layers in (0, "auto"):
        return (
            f"the model needs {need.total / _GIB:.1f} GiB of memory and {memory / _GIB:.1f} GiB are free: it is slow; "
            "a smaller quantization is faster"
        )
    return ""


def check_gpu(settings: Settings) -> str:
    """A note if a GPU is requested and there is none; "" otherwise."""
    if settings.n_gpu_layers in ("auto", 0) or hardware.has_gpu():
        return ""
    return "n_gpu_layers has no effect: this build of llama.cpp has no GPU support, see `llmcli doctor`"


def check_threads(settings: Settings) -> str:
    """A note if there are more threads than cores, which then wait for each other; "" otherwise."""
    n_threads, n_cores = max(settings.n_threads, settings.n_threads_batch), os.cpu_count() or 1
    return f"{n_threads} threads are slow: this machine has {plural(n_cores, 'core')}" if n_threads > n_cores else ""


def check_cache(settings: Settings) -> None:
    """Refuse a quantized V cache without flash attention, which llama.cpp cannot compute.

    Raises:
        UsageError: with what to change.
    """
    if settings.flash_attn == "off" and settings.cache_type_v not in ("f32", "f16", "bf16"):
        raise UsageError(f"cache_type_v {settings.cache_type_v} needs flash attention", "use -fa on, or -ctv f16")


def choose_gpu_layers(shape: ModelShape, settings: Settings, n_ctx: int) -> int:
    """Layers for the GPU: the number that is set, all, or as many as fit in its free memory."""
    if settings.n_gpu_layers == "all":
        return ALL_LAYERS
    if isinstance(settings.n_gpu_layers, int):
        return settings.n_gpu_layers
    free = sum(device.memory_free for device in hardware.devices() if device.kind in ("GPU", "IGPU"))
    if not free:
        return 0
    return fitting_layers(shape, n_ctx, settings.n_ubatch, settings.cache_type_k, settings.cache_type_v, free)


def memory_and_cores() -> tuple[int, int]:
    """Available memory in bytes (0 = not known), and usable cores."""
    return hardware.available_memory(), hardware.usable_cores()


def possible_gpu_layers(count: int) -> int:
    """So many layers, or 0 on a machine without a GPU."""
    return count if count and hardware.has_gpu() else 0


def local_model_info(file: ModelFile, locations: ModelLocations, settings: Settings) -> dict[str, Any]:
    """The facts about a model on this machine.

    Raises:
        ModelInvalidError: it is damaged.
        ModelNotFoundError: it is the starter, which is not downloaded yet.
    """
    from llmcli.models.hub import cache
    from llmcli.models.installed import installed_model

    item = installed_model(file, locations)
    headers = read_headers(file.parts)
    note = notes.read(locations.data_dir, file.path)
    sha256, hashed = note.get("sha256", ""), note.get("hashed")
    if item.source.name == "starter":  # it was verified when it was downloaded
        sha256, hashed = item.digests[0], file.path.stat().st_mtime
    projector = item.cached.projector.path if item.cached and item.cached.projector else item.projector
    license_name = str(headers[0].metadata.get("general.license", ""))
    if not license_name and item.cached:  # what the Hub gave when the model was pulled
        pulled, parts = cache.all_revisions(locations.data_dir), item.cached.variant.parts
        license_name = next((one.license for one in pulled if one.files == parts), "")
    return _model_info(headers, item.size, settings) | {
        "name": item.name,
        "downloaded": True,
        "n_files": len(file.parts),
        "license": license_name,
        "commit": item.cached.commit if item.cached else None,
        "file": str(file.path),
        "sha256": item.digests[0],
        "verified": hashed if sha256 == item.digests[0] else None,
        "damaged": bool(sha256 and item.digests[0] and sha256 != item.digests[0]),
        "used": item.last_used,
        "projector": str(projector) if projector else None,
    }


def remote_model_info(plan: "PullPlan", settings: Settings) -> dict[str, Any]:
    """The facts about a model on the Hub, of which only the header is read.

    Raises:
        LlmcliError: the Hub cannot be reached, or the file is not a model.
    """
    from llmcli.models.hub.repo_download import remote_header

    header = remote_header(plan.files[0])
    first = plan.variant.parts[0]
    license_name = plan.repo.license or str(header.metadata.get("general.license", ""))
    return _model_info([header], plan.variant.size, settings) | {
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


def _model_info(headers: Sequence[GGUFHeader], size: int, settings: Settings) -> dict[str, Any]:
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


@dataclass
class ResolvedModel:
    """A model that is found but not loaded; `notes` are for the user."""

    file: ModelFile
    notes: list[str] = field(default_factory=list)

    @cached_property
    def headers(self) -> Sequence[GGUFHeader]:
        """The checked headers of all its files (15 ms for a vocabulary of 50,000)."""
        return read_headers(self.file.parts)

    @property
    def header(self) -> GGUFHeader:
        return self.headers[0]

    @cached_property
    def layer(self) -> Layer:
        """The model's own sampling defaults (`general.sampling.*`); invalid ones are skipped with a note."""
        values: dict[str, Any] = {}
        for key, raw in self.header.sampling_defaults.items():
            try:
                values[key] = find_setting(key).parse_data(raw)
            except UsageError as error:
                self.notes.append(f"ignored a sampling default of the model: {error}")
        return Layer("model", values)


def resolve_model(settings: Settings, fetch: Fetch | None = None, checking: Checking | None = None) -> ResolvedModel:
    """Find the model of the settings, download it if it is the starter, and check its file, without other requests.

    A new file is first loaded in a child process, because llama.cpp may abort on a corrupt one; `checking` is
    called before, because that takes as long as a load.

    Raises:
        ModelNotDownloadedError: when it is not downloaded.
        ModelNotFoundError: when no such model exists.
        ModelInvalidError: when the file is not a model, is corrupt, or crashes llama.cpp.
    """
    places = model_locations(settings)
    target = ResolvedModel(find_model_file(settings.model, places))
    file, build = target.file, bindings.bindings_version()
    if file.path == starter_path(places.cache_dir) and not is_starter_downloaded(places.cache_dir):
        from llmcli.models.sources.starter import ensure_starter

        ensure_starter(places.cache_dir, fetch, places.offline)
    notes.update(places.data_dir, file.path, used=time.time())
    if file.trusted or notes.is_probed(places.data_dir, file.parts, build):
        return target
    if target.header.is_vocab_only:
        raise ModelInvalidError(f"{file.path.name} contains a vocabulary and no weights", "use another file")
    if checking:
        checking(file.path.name, sum(header.file_size for header in target.headers))
    probe(file.parts)
    notes.record_probed(places.data_dir, file.parts, build)
    return target


@contextmanager
def open_tokenizer(target: ResolvedModel) -> Iterator[Tokenizer]:
    """The vocabulary of a model, loaded without its weights for the time of the block.

    Raises:
        ModelInvalidError: when llama.cpp refuses the file.
    """
    model = Model.load(target.file.parts, vocab_only=True)
    try:
        yield model.vocab
    finally:
        model.close()
