"""A conversation that does not fit the context: what is dropped, and what never is."""

from collections.abc import Iterator

import pytest

from llmcli.chat.controller import ChatController, PromptFit, overflow_error
from llmcli.chat.conversation import Message
from llmcli.errors import ContextOverflowError
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, controller_with, open_local
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


def test_a_question_that_is_too_long_alone_changes_nothing(controller: ChatController) -> None:
    controller.drop_oldest(ask(controller, *(letter * 40 for letter in "abcdef")))
    before = controller.window_start
    with pytest.raises(ContextOverflowError, match=r"the conversation has \d+ tokens, the context has 256") as error:
        controller.drop_oldest(ask(controller, "g" * 300))
    assert error.value.status == 7
    assert "/compact" in error.value.hint
    assert controller.window_start == before


def test_an_answer_without_room_for_a_token_is_refused(controller: ChatController) -> None:
    controller.session.add("user", "g" * 300)
    with pytest.raises(ContextOverflowError):
        answer(controller)
    assert len(controller.session.conversation.messages) == 1
    assert overflow_error(PromptFit(300, 256, 1)).status == 7


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
        with pytest.raises(ContextOverflowError, match="the conversation has more than"):
            controller.check_length(controller.session.conversation.draft("user", "q" * 10_000_000))
        controller.check_length(controller.session.conversation.draft("user", "q" * 1000))
    finally:
        del controller.engine.count_tokens  # type: ignore[union-attr]
    assert max(counted) < 10_000
