"""A local model, loaded as the settings say: the engine of the rest of the program."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any

from llmcli.engine.events import Batches, Cancellation, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.context import AbortedError, Context, ContextParams, check_layout, drop_last_batch
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.probe import probe
from llmcli.engine.reasoning import show_tags
from llmcli.engine.sampling.chain import StepObserver
from llmcli.engine.scheduler import generate
from llmcli.errors import ModelInvalidError, UsageError
from llmcli.files import data_dir
from llmcli.inference import sizing
from llmcli.inference.engine import Request
from llmcli.models import file_records
from llmcli.models.file_records import ModelHasher
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.splits import read_headers
from llmcli.models.locations import ModelFile, is_starter_downloaded, model_locations, starter_path
from llmcli.models.lookup import find_model_file
from llmcli.params.samplers import random_seed
from llmcli.params.settings import Layer, ResolvedSettings, Settings, resolve
from llmcli.params.settings import find as find_setting

Fetch = Callable[[int, int], None]  # gets the bytes that are downloaded, and all
Share = Callable[[float], None]  # gets the share of the model that is loaded
Checking = Callable[[str, int], None]  # gets the name and the size of a file


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
    file_records.record_use(places.data_dir, file.path)
    if file_records.is_safe(file, places.cache_dir, build):
        return target
    if target.header.is_vocab_only:
        raise ModelInvalidError(f"{file.path.name} contains a vocabulary and no weights", "use another file")
    if checking:
        checking(file.path.name, sum(header.file_size for header in target.headers))
    probe(file.parts)
    with suppress(OSError):  # a folder that is not writable costs a probe each time
        file_records.record_probed(places.cache_dir, file.parts, build)
    return target


def apply_model_defaults(target: ResolvedModel, upper: Sequence[Layer]) -> ResolvedSettings:
    """The resolved settings: the model's own defaults below `upper`, and a random seed if none is given."""
    resolved = resolve([target.layer, *upper])
    if resolved.settings.seed is not None:
        return resolved
    return ResolvedSettings(replace(resolved.settings, seed=random_seed()), resolved.origins)


