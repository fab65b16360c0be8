"""After any edits, undos and stops, the next answer is that of a new context."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmcli.chat.compaction import Compaction
from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.prompting import PromptBuilder
from llmcli.chat.sessions.session import Turn
from llmcli.engine.llama.context import common_prefix
from llmcli.errors import UsageError
from llmcli.inference.local import LocalEngine
from llmcli.models.locations import starter_path
from llmcli.params.model import ModelParams
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.chat.controllers import GREEDY, answer, ask, controller_with, fresh_answer, greedy_answer, open_local
from tests.engine.test_reuse import Countdown
from tests.models import tiny_models

KINDS = ("full_attention", "sliding_window", "recurrent", "hybrid")
CUTTABLE = ("full_attention", "sliding_window")
TINY_NOISE = 2e-3  # batches of other sizes round otherwise: how far ahead a token may be and yet lose
# The starter's weights have four bits, and what they meet is rounded to eight: a batch cut at another place moves a
# logit by up to 1.2, with no past at all. Read one by one its tokens give the same bits each time.
ONE_BY_ONE = ModelParams(n_ctx=1024, n_threads=1, n_batch=1, n_ubatch=1)
# The template's tokens: before the system text, between an answer and a question, and behind that.
BEFORE_SYSTEM, BETWEEN, BEHIND = (
    ("<|im_start|>", "system", "\n"),
    ("<|im_end|>", "\n", "<|im_start|>", "user", "\n"),
    ("<|im_end|>", "\n", "<|im_start|>", "ass", "istant", "\n"),
)
WORDS = ("the", "moon", "a", "river", "why", "paint", "three", "nine", "colour", "Grüße", "<|im_end|>", "stop", "7")
STARTER_NAME = starter_path(Path()).stem
_LONGEST = 700  # tokens of a prompt, of 1024
_EXACT: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}


@dataclass
class Walk:
    """Random work in a chat. `ties` counts the answers that differed where two tokens were equally likely."""

    controller: ChatController
    local: LocalEngine
    flag: Countdown
    random: Random
    noise: float
    params: ModelParams
    ties: int = 0
    seen: list[str] = field(default_factory=list)

    @property
    def path(self) -> list[Message]:
        return self.controller.session.conversation.path()

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 8)))

    # The operations, as the commands of the chat do them

    def send(self) -> None:
        self.controller.session.add("user", self.text())
        self.answer()

    def retry(self) -> None:
        path = self.path[:-1] if self.path[-1].role == "assistant" else self.path
        others: list[dict[str, Any]] = [
            {},
            {"temperature": Fixed(1.5), "seed": 7},
            {"top_k": 3},
            {"system": "Be brief."},
        ]
        self.answer(path, **self.random.choice(others))

    def edit(self) -> None:
        """A message of the user gets a new answer; one of the model stays as it was edited."""
        old = self.random.choice(self.path)
        session = self.controller.session
        session.conversation.move(old.parent)
        session.add(old.role, self.text())
        if old.role == "user":
            self.answer()

    def undo(self) -> None:
        self.controller.session.conversation.undo(self.random.randint(1, 2))

    def redo(self) -> None:
        self.controller.session.conversation.redo()

    def branch(self) -> None:
        conversation = self.controller.session.conversation
        self.controller.session.conversation.move(self.random.choice(conversation.leaves()))

    def clear(self) -> None:
        self.controller.session.conversation.clear()

    def go_on(self) -> None:
        if self.path[-1].role == "assistant":
            self.answer(self.path[:-1], continued=self.path[-1])

    def system(self) -> None:
        self.controller.set("system", self.random.choice([None, "You are a poet.", self.text()]))

    def leave_out(self) -> None:
        self.controller.window_start = self.random.choice([None, self.random.choice(self.path).id])

    def compact(self) -> None:
        compaction = Compaction(self.controller, self.path, 1)
        compaction.answer.request.cancellation = self.flag
        with closing(compaction.answer.parts()) as parts:  # type: ignore[type-var]
            next(parts, None)
        compaction.use(self.text())

    def interrupt(self) -> None:
        """An abort at any place of the prompt or of the answer."""
        self.controller.session.add("user", self.text())
        self.flag.left = self.random.randint(1, 10 ** self.random.randint(1, 4))
        self.answer()

    def stop(self) -> None:
        """Ctrl-C, or the end of a display, after some parts of the answer."""
        self.controller.session.add("user", self.text())
        turn = self.controller.answer(self.path)
        turn.answer.request.cancellation = self.flag
        parts, count = turn.parts(), self.random.randint(0, 4)
        for _ in range(count):
            next(parts, None)
        if self.random.random() < 0.5:
            self.flag.left = 1
        else:
            parts.close()
        for _ in parts:
            pass
        self.flag.left = -1

    def answer(self, path: list[Message] | None = None, continued: Message | None = None, **extra: Any) -> None:
        assert self.local._context
        before = list(self.local._context._evaluated[0])
        path = self.path if path is None else path
        turn = self.controller.answer(path, extra, continued)
        turn.answer.request.cancellation = self.flag
        for _ in turn.parts():
            pass
        self.flag.left = -1
        if turn.answer.finish_reason != "interrupt":
            self.count(before, turn.answer.prompt.tokens, turn.answer.timings()["prompt_n"])

    def count(self, before: list[int], prompt: Any, prompt_n: float) -> None:
        """Only what changed is evaluated, and the last token for its logits."""
        kept = common_prefix(before, prompt)
        if kept < len(before) and self.local.name not in (*CUTTABLE, STARTER_NAME):
            kept = 0
        assert prompt_n == max(len(prompt) - kept, 1)

    # The walk

    def step(self) -> None:
        name = self.random.choice(_OPERATIONS)
        self.seen.append(name)
        if len(self.controller.prompt(self.path).tokens) > _LONGEST:
            name = "clear"
        with suppress(UsageError):  # nothing to undo, redo or summarize
            getattr(self, name if self.path else "send")()

    def check(self) -> None:
        """The next answer, from here and from nothing."""
        path, settings = (
            [*self.path, self.controller.session.conversation.draft("user", "and now")],
            self.controller.settings,
        )
        prompt = self.controller.prompt(path)
        fresh = PromptBuilder(self.local).prompt(self.controller.window(path), settings.system, settings)
        assert list(prompt.tokens) == list(fresh.tokens), self.seen
        expected = fresh_answer(self.local, fresh.tokens, 8, self.params)
        tokens = greedy_answer(self.controller, prompt, 8)
        if tokens == expected.tokens:
            return
        self.ties += 1
        assert expected.leads[common_prefix(tokens, expected.tokens)] < self.noise, self.seen


_OPERATIONS = ["send"] * 4 + ["retry", "edit", "edit", "undo", "redo", "branch", "clear", "go_on", "go_on", "system"]
_OPERATIONS += ["leave_out", "compact", "interrupt", "interrupt", "interrupt", "stop", "stop"]


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    getattr(tiny_models, request.param)(path)
    local = open_local(path, Settings(n_ctx=1024, n_threads=1, n_batch=64, n_ubatch=16, **_EXACT))
    yield local
    local.close()


@pytest.fixture(scope="module")
def large(starter: Path) -> Iterator[LocalEngine]:
    local = open_local(starter, Settings(n_ctx=1024, n_threads=1, n_batch=1, n_ubatch=1))
    yield local
    local.close()


def walk(local: LocalEngine, seed: int, noise: float, params: ModelParams, **flags: Any) -> Walk:
    controller = controller_with(local, n_ctx=1024, max_tokens=6, **flags)
    return Walk(controller, local, Countdown(local.context), Random(seed), noise, params)


@pytest.mark.slow
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_next_answer_is_that_of_a_new_context(tiny: LocalEngine, seed: int, raw: bool) -> None:
    exact = ModelParams(n_ctx=1024, n_threads=1, **_EXACT)
    steps = walk(tiny, seed, TINY_NOISE, exact, raw=raw)
    for _ in range(12):
        steps.step()
        steps.check()


@pytest.mark.parametrize("seed", [2, 5, 6])
def test_the_next_answer_of_the_starter_is_that_of_a_new_context(large: LocalEngine, seed: int) -> None:
    steps = walk(large, seed, 0.0, ONE_BY_ONE)
    for _ in range(8):
        steps.step()
    steps.check()


# What a turn costs


@pytest.fixture
def chat(large: LocalEngine) -> ChatController:
    """Two turns with the starter."""
    controller = controller_with(large, n_ctx=1024, max_tokens=6, **GREEDY)
    for text in ("Name a river.", "Name another one."):
        ask(controller, text)
    return controller


def test_a_retry_evaluates_one_token(chat: ChatController) -> None:
    path = chat.session.conversation.path()
    for extra in ({}, {"temperature": Fixed(1.5), "seed": 7}, {"top_k": 3, "max_tokens": 3}):
        chat.session.conversation.move(path[-2].id)
        assert prompt_n(answer(chat, **extra)) == 1


def test_an_edit_of_the_last_message_evaluates_what_changed(chat: ChatController, large: LocalEngine) -> None:
    old = chat.session.conversation.path()[-2]
    before = chat.prompt(chat.session.conversation.path()[:-1]).tokens
    chat.session.conversation.move(old.parent)
    turn = ask(chat, "Name another two.")
    changed = len(turn.answer.prompt.tokens) - common_prefix(before, turn.answer.prompt.tokens)
    assert prompt_n(turn) == changed
    assert changed <= large.count_tokens(" two.") + len(BEHIND)


def test_an_edit_of_the_answer_evaluates_it_and_what_is_new(chat: ChatController, large: LocalEngine) -> None:
    session = chat.session
    last = session.conversation.path()[-1]
    session.conversation.move(last.parent)
    session.add("assistant", "The Nile is long.", finish_reason="edited")
    turn = ask(chat, "Why?")
    expected = large.count_tokens("The Nile is long.") + large.count_tokens("Why?") + len(BETWEEN) + len(BEHIND)
    assert prompt_n(turn) <= expected + 1


def test_an_ordinary_turn_evaluates_the_new_message(chat: ChatController, large: LocalEngine) -> None:
    """And the last token of the answer, which was drawn and not evaluated: it was cut by its length."""
    written = chat.session.conversation.path()[-1]
    assert written.finish_reason == "length"
    assert prompt_n(ask(chat, "Why?")) == large.count_tokens("Why?") + len(BETWEEN) + len(BEHIND) + 1


def test_undo_and_redo_evaluate_only_the_branch(chat: ChatController) -> None:
    chat.session.conversation.undo(1)
    chat.session.conversation.redo()
    chat.session.conversation.move(chat.session.conversation.path()[-2].id)
    assert prompt_n(answer(chat)) == 1


def test_a_new_system_prompt_evaluates_everything_after_it(chat: ChatController) -> None:
    chat.set("system", "Be brief.")
    chat.session.conversation.move(chat.session.conversation.path()[-2].id)
    turn = answer(chat)
    assert prompt_n(turn) == len(turn.answer.prompt.tokens) - len(BEFORE_SYSTEM)


def prompt_n(turn: Turn) -> float:
    return turn.answer.timings()["prompt_n"]
