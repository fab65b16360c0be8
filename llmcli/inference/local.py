"""The engine of this process: a model file, loaded by llama.cpp as the settings say."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llmcli.engine.events import Batches, Cancellation, TemperatureShift, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.context import AbortedError, Context, ContextParams
from llmcli.engine.llama.model import Model, Vocab
from llmcli.engine.reasoning import show_tags
from llmcli.engine.sampling.chain import StepObserver
from llmcli.engine.scheduler import generate
from llmcli.errors import LlmcliError, ModelInvalidError
from llmcli.files import data_dir
from llmcli.inference import sizing
from llmcli.inference.engine import Capabilities, EngineIdentity, Message, Progress, Prompt, Request, TemplateOptions
from llmcli.inference.prompt_tokens import PromptRenderer
from llmcli.inference.sizing import ResolvedModel
from llmcli.models.checksums import ModelHasher
from llmcli.params.settings import Layer, Settings
from llmcli.text import format_size

if TYPE_CHECKING:
    from llmcli.engine.token_inspection import CandidateCapture, TokenInspector

Share = Callable[[float], None]  # gets the share of the model that is loaded
_MIN_REUSED = 64  # tokens; fewer are faster to evaluate again than to copy


def subscribe_log(listener: Callable[[str], None]) -> None:
    """Call `listener` with each further line of llama.cpp's log."""
    bindings.subscribe_log(listener)


