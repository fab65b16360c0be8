"""What the engine of this process needs to draft tokens: what steps cost here, which is kept, and the draft model."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from llmcli.engine.drafting import PRIOR_OF_MODEL, Chances, Drafter, DraftModel, PromptLookup, check_vocabulary
from llmcli.engine.events import Cancellation, Request
from llmcli.engine.llama import bindings, hardware, structures
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.speculation import Speculation, StepCosts
from llmcli.files import data_dir
from llmcli.inference import sizing
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.locations import ModelFile, ModelLocations, model_locations
from llmcli.params.param import is_number
from llmcli.params.settings import Settings

_SMALLEST_CONTEXT = 1024  # tokens of the draft model; one that is too small is replaced by one of twice the size
_MOST_MS = 1e6  # of a step; more is not a measurement


class _Found(Protocol):
    """A model that is found but not loaded."""

    file: ModelFile

    @property
    def headers(self) -> Sequence[GGUFHeader]: ...


class _Find(Protocol):
    def __call__(self, model: str, locations: ModelLocations, *, for_text: bool) -> _Found: ...


class Drafts:
    """Drafts for the answers of one model. `close` keeps what was measured, and frees the draft model."""

    def __init__(self, model: Model, settings: Settings, gpu_layers: int) -> None:
        self._path, self._model, self._settings = model.path, model, settings
        # What the cost and the rounding of a step depend on.
        same = ("flash_attn", "cache_type_k", "cache_type_v", "n_ubatch", "cpu_moe", "n_cpu_moe", "device")
        conditions = [bindings.bindings_version(), hardware.machine(), structures.threads(settings), gpu_layers]
        self._conditions = json.dumps([*conditions, *(getattr(settings, key) for key in same)])
        self._costs: StepCosts | None = None
        self._n_kept = 0
        self._chances, self._chances_of_model = Chances(), Chances((PRIOR_OF_MODEL,))
        self._draft: Model | None = None
        self._draft_context: Context | None = None

    def load(self, find: _Find, cancellation: Cancellation | None) -> None:
        """Load the draft model of the settings, if there is one; an error frees the target too.

        Raises as `find` and `Model.load`, and UsageError where its vocabulary is another one.
        """
        settings = self._settings
        if not settings.draft_model or settings.speculative == "off":
            return
        try:
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
            kept = self._kept_costs()
            self._costs, self._n_kept = StepCosts(kept), len(kept)
        self._keep()
        return self._costs

    def _kept_costs(self) -> dict[str, float]:
        """What is remembered of these conditions; a note that is damaged says nothing. No msgspec: 8 ms."""
        with suppress(ValueError, RecursionError):
            known = json.loads(notes.read(data_dir(), self._path).get("steps", "{}"))
            kept = known.get(self._conditions) if isinstance(known, dict) else None
            if isinstance(kept, dict) and all(is_number(one) and 0 <= one <= _MOST_MS for one in kept.values()):
                return kept
        return {}

    def _keep(self) -> None:
        """Remember what is known, whenever more of it is: a process can be killed."""
        if self._costs and len(self._costs.kept) > self._n_kept:
            self._n_kept = len(self._costs.kept)
            kept = {key: round(value, 3) for key, value in self._costs.kept.items()}
            notes.update(data_dir(), self._path, steps=json.dumps({self._conditions: kept}))

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
        self._keep()
        if self._draft_context:
            self._draft_context.close()
        if self._draft:
            self._draft.close()
        self._draft = self._draft_context = None
