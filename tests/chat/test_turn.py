"""One answer in a session: saved however it ends, and continued later."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session
from llmcli.errors import ConstraintError
from llmcli.inference.local import LocalEngine
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.chat.controllers import ask, controller_with, open_local, scripted
from tests.models.tiny_models import full_attention

# Templates that say how this model thinks, and one that opens the reasoning itself.
TELLS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
TELLS += "{# <think>\\n \\n</think>\\n\\n #}"
OPENS = TELLS + "<think>{{ '\\n' }}"
OPENS_SHORT = TELLS + "<think>"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    local = open_local(full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf"), Settings(n_ctx=512, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def controller(tiny: LocalEngine, home: Path) -> Iterator[ChatController]:
    """With a session on disk."""
    controller = controller_with(tiny, n_ctx=512, max_tokens=6, session=Session())
    yield controller
    controller.session.close()


def on_disk(controller: ChatController) -> list[Message]:
    """The path as a reader of the file sees it, without the fractions of seconds that the file omits."""
    read, in_memory = (one.conversation.path() for one in (Session.read(controller.session.name), controller.session))
    times = {message.id: message.time for message in in_memory}
    assert all(0 <= times[message.id] - message.time < 1 for message in read)
    return [replace(message, time=times[message.id]) for message in read]


def unfinished_answer(controller: ChatController, content: str, reasoning: str = "") -> Message:
    """A question with an answer that was cut."""
    controller.session.add("user", "why")
    return controller.session.add("assistant", content, reasoning=reasoning, finish_reason="interrupt")


def continue_answer(controller: ChatController, last: Message, *pieces: str) -> tuple[Any, list[tuple[str, str]]]:
    """The turn that continues `last`, and the parts that it shows; the model writes these pieces."""
    local = controller.engine
    assert local
    path = controller.session.conversation.path()[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "generate", scripted(*pieces))
        turn = controller.answer(path, continued=last)
        return turn, list(turn.parts())


# Kept however it ends


def test_an_answer_is_saved_with_its_settings(controller: ChatController) -> None:
    turn = ask(controller, "the river", temperature=Fixed(0.5))
    message = turn.message
    assert message
    assert (message.content, message.finish_reason) == (turn.answer.text, turn.answer.finish_reason)
    assert message.params == {"n_ctx": 512, "max_tokens": 6, "n_threads": 1, "seed": 1, "temperature": 0.5}
    assert message.model == "tiny"
    assert message.timings["predicted_n"] <= 6
    assert on_disk(controller) == controller.session.conversation.path()
    assert controller.session.conversation.path()[-1] == message


def test_an_answer_that_is_closed_early_keeps_its_text(controller: ChatController) -> None:
    controller.session.add("user", "the river")
    turn = controller.answer(controller.session.conversation.path())
    parts = turn.parts()
    texts = [next(parts)[1], next(parts)[1]]
    parts.close()
    assert turn.message
    assert (turn.message.content, turn.message.finish_reason) == ("".join(texts), "interrupt")
    assert on_disk(controller)[-1] == turn.message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(ConstraintError("no token fits"), "error"), (KeyboardInterrupt(), "interrupt"), (MemoryError(), "error")],
)
def test_an_answer_that_fails_keeps_its_text(
    controller: ChatController, monkeypatch: pytest.MonkeyPatch, fault: BaseException, reason: str
) -> None:
    monkeypatch.setattr(controller.engine, "generate", scripted("I ", "see", fault))
    controller.session.add("user", "the river")
    turn = controller.answer(controller.session.conversation.path())
    with pytest.raises(type(fault)):
        list(turn.parts())
    assert turn.message
    assert (turn.message.content, turn.message.finish_reason) == ("I see", reason)
    assert on_disk(controller)[-1] == turn.message


def test_an_answer_without_text_is_not_saved(controller: ChatController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller.engine, "generate", scripted(ConstraintError("no token fits")))
    controller.session.add("user", "the river")
    turn = controller.answer(controller.session.conversation.path())
    with pytest.raises(ConstraintError):
        list(turn.parts())
    assert turn.message is None
    assert [message.role for message in on_disk(controller)] == ["user"]


def test_a_stop_during_the_prompt_saves_nothing(controller: ChatController) -> None:
    local = controller.engine
    assert local
    expected = ask(controller, "the river", temperature=Fixed(0.0)).answer.text
    path = controller.session.conversation.path()[:1]
    turn = controller.answer(path)
    turn.answer.request.progress = lambda _done, _total: turn.answer.request.cancellation.set()
    local.warm([1])
    list(turn.parts())
    assert turn.answer.finish_reason == "interrupt"
    assert turn.message is None or turn.message.content == turn.answer.text != ""
    again = controller.answer(path, {"temperature": Fixed(0.0)})
    list(again.parts())
    assert again.answer.text == expected


# Going on


def test_a_continued_answer_is_a_new_branch(controller: ChatController) -> None:
    last = unfinished_answer(controller, " the moon")
    turn, shown = continue_answer(controller, last, " is", " far")
    assert turn.answer.prompt.text.endswith("Assistant: the moon")
    assert "".join(text for _, text in shown) == " is far"
    assert turn.message.content == " the moon is far"
    assert turn.message.parent == last.parent
    assert controller.session.conversation.messages[last.id] == last
    assert on_disk(controller)[-1] == turn.message


def test_a_continued_answer_without_new_text_stays_as_it_is(controller: ChatController) -> None:
    last = unfinished_answer(controller, " the moon")
    turn, shown = continue_answer(controller, last)
    assert (turn.message, shown) == (None, [])
    assert controller.session.conversation.path()[-1] == last
    assert on_disk(controller)[-1] == last


def test_a_continued_answer_gets_no_prefill(controller: ChatController) -> None:
    controller.set("prefill", " well")
    turn, _ = continue_answer(controller, unfinished_answer(controller, " the moon"), " is")
    assert "well" not in turn.answer.prompt.text
    assert turn.message.content == " the moon is"


@pytest.mark.parametrize("template", [TELLS, OPENS, OPENS_SHORT])
def test_stopped_reasoning_continues_as_reasoning(controller: ChatController, template: str) -> None:
    controller.set("chat_template", template)
    turn, shown = continue_answer(
        controller, unfinished_answer(controller, "", "it is far"), " away", "\n</think>\n\n", "Far."
    )
    assert turn.answer.prompt.text.endswith("[assistant]<think>\nit is far")
    assert shown == [("think", " away"), ("answer", "Far.")]
    assert (turn.message.reasoning, turn.message.content) == ("it is far away", "Far.")


@pytest.mark.parametrize("template", [TELLS, OPENS, OPENS_SHORT])
def test_an_answer_after_reasoning_continues_as_answer(controller: ChatController, template: str) -> None:
    controller.set("chat_template", template)
    turn, shown = continue_answer(controller, unfinished_answer(controller, "Far", "it is far"), " away")
    assert turn.answer.prompt.text.endswith("[assistant]<think>\nit is far\n</think>\n\nFar")
    assert shown == [("answer", " away")]
    assert (turn.message.reasoning, turn.message.content) == ("it is far", "Far away")


def test_an_answer_without_reasoning_closes_the_open_tag(controller: ChatController) -> None:
    """As after an edit: text that the user wrote for the model is not reasoning."""
    controller.set("chat_template", OPENS)
    turn, _ = continue_answer(controller, unfinished_answer(controller, "Far"), " away")
    assert turn.answer.prompt.text.endswith("[assistant]<think>\n\n</think>\n\nFar")
    assert turn.message.content == "Far away"


def test_an_interrupt_of_the_reasoning_alone_is_kept(
    controller: ChatController, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.set("chat_template", OPENS)
    monkeypatch.setattr(controller.engine, "generate", scripted("it is", KeyboardInterrupt()))
    controller.session.add("user", "why")
    turn = controller.answer(controller.session.conversation.path())
    with pytest.raises(KeyboardInterrupt):
        list(turn.parts())
    assert turn.message
    assert (turn.message.reasoning, turn.message.content) == ("it is", "")
