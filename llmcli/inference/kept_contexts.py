"""What a warm process keeps between two commands: contexts with all that was evaluated, for the next prompt.

A command gets exactly the results that it has in a process of its own: of a kept context, its first prompt uses what an
empty one would have computed too. A conversation goes on where it was left.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from time import monotonic

from llmcli.engine.events import Cancellation, Request, TokenEvent
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.kept_context import KeptContext, rounds_alike
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.structures import threads
from llmcli.errors import LlmcliError
from llmcli.files import data_dir, decode_json
from llmcli.inference import sizing
from llmcli.inference.context_states import ContextStates
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models import notes
from llmcli.params.model import RopeParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Settings

_MOST = 3  # contexts that nobody uses
_MEMORY_SHARE = 8  # they take an eighth of the free memory at most
_IDLE = 300.0  # seconds without use after which one is freed
_LOST_SHARE = 8  # a prompt that keeps less of a context than this part of the rest leaves it to others
_SMALL = 1 << 30  # bytes of a model that finds out at once which batches it can divide: short prompts are frequent
_ROUNDING = ("flash_attn", "cache_type_k", "cache_type_v")  # settings that decide about kernels
_OF_CONTEXT = (
    *("n_batch", "n_ubatch", "poll", "swa_full", "override_kv"),
    *_ROUNDING,
    *fields_of(RopeParams),
)


@dataclass(eq=False)
class _Kept:
    """A context with what is known of it."""

    context: KeptContext
    settings: Settings
    size: int  # bytes
    used_at: float
    states: ContextStates | None = None  # which store its beginnings when it is freed


class KeptContexts:
    """The contexts of one loaded model. Those that nobody uses are few, and freed after some time."""

    def __init__(self, model: Model, target: ResolvedModel) -> None:
        self._model, self._target = model, target
        self._free: list[_Kept] = []  # the last one was used last
        self._all: dict[KeptContext, _Kept] = {}
        self._lock = Lock()
        self._divisible: dict[str, dict[str, bool]] = {}  # by place and settings: kinds of batches
        self._missed: tuple[str, Settings] | None = None
        self._checking = Cancellation()
        original = f"{target.header.architecture}.rope.scaling.original_context_length"
        self._is_size_exact = original in target.header.metadata  # it decides about the RoPE factors

    def lend(self, settings: Settings, tokens: Sequence[int], is_conversation: bool) -> KeptContext | None:
        """The context whose tokens save most of a prompt; None if a new one is better."""
        self._checking.set()
        with self._lock:
            best, most = None, 0.0
            for one in self._free:
                if not self._is_suitable(one, settings):
                    continue
                context = one.context
                context.lend(settings)
                context.is_conversation, context.alike = is_conversation, self._alike(settings)
                n_usable = context.n_usable(tokens) if tokens else 0
                if context.missed:
                    self._missed, context.missed = (context.missed, settings), ""
                value = n_usable - (len(context.tokens()) - n_usable) / _LOST_SHARE
                if best is None or value > most:
                    best, most = one, value
            if best and (not tokens or most >= 0 or len(self._free) >= _MOST):
                self._free.remove(best)
                return best.context
        return None

    def _is_suitable(self, one: _Kept, settings: Settings) -> bool:
        is_like = all(getattr(one.settings, key) == getattr(settings, key) for key in _OF_CONTEXT)
        is_like = is_like and threads(one.settings) == threads(settings)
        most = one.context.most
        return is_like and (most == settings.n_ctx if self._is_size_exact else most >= settings.n_ctx)

    def prepare(self, settings: Settings) -> None:
        """Have a context ready that most commands can use, where it takes little of the memory."""
        shape = sizing.shape_of(self._target.headers, settings)
        with suppress(LlmcliError):
            n_ctx, _ = sizing.choose_context(shape, replace(settings, max_tokens=-1), 0)
            settings = replace(settings, n_ctx=n_ctx)
            self.take_back(self.make(settings, shape))
            self.limit()
            if shape.weights < _SMALL:
                self._missed = "few", settings

    def make(self, settings: Settings, shape: sizing.ModelShape) -> KeptContext:
        """A new context. Raises LlmcliError if it does not fit in memory."""
        need = sizing.memory_need(shape, settings, settings.n_ctx)
        self.limit(need.kv_cache + need.compute)
        context = KeptContext(self._model, settings)
        context.alike = self._alike(settings)
        with self._lock:
            self._all[context] = _Kept(context, settings, need.kv_cache + need.compute, monotonic())
        return context

    def take_back(self, context: KeptContext) -> None:
        """Keep a context that was not used."""
        context.watch([])
        context.recall = None
        with self._lock:
            self._free.insert(0, self._all[context])

    def keep(self, context: KeptContext, states: ContextStates | None, session: str) -> None:
        """Keep a context for the next prompt; without states, nobody may use what it has evaluated."""
        if not states:
            context.forget()
        context.session = session
        self.take_back(context)
        with self._lock:
            one = self._all[context]
            one.used_at, one.states = monotonic(), states
            self._free.sort(key=lambda one: one.used_at)
        self.limit()

    def forget(self, session: str = "") -> None:
        """Overwrite the tokens of a session, or of all that nobody uses."""
        with self._lock:
            for one in self._free:
                if not session or one.context.session == session:
                    one.context.forget()
                    one.states = None

    def limit(self, needed: int = 0) -> None:
        """Free those that are too many, beside so many bytes that are needed now."""
        with self._lock:
            gone, memory = [], hardware.available_memory()
            while self._free and (
                len(self._free) > _MOST
                or monotonic() - self._free[0].used_at > _IDLE
                or (memory and (sum(one.size for one in self._free) + needed) * _MEMORY_SHARE > memory + needed)
            ):
                gone.append(self._free.pop(0))
        for one in gone:
            self._close(one)

    def _close(self, one: _Kept) -> None:
        with self._lock:
            self._all.pop(one.context, None)
        if one.states:
            with suppress(LlmcliError):
                one.states.keep(one.context)
        one.context.close()

    def close(self) -> None:
        """Free all that nobody uses; what later processes can share of them is stored."""
        self._checking.set()
        with self._lock:
            gone, self._free = self._free, []
        for one in gone:
            self._close(one)

    def counts(self) -> dict[str, float]:
        """How many there are that nobody uses, with how many tokens and bytes."""
        with self._lock:
            n_tokens = sum(len(one.context.tokens()) for one in self._free)
            return {"contexts": len(self._free), "tokens": n_tokens, "bytes": sum(one.size for one in self._free)}

    # Which batches can be divided

    def _alike(self, settings: Settings) -> frozenset[str]:
        """The kinds of batches of which a part can stay; none on a GPU, whose kernels depend on more."""
        return frozenset(kind for kind, is_alike in self._known(settings).items() if is_alike)

    def _known(self, settings: Settings) -> dict[str, bool]:
        where = self._place(settings)
        if where not in self._divisible:
            try:
                data = decode_json(notes.read(data_dir(), self._target.file.path).get("divisible", "{}"))
                self._divisible |= {where: {}, **{one: dict(kinds) for one, kinds in data.items()}}
            except (ValueError, TypeError, AttributeError):
                self._divisible[where] = {}
        return self._divisible[where]

    def _place(self, settings: Settings) -> str:
        how = (str(getattr(settings, key)) for key in _ROUNDING)
        return ", ".join((bindings.bindings_version(), hardware.machine(), *how))

    def check_rounding(self) -> None:
        """Find out whether a batch can be divided, where a prompt could have begun later; a command ends it."""
        if not self._missed or hardware.has_gpu():
            return
        kind, settings = self._missed
        if kind in self._known(settings):
            self._missed = None
            return
        self._checking = Cancellation()
        found = rounds_alike(self._model, settings, kind, self._checking)
        if found is not None:
            self._known(settings)[kind], self._missed = found, None
            notes.update(data_dir(), self._target.file.path, divisible=json.dumps(self._divisible))


class KeptEngine(LocalEngine):
    """The engine of one command, which takes a context that is kept, and leaves it to the next one."""

    def __init__(self, target: ResolvedModel, settings: Settings, loaded: Model, kept: KeptContexts) -> None:
        self._kept = kept
        self._prompt: Sequence[int] = ()  # that comes next
        self._is_stored = settings.kv_cache
        self._session, self._session_tokens = "", list[int]()  # what is stored of a conversation
        super().__init__(target, settings, loaded=loaded)

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        self._prompt = requests[0].prompt.tokens
        return super().generate(requests)

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        self._prompt = [*tokens]
        if self._context:
            self._exchange()
        super().warm(tokens, cancellation)

    def keep_context(self, session: str = "") -> Sequence[str]:
        if not session:  # the context itself stays
            return self._states.keep_all("", None, self._made_scorer.context if self._made_scorer else None)
        if self._context:
            self._session, self._session_tokens = session, self._context.tokens()
        return super().keep_context(session)

    def close_context(self) -> None:
        context, self._context = self._context, None
        if not isinstance(context, KeptContext):
            if context:
                context.close()
        elif context.is_lent_anew:
            self._kept.take_back(context)
        else:
            is_known = not self._states.is_conversation or context.tokens() == self._session_tokens
            self._kept.keep(context, self._states if self._is_stored and is_known else None, self._session)

    def _new_context(self, params: Settings) -> Context:
        self._params = params
        is_conversation = self._states.is_conversation and self._is_stored
        return self._kept.lend(params, self._prompt, is_conversation) or self._kept.make(params, self.shape)

    def _context_for(self, n_prompt: int, settings: Settings) -> Context:
        super()._context_for(n_prompt, settings)
        return self._exchange()

    def _exchange(self) -> Context:
        """Take another context, where it saves more of the first prompt of this one."""
        context = self.context
        if isinstance(context, KeptContext) and context.is_lent_anew and self._prompt:
            params = replace(self._params, n_ctx=context.n_ctx)
            self._kept.take_back(context)
            context = self._context = self._states.attach(self._new_context(params))
        return context