class LocalEngine:
    """A loaded model with, from the first answer on, a context that keeps what it has evaluated."""

    capabilities = Capabilities()

    def __init__(
        self,
        target: ResolvedModel,
        settings: Settings,
        cancellation: Cancellation | None = None,
        progress: Share | None = None,
        loaded: Model | None = None,
    ) -> None:
        """Load the model, or take the one that is `loaded` already.

        Raises:
            ModelInvalidError: when llama.cpp refuses it, or it cannot generate text.
            LlmcliError: when the context does not fit in memory.
            KeyboardInterrupt: when the load is cancelled.
        """
        begin = perf_counter()
        self.target = target
        self.shape = sizing.shape_of(target.headers)
        sizing.check_cache(settings)
        notes = sizing.check_memory(self.shape, settings, settings.n_ctx or 1), sizing.check_gpu(settings)
        target.notes += filter(None, (*notes, sizing.check_threads(settings)))
        self.gpu_layers = 0
        if loaded is None:
            n_gpu_layers = sizing.choose_gpu_layers(self.shape, settings, settings.n_ctx or self.shape.n_ctx_train)
            self.gpu_layers = sizing.possible_gpu_layers(n_gpu_layers)
            loaded = Model.load(target.file.parts, n_gpu_layers, progress, cancellation)
        self.model = loaded
        if not self.model.generates:
            self.model.close()
            raise ModelInvalidError(f"{self.name} is not a text generation model", "use a decoder model")
        self._context: Context | None = None
        self._open_ended = False  # whether the context was sized for answers of any length
        self._renderer = PromptRenderer(loaded.vocab)
        self.load_ms = loaded.load_ms
        self.waited_ms = (perf_counter() - begin) * 1e3  # less, where the load began early

    # The model

    @property
    def name(self) -> str:
        return self.target.file.name

    @property
    def tokenizer(self) -> Vocab:
        return self.model.vocab

    @property
    def defaults(self) -> Layer:
        return self.target.layer

    @property
    def notes(self) -> list[str]:
        return self.target.notes

    @property
    def chat_template(self) -> str:
        return self.target.header.chat_template or ""

    @property
    def facts(self) -> Sequence[str]:
        shape = self.shape
        weights = f"{shape.n_layers} layers, {format_size(shape.weights)} of weights"
        return (
            f"model: {self.name}, {self.target.file.path}",
            f"{self.target.header.architecture}, {weights}, trained context {shape.n_ctx_train} tokens, "
            f"{self.gpu_layers} layers on the GPU",
            f"loaded in {self.load_ms / 1e3:.2f} s",
        )

    @cached_property
    def hasher(self) -> ModelHasher:
        """Computes the sha256 of the model file."""
        return ModelHasher(self.target.file, data_dir())

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        sha256 = self.hasher.wait(patience)
        return EngineIdentity(sha256, bindings.bindings_version(), hardware.machine(), self.gpu_layers)

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        self.hasher.sha256(progress, cancellation.is_set)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.tokenize(text))

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        return self._renderer.render(request, options)

    def close(self) -> None:
        self.close_context()
        self.model.close()

    # The context

    @property
    def n_ctx(self) -> int:
        return self._context.n_ctx if self._context else 0

    @property
    def context(self) -> Context:
        """The context in which answers are evaluated; it exists from the first answer on."""
        assert self._context
        return self._context

    def close_context(self) -> None:
        """Free the context; the next answer makes a new one."""
        if self._context:
            self._context.close()
            self._context = None

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        return self._context.evaluated(tokens) if self._context else 0

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        if self._context and 0 < len(tokens) < self._context.n_ctx:
            self._context.watch([cancellation] if cancellation else [])
            with suppress(AbortedError):
                self._context.prefill(0, tokens)

    def evaluate_batches(self, request: Request, layout: Batches) -> None:
        tokens = request.prompt.tokens
        context = self._context_for(len(tokens), request.settings)
        context.watch([request.cancellation])
        with suppress(AbortedError):  # the answer is cancelled as well
            context.prefill_as(0, tokens, layout)

    def inspector(self, request: Request, tokens: Sequence[int]) -> "TokenInspector":
        from llmcli.engine.token_inspection import TokenInspector  # only /why needs it

        def make(
            settings: Settings, grammar: str | None, capture: "CandidateCapture", cancellation: Cancellation
        ) -> Generation:
            shift = TemperatureShift(request.live_shift.moves if request.live_shift else ())
            settings = replace(settings, logprobs=0)  # the tokens before are appended without their logits
            again = replace(request, settings=settings, grammar=grammar, live_shift=shift, trace=0)
            again.cancellation, again.progress = cancellation, None
            return self.start(again, on_step=capture.record)

        return TokenInspector(self.context, request.settings, request.grammar, tokens, make)

    def open_context(self, settings: Settings) -> None:
        """Create the context now, large enough for answers of any length, because a conversation grows.

        Raises:
            LlmcliError: when it does not fit in memory.
        """
        if self._context is None:
            self._context_for(0, replace(settings, max_tokens=-1))

    # Answers

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        events = self._events(requests)
        next(events)  # from now on its end frees the samplers, also if nobody reads an event
        return events

    def _events(self, requests: Sequence[Request]) -> Generator[Any, None, None]:
        """None once the requests are known to be valid, then the events.

        Several answers come in rounds of as many at a time as the memory has room for.
        """
        generations: list[Generation] = []
        try:
            for index, request in enumerate(requests):
                generations.append(self.start(request, index))
            if len(requests) == 1:
                context = self._context_for(len(requests[0].prompt.tokens), requests[0].settings)
                yield None
                yield from generate(context, generations)
                return
            yield None
            with self._shared_context(requests) as width:
                for first in range(0, len(generations), width):
                    yield from generate(self.context, generations[first : first + width])
        finally:
            for generation in generations:
                generation.close()

    def start(self, request: Request, index: int = 0, on_step: StepObserver | None = None) -> Generation:
        """The generation for a request; see `Generation` for the other arguments.

        Raises:
            UsageError: for settings or a grammar that are not valid.
        """
        splitter = request.splitter()
        if splitter:
            show_tags(self.tokenizer)
        try:
            return Generation(
                self.tokenizer,
                request.prompt.tokens,
                request.settings,
                request.grammar,
                index=index,
                cancellation=request.cancellation,
                progress=request.progress,
                splitter=splitter,
                live_shift=request.live_shift,
                trace=request.trace,
                on_step=on_step,
            )
        except LlmcliError as error:
            if not request.label:
                raise
            raise type(error)(f"{request.label}: {error}", error.hint) from None

    def _context_for(self, n_prompt: int, settings: Settings) -> Context:
        if self._context and self._suffices(self._context, settings, n_prompt):
            return self._context
        begin = perf_counter()
        n_ctx, note = sizing.choose_context(self.shape, settings, n_prompt)
        sizing.check_room(settings, n_prompt, n_ctx, note)
        if self._context is None or n_ctx > self._context.n_ctx:  # a new one has to evaluate everything again
            if note:
                self.target.notes.append(note)
            self.close_context()
            self._context = self.new_context(settings, n_ctx)
            self._add_load_time(begin)
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
        return Context(self.model, params)

    def _add_load_time(self, begin: float) -> None:
        elapsed = (perf_counter() - begin) * 1e3
        self.load_ms += elapsed
        self.waited_ms += elapsed

    @contextmanager
    def _shared_context(self, requests: Sequence[Request]) -> Iterator[int]:
        """Within this block the context of the model is one for these answers; yields how many fit at a time.

        The context of a conversation stays as it is. If there is none, the context of the answers becomes the model's.

        Raises:
            ContextOverflowError: when a prompt leaves no room for an answer.
            LlmcliError: when the memory does not suffice for the context.
        """
        begin = perf_counter()
        limits = [one.settings.max_tokens for one in requests]
        longest = replace(requests[0].settings, max_tokens=-1 if min(limits) < 0 else max(limits))
        lengths = [len(tokens) for tokens in {tuple(one.prompt.tokens) for one in requests}]
        shared = sizing.choose_shared(self.shape, longest, lengths, len(requests))
        chat_context = self._context
        n_ctx = max(shared.n_ctx, chat_context.evaluated() + 1 if chat_context else 0)
        context = self._context = self.new_context(longest, n_ctx, n_seq_max=shared.width, n_ctx_seq=shared.n_ctx_seq)
        if chat_context is None:
            self.target.notes += [shared.note] if shared.note else []
            self._add_load_time(begin)
            yield shared.width
            return
        try:
            if chat_context.evaluated(requests[0].prompt.tokens) >= _MIN_REUSED:
                context.receive(chat_context)
            yield shared.width
        finally:
            self._context = chat_context
            context.close()
