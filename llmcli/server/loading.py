"""Models from settings to a server: found on this machine, checked, and loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llmcli.errors import UsageError
from llmcli.inference import sizing
from llmcli.inference.embedding import EmbeddingModel
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer, Settings, resolve
from llmcli.server.served_model import ServedModel


@dataclass(frozen=True)
class ModelEntry:
    """A model that requests may ask for: its names, and how it is loaded (in any thread; raises LlmcliError)."""

    name: str
    load: Callable[[], ServedModel]
    n_bytes: int = 0  # of memory that it needs when it is loaded; 0 = not known
    aliases: Sequence[str] = ()


def entry_of(
    target: ResolvedModel,
    layers: Sequence[Layer],
    n_parallel: int,
    n_queued: int,
    note: Callable[[str], None] = lambda _text: None,
    progress: Callable[[float], None] | None = None,
    names: Sequence[str] = (),
    pooling: str = "",
) -> ModelEntry:
    """The entry of a model that is found; `layers` are its settings, the first of `names` is what clients see.

    `pooling` is that of its vectors, if it is not as the model says. `note` gets what the user should know, `progress`
    the share that is loaded.
    """
    settings = resolve(layers).over(target.layer).settings
    settings = replace(settings, timeout=0.0)  # that is the limit of each request
    load = partial(_load, target, layers, settings, n_parallel, n_queued, note, progress, names, pooling)
    n_ctx = settings.n_ctx or target.header.n_ctx_train or 0
    need = sizing.memory_need(sizing.shape_of(target.headers, settings), settings, n_ctx)
    return ModelEntry(names[0] if names else target.file.name, load, need.total, names)


def _load(
    target: ResolvedModel,
    layers: Sequence[Layer],
    settings: Settings,
    n_parallel: int,
    n_queued: int,
    note: Callable[[str], None],
    progress: Callable[[float], None] | None,
    names: Sequence[str],
    pooling: str,
) -> ServedModel:
    name, file_name = names[0] if names else target.file.name, target.file.path.name
    if target.kind.generates and settings.rpc:
        from llmcli.inference.rpc_engine import RpcEngine  # few servers need it

        remote = RpcEngine(settings, target.notes, None, progress, is_restarted=True)
        stack = [*layers, Layer("context", {"n_ctx": remote.context_size(settings)})]
        served = ServedModel(name, remote, stack, n_parallel, n_queued, names, None, file_name)
    elif target.kind.generates:
        engine = LocalEngine(target, settings, progress=progress)
        engine.hasher.start()  # replay manifests have the sha256; of most models it is known
        n_ctx = Layer("context", {"n_ctx": engine.context_size(settings)})
        share = partial(EmbeddingModel, target, settings, pooling, shared=engine.model)
        stack = [*layers, n_ctx]
        served = ServedModel(name, engine, stack, n_parallel, n_queued, names, share, file_name)
    elif settings.rpc:  # it would be in this process, which a lost server ends
        raise UsageError(f"{name} computes vectors, and a server does that without RPC servers", "remove --rpc")
    else:
        pooling = pooling or ("rank" if target.kind.name == "reranker" else "")
        open_vectors = partial(EmbeddingModel, target, settings, pooling, progress=progress)
        n_ctx_train = target.header.n_ctx_train or 0
        n_ctx = Layer("context", {"n_ctx": min(settings.n_ctx or n_ctx_train, n_ctx_train)})
        stack = [*layers, n_ctx]
        served = ServedModel(name, None, stack, n_parallel, n_queued, names, open_vectors, file_name)
    while target.notes:
        note(target.notes.pop(0))
    return served