class LocalModel:
    """A loaded model with, from the first answer on, a context that keeps what it has evaluated."""

    def __init__(
        self,
        target: ResolvedModel,
        settings: Settings,
        abort: Cancellation,
        progress: Share | None = None,
        loaded: Model | None = None,
    ) -> None:
        """Load the model, or take the one that is `loaded` already.

        Raises:
            ModelInvalidError: when llama.cpp refuses it, or it cannot generate text.
            LlmcliError: when the context does not fit in memory.
        """
        begin = perf_counter()
        self.target = target
        self.abort = abort
        self.shape = sizing.shape_of(target.headers)
        notes = sizing.check_memory(self.shape, settings, settings.n_ctx or 1), sizing.check_gpu(settings)
        target.notes += filter(None, notes)
        self.gpu_layers = 0
        if loaded is None:
            n_gpu_layers = sizing.choose_gpu_layers(self.shape, settings, settings.n_ctx or self.shape.n_ctx_train)
            self.gpu_layers = n_gpu_layers if hardware.has_gpu() else 0
            loaded = Model.load(target.file.parts, n_gpu_layers, progress, abort)
        self.model = loaded
        if not self.model.generates:
            self.model.close()
            raise ModelInvalidError(f"{self.name} is not a text generation model", "use a decoder model")
        self._context: Context | None = None
        self._open_ended = False  # whether the context was sized for answers of any length
        self.load_ms = loaded.load_ms
        self.waited_ms = (perf_counter() - begin) * 1e3  # less, where the load began early

    @property
    def name(self) -> str:
        return self.target.file.name

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text in a message."""
        return len(self.model.vocab.tokenize(text))

    @property
    def n_ctx(self) -> int:
        """Size of the context in tokens; 0 before there is one."""
        return self._context.n_ctx if self._context else 0

    @property
    def context(self) -> Context:
        """The context in which answers are evaluated; it exists from the first answer on."""
        assert self._context
        return self._context

    @cached_property
    def hasher(self) -> ModelHasher:
        """Computes the sha256 of the model file."""
        return ModelHasher(self.target.file, data_dir())

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are in the context already."""
        return self._context.evaluated(tokens) if self._context else 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate the first tokens of a later prompt; an abort keeps those that are evaluated."""
        if self._context and 0 < len(tokens) < self._context.n_ctx:
            self._context.cancellation = self.abort
            with suppress(AbortedError):
                self._context.prefill(0, tokens)

    def prefill_batches(self, tokens: Sequence[int], layout: Batches, settings: Settings) -> None:
        """Evaluate a prompt in recorded batches, all but the last one, which the next answer evaluates.

        Raises:
            ValueError: when the batches do not fit the prompt or the context.
            AbortedError: when it is stopped.
            ContextOverflowError: when the prompt does not fit.
        """
        context, before = self._context_for(len(tokens), settings), drop_last_batch(layout)
        check_layout(layout, len(tokens), context.n_batch, context.n_ctx)
        context.cancellation = self.abort
        context.prefill_as(0, tokens[: len(tokens) - layout[-1][1]], before)

    def open_context(self, settings: Settings) -> None:
        """Create the context now, large enough for answers of any length, because a conversation grows.

        Raises:
            LlmcliError: when it does not fit in memory.
        """
        if self._context is None:
            self._context_for(0, replace(settings, max_tokens=-1))

    def generate(self, request: Request) -> tuple[Generation, Iterator[TokenEvent]]:
        """One answer: its `Generation`, and an iterator of its events.

        Raises:
            ContextOverflowError: when the prompt does not fit.
        """
        context = self._context_for(len(request.prompt.tokens), request.settings)
        generation = self.start(request)
        return generation, generate(context, [generation])

    def start(self, request: Request, index: int = 0, on_step: StepObserver | None = None) -> Generation:
        """The generation for a request; see `Generation` for the other arguments.

        Raises:
            UsageError: for settings or a grammar that are not valid.
        """
        splitter, vocab = request.splitter(), self.model.vocab
        if splitter:
            show_tags(vocab)
        return Generation(
            vocab,
            request.prompt.tokens,
            request.settings,
            request.grammar,
            index,
            self.abort,
            request.progress,
            splitter,
            request.live_shift,
            request.trace,
            on_step,
        )

    def _context_for(self, n_prompt: int, settings: Settings) -> Context:
        if self._context and self._suffices(self._context, settings, n_prompt):
            return self._context
        begin = perf_counter()
        n_ctx, note = sizing.choose_context(self.shape, settings, n_prompt)
        sizing.check_room(settings, n_prompt, n_ctx, note)
        if self._context is None or n_ctx > self._context.n_ctx:  # a new one has to evaluate everything again
            if note:
                self.target.notes.append(note)
            if self._context:
                self._context.close()
                self._context = None
            self._context = self.new_context(settings, n_ctx)
            elapsed = (perf_counter() - begin) * 1e3
            self.load_ms += elapsed
            self.waited_ms += elapsed
        self._open_ended = settings.max_tokens < 0
        return self._context

    def _suffices(self, context: Context, settings: Settings, n_prompt: int) -> bool:
        if settings.n_ctx:
            return True
        open_ended = settings.max_tokens < 0
        return context.n_ctx > n_prompt + max(settings.max_tokens, 0) and (self._open_ended or not open_ended)

    def new_context(self, settings: Settings, n_ctx: int, **more: int) -> Context:
        """An empty context; `more` are the fields of `ContextParams` for more than one answer."""
        threads = settings.n_threads or hardware.usable_cores()
        params = ContextParams(
            n_ctx=n_ctx,
            n_threads=threads,
            n_threads_batch=settings.n_threads_batch or threads,
            n_batch=settings.n_batch,
            n_ubatch=settings.n_ubatch,
            flash_attn=settings.flash_attn,
            cache_type_k=settings.cache_type_k,
            cache_type_v=settings.cache_type_v,
            **more,
        )
        return Context(self.model, params, self.abort)

    def swap_context(self, context: Context | None) -> Context | None:
        """Use another context from now on; returns the previous one, which the caller must close."""
        before, self._context = self._context, context
        return before

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        if self._context:
            self._context.close()
            self._context = None
        self.model.close()
