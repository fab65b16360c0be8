"""The engine of this process: a model file, loaded by llama.cpp as the settings say."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, Message, Progress, Prompt, Request, ScoredPrompt, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.bindings import subscribe_log as subscribe_log
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler, generate
from llmcli.errors import ModelInvalidError, UsageError, labeled
from llmcli.files import data_dir
from llmcli.inference import fastest_settings, placement, sizing
from llmcli.inference.context_states import ContextStates
from llmcli.inference.drafts import Drafts
from llmcli.inference.engine import Capabilities, EngineIdentity, RequestSource, TemplateOptions
from llmcli.inference.prompt_renderer import PromptRenderer
from llmcli.inference.resolved_model import ResolvedModel, resolve_model
from llmcli.models.notes import ModelHasher
from llmcli.params.settings import Settings
from llmcli.text import format_size

if TYPE_CHECKING:
    from llmcli.engine.token_inspection import TokenInspector
    from llmcli.inference.scorer import Scorer

_MIN_REUSED = 64  # tokens; fewer are faster to evaluate again than to copy


class LocalEngine:
    """A loaded model with, from the first answer on, a context that keeps what it has evaluated."""

    capabilities, has_ended = Capabilities(), False

    def __init__(
        self,
        target: ResolvedModel,
        settings: Settings,
        cancellation: Cancellation | None = None,
        progress: Callable[[float], None] | None = None,
        loaded: Model | None = None,
    ) -> None:
        """Load the model, or take the one that is `loaded` already; `progress` gets the share that is loaded.

        Raises ModelInvalidError when llama.cpp refuses it, or it cannot generate text; LlmcliError when the context
        does not fit in memory; KeyboardInterrupt when the load is cancelled.
        """
        begin = perf_counter()
        if not target.kind.generates:
            if loaded:
                loaded.close()
            raise target.kind_error()
        if settings.rpc:
            from llmcli.inference import rpc_devices  # few commands need it, with subprocess and tempfile

            rpc_devices.connect(settings, cancellation)
        self.target, self.shape = target, sizing.shape_of(target.headers, settings)
        chosen = sizing.fitting_layer(self.shape, fastest_settings.with_choices(settings, target.layer))
        self.defaults = chosen.over(target.layer)
        settings = fastest_settings.with_choices(settings, self.defaults)
        target.notes += [f"{key} is {value}: more does not fit in memory" for key, value in chosen.values.items()]
        target.notes += sizing.check_settings(self.shape, settings) + placement.check(target.header, settings)
        self.name, self.notes = target.file.name, target.notes
        self.remark = fastest_settings.remark(settings, target.layer)
        self.chat_template = target.chat_template
        self.n_ctx_train = self.shape.n_ctx_train
        self.hasher = ModelHasher(target.file, data_dir())
        self.gpu_layers = loaded.n_offloaded if loaded else 0
        if loaded is None:
            n_gpu_layers = sizing.choose_gpu_layers(self.shape, settings, settings.n_ctx or self.shape.n_ctx_train)
            self.gpu_layers = sizing.possible_gpu_layers(n_gpu_layers)
            repack = sizing.fits_repacked(self.shape, settings, self.gpu_layers)
            loaded = Model.load(
                target.file.parts, n_gpu_layers, progress, cancellation, settings=settings, repack=repack
            )
        self.model, self.tokenizer, self.placement = loaded, loaded.vocab, loaded.placement
        if not loaded.generates:
            loaded.close()
            raise ModelInvalidError(f"{self.name} is not a text generation model", "use a decoder model")
        self.tokenizer.abort = cancellation
        self._settings, self._drafts = settings, Drafts(loaded, settings, self.gpu_layers)
        self._drafts.load(resolve_model, cancellation)
        self._made_scorer: Scorer | None = None
        self._context: Context | None = None
        self._states = ContextStates(target.file, target.header, settings, self.gpu_layers)
        self._largest = 0  # size of the largest context that fits in memory; 0 = not known yet
        self._open_ended = False  # whether the context was sized for answers of any length
        self._renderer = PromptRenderer(loaded.vocab)
        self.load_ms = loaded.load_ms
        self.waited_ms = (perf_counter() - begin) * 1e3  # less, where the load began early

    # The model

    @property
    def facts(self) -> Sequence[str]:
        shape, kind = self.shape, self.target.header.architecture
        size = f"{shape.n_layers} layers, {format_size(shape.weights)} of weights"
        facts = f"model: {self.name}, {self.target.file.path}", *map(str, self.model.split)
        trained = f"trained context {shape.n_ctx_train} tokens, {self.gpu_layers} layers offloaded"
        return (*facts, f"{kind}, {size}, {trained}", f"loaded in {self.load_ms / 1e3:.2f} s")

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        sha256 = self.hasher.wait(patience)
        return EngineIdentity(sha256, bindings.bindings_version(), hardware.machine(), self.gpu_layers)

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        self.hasher.sha256(progress, cancellation.is_set)

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.tokenize(text))

    def prompt_text(self, prompt: Prompt) -> str:
        return prompt.text

    def count_prompt(self, prompt: Prompt) -> int:
        return len(prompt.tokens)

    def context_size(self, settings: Settings) -> int:
        if not (settings.n_ctx or self._largest):  # once: a context that exists takes the memory of a second one
            self._largest = sizing.choose_context(self.shape, replace(settings, max_tokens=-1), 0)[0]
        return settings.n_ctx or self._largest

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        return self._renderer.render(request, options)

    def close(self) -> None:
        self.close_context()
        if self._made_scorer:
            self._made_scorer.close()
        self._drafts.close()
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

    def _new_context(self, params: Settings) -> Context:
        return Context(self.model, params)

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

    def inspector(self, request: Request, tokens: Sequence[int]) -> "TokenInspector":
        from llmcli.engine.token_inspection import TokenInspector  # only /why needs it

        self.open_context(request.settings)
        return TokenInspector(self.context, request, tokens)

    def open_context(self, settings: Settings) -> None:
        """Create the context now, large enough for answers of any length, because a conversation grows."""
        self._states.is_conversation = True
        if self._context is None:
            settings = fastest_settings.with_choices(settings, self.defaults)
            self._context_for(0, replace(settings, max_tokens=-1))

    def keep_context(self, session: str = "") -> Sequence[str]:
        done = self._states.keep_all(session, self._context, self._made_scorer.context if self._made_scorer else None)
        if not session:
            self.close_context()
        return done

    # Answers

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        if requests[0].replay is not None:
            return (event for event in self.repeat(requests[0]) if event)
        generations = [self.start(request, index) for index, request in enumerate(requests)]
        limits = [one.max_new_tokens for one in generations]  # `max_tokens` and the reasoning before the answer
        longest = replace(requests[0].settings, max_tokens=-1 if min(limits) < 0 else max(limits))
        if len(requests) == 1:
            return generate(self._context_for(len(requests[0].prompt.tokens), longest), generations)
        return self._generate_together(requests, generations, longest)

    def repeat(self, request: Request) -> Generator[TokenEvent | None, None, None]:
        from llmcli.inference.replay_manifest import ReplayManifest, prompt_sha256  # only a replay needs it

        manifest, tokens = ReplayManifest.from_data(request.replay), request.prompt.tokens
        manifest.prepare(request)
        n_ctx, _ = sizing.choose_context(self.shape, request.settings, len(tokens))
        with closing(Context(self.model, replace(request.settings, n_ctx=n_ctx))) as context:
            if manifest.layout and prompt_sha256(tokens) == manifest.prompt_sha256:
                context.watch([request.cancellation])
                try:
                    with suppress(AbortedError):  # the answer is cancelled as well
                        yield from context.prefill_as(0, tokens, manifest.layout)
                except ValueError as error:
                    hint = "record the answer again"
                    raise UsageError(f"cannot replay the answer: replay.layout: {error}", hint) from None
            scheduler = Scheduler(context)
            with closing(self.start(request)) as generation:
                scheduler.add(generation)
                while scheduler.generations:
                    yield None
                    yield from scheduler.step()

    def _generate_together(
        self, requests: Sequence[Request], generations: Sequence[Generation], longest: Settings
    ) -> Generator[TokenEvent, None, None]:
        """The events of several answers, in rounds of as many at a time as the memory has room for.

        `longest` has the `max_tokens` of the longest of them with its reasoning.

        They have a context of their own, and that of a conversation stays as it is; if there is none, it stays theirs.
        """
        begin = perf_counter()
        lengths = [len(tokens) for tokens in {tuple(one.prompt.tokens) for one in requests}]
        shared = sizing.choose_shared(self.shape, longest, lengths, len(requests))
        chat_context = self._context
        n_ctx = max(shared.n_ctx, chat_context.evaluated() + 1 if chat_context else 0)
        context = Context(self.model, replace(longest, n_ctx=n_ctx), shared.width, shared.n_ctx_seq)
        self._context = self._states.attach(context)
        try:
            if chat_context is None:
                self.notes += [shared.note] if shared.note else []
                self._add_load_time(begin)
            elif chat_context.evaluated(requests[0].prompt.tokens) >= _MIN_REUSED:
                context.receive(chat_context)
            for first in range(0, len(generations), shared.width):
                yield from generate(context, generations[first : first + shared.width])
        finally:
            if chat_context:
                self._context = chat_context
                context.close()

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        from llmcli.inference.continuous_batching import ContinuousBatch

        batch = ContinuousBatch(
            self.model, self.shape, self.start, requests, n_parallel, self.notes.append, self._states
        )
        return batch.events()

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None = None
    ) -> list[list[float]]:
        return self._scorer().score(prefix, continuations, cancellation)

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:
        return self._scorer().score_prompt(tokens, n_top, cancellation)

    def _scorer(self) -> "Scorer":
        from llmcli.inference.scorer import Scorer  # only decisions and scores need it

        if not self._made_scorer:
            note, timed = self.notes.append, self._add_load_time
            self._made_scorer = Scorer(self.model, self.shape, self._settings, note, timed, self._states)
        return self._made_scorer

    def start(self, request: Request, index: int = 0) -> Generation:
        """The generation for a request. Raises UsageError for settings or a constraint that are not valid."""
        with labeled(request.label):
            return Generation(self.tokenizer, request, index, speculation=self._drafts.begin(request))

    def _context_for(self, n_prompt: int, settings: Settings) -> Context:
        context, needed = self._context, n_prompt + max(settings.max_tokens, 0)
        is_suitable = self._open_ended or settings.max_tokens >= 0
        if context and (settings.n_ctx or (is_suitable and context.n_ctx > needed)):
            return context
        begin = perf_counter()
        n_ctx, note = sizing.choose_context(self.shape, settings, n_prompt)
        if context is None or n_ctx > context.n_ctx:  # a new one has to evaluate everything again
            self.notes += [note] if note else []
            self.close_context()
            context = self._context = self._states.attach(self._new_context(replace(settings, n_ctx=n_ctx)))
            self._add_load_time(begin)
        self._open_ended = settings.max_tokens < 0
        return context

    def _add_load_time(self, begin: float) -> None:
        ms = (perf_counter() - begin) * 1e3
        self.load_ms, self.waited_ms = self.load_ms + ms, self.waited_ms + ms
