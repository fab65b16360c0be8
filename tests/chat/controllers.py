"""Controllers with a loaded model, and the answer that a new context gives."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session, Turn
from llmcli.config.presets import LayerStack
from llmcli.engine.events import Cancellation, Prompt, Request, TokenEvent
from llmcli.engine.llama.context import Context
from llmcli.inference.engine import Engine
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.model import ModelParams
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Layer, Settings
from tests.inference.fake_engine import FakeEngine

GREEDY: dict[str, Any] = {"temperature": Fixed(0.0)}


def open_local(path: Path, settings: Settings, abort: Cancellation | None = None) -> LocalEngine:
    """A model with its context."""
    target = ResolvedModel(ModelFile(path, (path,), path.stem, trusted=True))
    local = LocalEngine(target, settings, abort or Cancellation())
    local.open_context(settings)
    return local


def controller_with(local: Engine, *below: Layer, session: Session | None = None, **flags: Any) -> ChatController:
    """A controller whose session is not saved, unless one is given."""
    threads = {"n_threads": 1} if local.capabilities.tokens else {}  # an endpoint has its own
    layers = LayerStack([*below, Layer("flag", {**threads, "seed": 1, **flags})])
    loading = BackgroundLoad(lambda _abort, _say: local)
    loading.wait(lambda _doing: True)
    controller = ChatController(session or Session(keep=False), layers, lambda _settings, _ahead: loading)
    controller.load_model()
    return controller


def answer(controller: ChatController, continued: Message | None = None, **extra: Any) -> Turn:
    """The whole answer to the conversation, or the continued answer `continued`."""
    path = controller.session.conversation.path()
    turn = controller.answer(path[:-1] if continued else path, extra, continued)
    for _ in turn.parts():
        pass
    return turn


def ask(controller: ChatController, text: str, **extra: Any) -> Turn:
    """A message and the answer to it."""
    controller.session.add("user", text)
    return answer(controller, **extra)


@dataclass
class Greedy:
    """The most likely tokens, and the distance of each logit from the second; the last distance is that of the end."""

    tokens: list[int]
    leads: list[float]


def fresh_answer(local: LocalEngine, prompt: Sequence[int], n_predict: int, params: ModelParams) -> Greedy:
    """The answer of a new context that evaluates the prompt in one batch."""
    context, found = Context(local.model, params), Greedy([], [])
    context.prefill(0, prompt)
    vocab = local.model.vocab
    while True:
        logits: list[float] = context._api.llama_get_logits_ith(context.handle, -1)[: vocab.n_tokens]
        best = max(range(len(logits)), key=logits.__getitem__)
        found.leads.append(logits[best] - max(one for at, one in enumerate(logits) if at != best))
        if vocab.ends(best) or len(found.tokens) == n_predict:
            break
        found.tokens.append(best)
        context.step([(0, best)])
    context.close()
    return found


def greedy_answer(controller: ChatController, prompt: Prompt, n_predict: int) -> list[int]:
    """The answer of the context of the chat."""
    local = controller.engine
    assert local
    settings = Settings(n_ctx=local.n_ctx, seed=1, max_tokens=n_predict, **GREEDY)
    *_, last = local.generate([Request(prompt, settings)])
    return last.record.tokens[len(prompt.tokens) :]


def scripted(*pieces: str | BaseException) -> Callable[[Sequence[Request]], Generator[TokenEvent, None, None]]:
    """In place of the `generate` of an engine: an answer of these pieces; an exception among them is raised."""
    return FakeEngine(pieces).generate
