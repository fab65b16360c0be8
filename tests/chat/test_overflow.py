"""A conversation that does not fit the context: what is dropped, and what never is."""

from collections.abc import Iterator

import pytest

from llmcli.chat.controller import Dialogue, Fit, too_long
from llmcli.chat.conversation import Message
from llmcli.errors import ContextOverflowError
from llmcli.inference.local import LocalModel
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, dialogue_with, open_local
from tests.models.tiny_models import full_attention

N_CTX = 256
SYSTEM = "you are zoe"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """A model of 200 kB with a context of 256 tokens, of which most letters are one."""
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    local = open_local(path, Settings(n_ctx=N_CTX, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def dialogue(tiny: LocalModel) -> Dialogue:
    return dialogue_with(tiny, n_ctx=N_CTX, max_tokens=20, system=SYSTEM)


def ask(dialogue: Dialogue, *questions: str) -> list[Message]:
    """Questions, each with the answer `no`, but the last."""
    for text in questions[:-1]:
        dialogue.session.say("user", text)
        dialogue.session.say("assistant", " no")
    return [*dialogue.session.conversation.path(), dialogue.session.draft("user", questions[-1])]


def prompt_text(dialogue: Dialogue, path: list[Message]) -> str:
    return dialogue.prompt(path).text


def test_a_conversation_fits_while_an_answer_has_room(dialogue: Dialogue) -> None:
    path = ask(dialogue, "q" * 50)
    fit = dialogue.fit(path)
    assert (fit.n_prompt, fit.n_ctx, fit.reserve) == (len(dialogue.prompt(path).tokens), N_CTX, 20)
    assert not fit.over
    assert Fit(236, 256, 20).over is False
    assert Fit(237, 256, 20).over is True


@pytest.mark.parametrize(("max_tokens", "reserve"), [(-1, 64), (0, 1), (1, 1), (30, 30), (100_000, 64)])
def test_the_room_for_an_answer_is_at_most_a_quarter(dialogue: Dialogue, max_tokens: int, reserve: int) -> None:
    dialogue.set("max_tokens", max_tokens)
    assert dialogue.fit(ask(dialogue, "q")).reserve == reserve


def test_the_oldest_turns_are_dropped_but_not_the_system_prompt(dialogue: Dialogue) -> None:
    path = ask(dialogue, *(letter * 40 for letter in "abcdef"))
    assert dialogue.fit(path).over
    dropped = dialogue.drop_oldest(path)
    text = prompt_text(dialogue, path)
    assert dropped > 0
    assert dropped % 2 == 0
    assert [letter for letter in "abcdef" if letter * 40 in text] == list("abcdef"[dropped // 2 :])
    assert text.startswith(SYSTEM)
    assert not dialogue.fit(path).over
    assert len(dialogue.session.conversation.path()) == 10  # they stay in the conversation


def test_more_is_dropped_than_needed_so_that_the_next_turns_fit(dialogue: Dialogue) -> None:
    path = ask(dialogue, *"abcdefghijklmnop")
    while not dialogue.fit(path).over:
        path = ask(dialogue, "x" * 9, "y")
    dialogue.drop_oldest(path)
    assert dialogue.fit(path).n_prompt <= 0.75 * N_CTX + 16
    dialogue.session.say("user", "z")
    first = dialogue.first
    assert not dialogue.fit(dialogue.session.conversation.path()).over
    assert dialogue.first == first


def test_dropped_turns_stay_dropped_the_second_time(dialogue: Dialogue) -> None:
    dialogue.drop_oldest(ask(dialogue, *(letter * 40 for letter in "abcdef")))
    before = dialogue.first
    path = ask(dialogue, "g" * 60, "h" * 60, "i")
    assert dialogue.drop_oldest(path) > 0
    assert before
    assert dialogue.first
    assert dialogue.first > before
    assert "f" * 40 not in prompt_text(dialogue, path)


def test_the_last_question_is_never_dropped(dialogue: Dialogue) -> None:
    path = ask(dialogue, "a" * 40, "b" * 150)
    assert dialogue.drop_oldest(path) == 2
    assert "b" * 150 in prompt_text(dialogue, path)
    assert "a" * 40 not in prompt_text(dialogue, path)


def test_a_summary_is_not_dropped(dialogue: Dialogue) -> None:
    dialogue.session.say("summary", "we spoke of whales")
    path = ask(dialogue, "a" * 80, "b" * 80, "c" * 80)
    assert dialogue.drop_oldest(path) > 0
    assert "we spoke of whales" in prompt_text(dialogue, path)
    assert "a" * 80 not in prompt_text(dialogue, path)


def test_a_greeting_is_dropped_with_the_first_turn(dialogue: Dialogue) -> None:
    dialogue.session.prepare("assistant", "ahoy", finish_reason="greeting")
    path = ask(dialogue, "a" * 100, "b" * 100)
    assert dialogue.drop_oldest(path) == 3
    assert "ahoy" not in prompt_text(dialogue, path)


def test_a_question_that_is_too_long_alone_changes_nothing(dialogue: Dialogue) -> None:
    dialogue.drop_oldest(ask(dialogue, *(letter * 40 for letter in "abcdef")))
    before = dialogue.first
    with pytest.raises(ContextOverflowError, match=r"the conversation has \d+ tokens, the context has 256") as error:
        dialogue.drop_oldest(ask(dialogue, "g" * 300))
    assert error.value.status == 7
    assert "/compact" in error.value.hint
    assert dialogue.first == before


def test_an_answer_without_room_for_a_token_is_refused(dialogue: Dialogue) -> None:
    dialogue.session.say("user", "g" * 300)
    with pytest.raises(ContextOverflowError):
        answer(dialogue)
    assert len(dialogue.session.conversation.messages) == 1
    assert too_long(Fit(300, 256, 1)).status == 7


def test_an_answer_that_fills_the_context_is_cut_and_kept(dialogue: Dialogue) -> None:
    dialogue.set("max_tokens", -1)
    dialogue.set("ignore_eos", True)
    dialogue.session.say("user", "g" * 200)
    turn = answer(dialogue)
    assert turn.message
    assert turn.message.finish_reason == "length"


def test_an_undo_beyond_the_dropped_turns_restores_them(dialogue: Dialogue) -> None:
    path = ask(dialogue, *(letter * 40 for letter in "abcdef"))
    dialogue.drop_oldest(path)
    dialogue.session.undo(4)
    now = dialogue.session.conversation.path()
    assert len(now) == 2
    assert dialogue.window(now) == now


def test_a_message_far_too_long_is_refused_without_a_full_count(dialogue: Dialogue) -> None:
    counted: list[int] = []
    count = dialogue.local.count_tokens  # type: ignore[union-attr]

    def watched(text: str) -> int:
        counted.append(len(text))
        return count(text)

    dialogue.local.count_tokens = watched  # type: ignore[union-attr,method-assign]
    try:
        with pytest.raises(ContextOverflowError, match="the conversation has more than"):
            dialogue.refuse_endless(dialogue.session.draft("user", "q" * 10_000_000))
        dialogue.refuse_endless(dialogue.session.draft("user", "q" * 1000))
    finally:
        del dialogue.local.count_tokens  # type: ignore[union-attr]
    assert max(counted) < 10_000
