"""What the engine of this process needs to draft tokens: what steps cost here, which is kept, and the draft model."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import isclose
from typing import Protocol

from llmcli.engine.drafting import PRIOR_OF_MODEL, Chances, Drafter, DraftModel, PromptLookup, check_vocabulary
from llmcli.engine.events import Cancellation, Request
from llmcli.engine.llama import bindings, hardware, structures
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.speculation import Speculation, StepCosts
from llmcli.errors import labeled
from llmcli.files import data_dir
from llmcli.inference import sizing
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.locations import ModelFile, ModelLocations, model_locations
from llmcli.params.param import is_number
from llmcli.params.settings import Settings

_SMALLEST_CONTEXT = 1024  # tokens of the draft model; one that is too small is replaced by one of twice the size
_MOST = 1e6  # a larger number in a note is not a measurement
_MOST_CONDITIONS = 4  # under which steps were measured, that a note has: numbers of threads, types of the cache
_NEWS = 0.1  # by which a cost has changed


class _ModelFiles(Protocol):
    """A model that is found but not loaded."""

    file: ModelFile

    @property
    def headers(self) -> Sequence[GGUFHeader]: ...


class _FindModel(Protocol):
    def __call__(self, model: str, locations: ModelLocations, *, for_text: bool) -> _ModelFiles: ...


class Drafts:
    """Drafts for the answers of one model. `close` keeps what was measured, and frees the draft model."""

    def __init__(self, model: Model, settings: Settings, gpu_layers: int) -> None:
        self._path, self._model, self._settings = model.path, model, settings
        # What the cost and the rounding of a step depend on: a note of other conditions is not used.
        where = ("device", "tensor_split", "rpc", "cpu_moe", "n_cpu_moe")
        same = ("flash_attn", "cache_type_k", "cache_type_v", "n_ubatch", *where)
        conditions = [bindings.bindings_version(), hardware.machine(), structures.threads(settings), gpu_layers]
        self._conditions = json.dumps([*conditions, *(getattr(settings, key) for key in same)])
        self._costs: StepCosts | None = None
        self._kept: dict[str, float] = {}  # in the note
        self._chances, self._chances_of_model = Chances(), Chances((PRIOR_OF_MODEL,))
        self._draft: Model | None = None
        self._draft_context: Context | None = None

    def load(self, find: _FindModel, cancellation: Cancellation | None) -> None:
        """Load the draft model of the settings, if there is one; an error frees the target too.

        Raises as `find` and `Model.load`, and UsageError where its vocabulary is another one.
        """
        settings = self._settings
        if not settings.draft_model or settings.speculative == "off":
            return
        try:
            with labeled("draft_model"):
                found = find(settings.draft_model, model_locations(settings), for_text=True)
            n_layers = sizing.choose_gpu_layers(sizing.shape_of(found.headers, settings), settings, _SMALLEST_CONTEXT)
            n_layers = sizing.possible_gpu_layers(n_layers)
            self._draft = Model.load(found.file.parts, n_layers, abort=cancellation, settings=settings)
            check_vocabulary(self._model.vocab, self._draft.vocab, found.file.name)
        except BaseException:
            self.close()
            self._model.close()
            raise

    def begin(self, request: Request) -> Speculation | None:
        """What drafts the tokens of an answer; None where its settings or the memory of the model allow no drafts."""
        mode = request.settings.speculative
        # A step could go beyond the token at which a recorded answer was stopped.
        if mode == "off" or request.replay is not None or self._model.is_recurrent:
            return None
        drafters: list[Drafter] = [PromptLookup(self._chances)]
        if self._draft:
            share, cancellation = self._draft.n_bytes / self._model.n_bytes, request.cancellation
            drafters.append(DraftModel(self._context_of, cancellation, self._chances_of_model, share, self._n_read))
        return Speculation(self._measured(), drafters, is_auto=mode == "auto")

    def _measured(self) -> StepCosts:
        if self._costs is None:
            self._kept = self._known().get(self._conditions, {})
            self._costs = StepCosts(dict(self._kept))
        if len(self._costs.kept) > len(self._kept):  # a process can be killed
            self._keep(self._costs)
        return self._costs

    def _known(self) -> dict[str, dict[str, float]]:
        """What is remembered, by the conditions; a note that is damaged says nothing. No msgspec: 8 ms."""
        known: object = None
        with suppress(ValueError, RecursionError):
            known = json.loads(notes.read(data_dir(), self._path).get("steps", "{}"))
        return {key: kept for key, kept in known.items() if _is_sound(kept)} if isinstance(known, dict) else {}

    def _keep(self, costs: StepCosts) -> None:
        """Remember what is known, beside what was found under the last other conditions."""
        self._kept = {key: round(value, 3) for key, value in costs.kept.items()}
        others = [(key, kept) for key, kept in self._known().items() if key != self._conditions]
        known = dict([*others[1 - _MOST_CONDITIONS :], (self._conditions, self._kept)])
        notes.update(data_dir(), self._path, steps=json.dumps(known))

    def _context_of(self, n_tokens: int) -> Context:
        """A context of the draft model with room for so many tokens."""
        assert self._draft
        if self._draft_context and self._draft_context.n_ctx >= n_tokens:
            return self._draft_context
        n_ctx = max(_SMALLEST_CONTEXT, 2 * n_tokens)
        if self._draft_context:
            self._draft_context.close()
        self._draft_context = Context(self._draft, replace(self._settings, n_ctx=n_ctx))
        return self._draft_context

    def _n_read(self, tokens: Sequence[int]) -> int:
        """How many of these tokens the draft model has read."""
        return self._draft_context.evaluated(tokens) if self._draft_context else 0

    def close(self) -> None:
        """A second call has no effect."""
        if self._costs and not _is_close(self._costs.kept, self._kept):
            self._keep(self._costs)
        if self._draft_context:
            self._draft_context.close()
        if self._draft:
            self._draft.close()
        self._draft = self._draft_context = None


def _is_sound(kept: object) -> bool:
    """Whether a part of a note can be what was measured under some conditions."""
    return isinstance(kept, dict) and all(is_number(one) and 0 <= one <= _MOST for one in kept.values())


def _is_close(now: dict[str, float], before: dict[str, float]) -> bool:
    return all(isclose(value, before.get(key, -1.0), rel_tol=_NEWS) for key, value in now.items())
