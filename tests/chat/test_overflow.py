"""A conversation that does not fit the context: what is dropped, and what never is."""

from collections.abc import Iterator
from random import Random
from time import process_time
from typing import Any

import pytest

from llmcli.chat.controller import ChatController, PromptFit
from llmcli.chat.conversation import Message
from llmcli.chat.prompting import as_messages
from llmcli.engine.events import Prompt
from llmcli.errors import ContextOverflowError
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, controller_with, open_local
from tests.inference.fake_engine import FakeEngine
from tests.models.tiny_models import full_attention

N_CTX = 256
SYSTEM = "you are zoe"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """A model of 200 kB with a context of 256 tokens, of which most letters are one."""
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    local = open_local(path, Settings(n_ctx=N_CTX, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def controller(tiny: LocalEngine) -> ChatController:
    return controller_with(tiny, n_ctx=N_CTX, max_tokens=20, system=SYSTEM)


def ask(controller: ChatController, *questions: str) -> list[Message]:
    """Questions, each with the answer `no`, but the last."""
    for text in questions[:-1]:
        controller.session.add("user", text)
        controller.session.add("assistant", " no")
    return [*controller.session.conversation.path(), controller.session.conversation.draft("user", questions[-1])]


def prompt_text(controller: ChatController, path: list[Message]) -> str:
    return controller.prompt(path).text


def test_a_conversation_fits_while_an_answer_has_room(controller: ChatController) -> None:
    path = ask(controller, "q" * 50)
    fit = controller.fit(path)
    assert (fit.n_prompt, fit.n_ctx, fit.reserve) == (len(controller.prompt(path).tokens), N_CTX, 20)
    assert not fit.is_over
    assert PromptFit(236, 256, 20).is_over is False
    assert PromptFit(237, 256, 20).is_over is True


@pytest.mark.parametrize(("max_tokens", "reserve"), [(-1, 64), (0, 1), (1, 1), (30, 30), (100_000, 64)])
def test_the_room_for_an_answer_is_at_most_a_quarter(controller: ChatController, max_tokens: int, reserve: int) -> None:
    controller.set("max_tokens", max_tokens)
    assert controller.fit(ask(controller, "q")).reserve == reserve


def test_the_oldest_turns_are_dropped_but_not_the_system_prompt(controller: ChatController) -> None:
    path = ask(controller, *(letter * 40 for letter in "abcdef"))
    assert controller.fit(path).is_over
    dropped = controller.drop_oldest(path)
    text = prompt_text(controller, path)
    assert dropped > 0
    assert dropped % 2 == 0
    assert [letter for letter in "abcdef" if letter * 40 in text] == list("abcdef"[dropped // 2 :])
    assert text.startswith(SYSTEM)
    assert not controller.fit(path).is_over
    assert len(controller.session.conversation.path()) == 10  # they stay in the conversation


def test_more_is_dropped_than_needed_so_that_the_next_turns_fit(controller: ChatController) -> None:
    path = ask(controller, *"abcdefghijklmnop")
    while not controller.fit(path).is_over:
        path = ask(controller, "x" * 9, "y")
    controller.drop_oldest(path)
    assert controller.fit(path).n_prompt <= 0.75 * N_CTX + 16
    controller.session.add("user", "z")
    first = controller.window_start
    assert not controller.fit(controller.session.conversation.path()).is_over
    assert controller.window_start == first


def test_dropped_turns_stay_dropped_the_second_time(controller: ChatController) -> None:
    controller.drop_oldest(ask(controller, *(letter * 40 for letter in "abcdef")))
    before = controller.window_start
    path = ask(controller, "g" * 60, "h" * 60, "i")
    assert controller.drop_oldest(path) > 0
    assert before
    assert controller.window_start
    assert controller.window_start > before
    assert "f" * 40 not in prompt_text(controller, path)


def test_the_last_question_is_never_dropped(controller: ChatController) -> None:
    path = ask(controller, "a" * 40, "b" * 150)
    assert controller.drop_oldest(path) == 2
    assert "b" * 150 in prompt_text(controller, path)
    assert "a" * 40 not in prompt_text(controller, path)


def test_a_summary_is_not_dropped(controller: ChatController) -> None:
    controller.session.add("summary", "we spoke of whales")
    path = ask(controller, "a" * 80, "b" * 80, "c" * 80)
    assert controller.drop_oldest(path) > 0
    assert "we spoke of whales" in prompt_text(controller, path)
    assert "a" * 80 not in prompt_text(controller, path)


def test_a_greeting_is_dropped_with_the_first_turn(controller: ChatController) -> None:
    controller.session.conversation.add(
        controller.session.conversation.draft("assistant", "ahoy", finish_reason="greeting")
    )
    path = ask(controller, "a" * 100, "b" * 100)
    assert controller.drop_oldest(path) == 3
    assert "ahoy" not in prompt_text(controller, path)


def test_exactly_the_turns_that_must_go_are_dropped(controller: ChatController) -> None:
    random = Random(1)
    for _ in range(20):
        controller.session.conversation.clear()
        controller.window_start = None
        path = ask(controller, *("q" * random.choice((1, 2, 9, 40)) for _ in range(random.randint(30, 60))))
        dropped = controller.drop_oldest(path)
        most = 0.75 * N_CTX
        assert controller.fit(path).n_prompt <= most
        assert controller.unread(path) == [*range(1, dropped + 1)]
        controller.window_start = path[dropped - 2].id  # with one more turn
        assert controller.fit(path).n_prompt > most


def test_where_three_quarters_do_not_do_the_reserve_counts(controller: ChatController) -> None:
    path = ask(controller, "a" * 90, "b", "c" * 180)
    assert controller.drop_oldest(path) == 2
    fit = controller.fit(path)
    assert 0.75 * fit.n_ctx < fit.n_prompt <= fit.n_ctx - fit.reserve
    path = ask(controller, "d" * 215)
    assert controller.drop_oldest(path) == 2
    fit = controller.fit(path)
    assert fit.n_ctx - fit.reserve < fit.n_prompt < fit.n_ctx


@pytest.mark.parametrize("n_turns", [100, 1000, 10_000])
def test_dropping_takes_linear_time(n_turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(n_ctx=512)
    controller = controller_with(engine)
    path = ask(controller, *("hi" for _ in range(n_turns)))
    rendered: list[int] = []
    render = engine.render

    def count(asked: Any, options: TemplateOptions) -> Prompt:
        rendered.append(len(asked))
        return render(asked, options)

    monkeypatch.setattr(engine, "render", count)
    controller.drop_oldest(path)
    assert controller.window(path)[0].content == "hi"
    assert sum(rendered) < 2 * n_turns + engine.n_ctx


def test_questions_without_an_answer_are_joined_in_linear_time() -> None:
    path = [Message(number, number - 1 or None, "user", "x" * 1000) for number in range(1, 10_001)]
    begin = process_time()
    (joined,) = as_messages(path, None)
    assert joined["content"] == "\n\n".join(["x" * 1000] * 10_000)
    assert process_time() - begin < 1


def test_a_question_that_is_too_long_alone_changes_nothing(controller: ChatController) -> None:
    controller.drop_oldest(ask(controller, *(letter * 40 for letter in "abcdef")))
    before = controller.window_start
    with pytest.raises(
        ContextOverflowError, match=r"the last message and the system prompt have \d+ tokens, the context has 256"
    ) as error:
        controller.drop_oldest(ask(controller, "g" * 300))
    assert error.value.status == 7
    assert error.value.hint == "send a shorter message, or use a larger /n_ctx"
    assert controller.window_start == before


def test_an_answer_without_room_for_a_token_is_refused(controller: ChatController) -> None:
    controller.session.add("user", "g" * 300)
    with pytest.raises(ContextOverflowError) as error:
        answer(controller)
    assert error.value.status == 7
    assert len(controller.session.conversation.messages) == 1


def test_an_answer_that_fills_the_context_is_cut_and_kept(controller: ChatController) -> None:
    controller.set("max_tokens", -1)
    controller.set("ignore_eos", True)
    controller.session.add("user", "g" * 200)
    turn = answer(controller)
    assert turn.message
    assert turn.message.finish_reason == "length"


def test_an_undo_beyond_the_dropped_turns_restores_them(controller: ChatController) -> None:
    path = ask(controller, *(letter * 40 for letter in "abcdef"))
    controller.drop_oldest(path)
    controller.session.conversation.undo(4)
    now = controller.session.conversation.path()
    assert len(now) == 2
    assert controller.window(now) == now


def test_a_message_far_too_long_is_refused_without_a_full_count(controller: ChatController) -> None:
    counted: list[int] = []
    count = controller.engine.count_tokens  # type: ignore[union-attr]

    def counted_tokens(text: str) -> int:
        counted.append(len(text))
        return count(text)

    controller.engine.count_tokens = counted_tokens  # type: ignore[union-attr,method-assign]
    try:
        with pytest.raises(ContextOverflowError, match="the message has more than"):
            controller.check_length(controller.session.conversation.draft("user", "q" * 10_000_000))
        controller.check_length(controller.session.conversation.draft("user", "q" * 1000))
    finally:
        del controller.engine.count_tokens  # type: ignore[union-attr]
    assert max(counted) < 10_000
