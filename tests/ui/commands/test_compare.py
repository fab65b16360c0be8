"""/compare and /keep: the request, the answers on the screen, and the statistics below them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.sessions.session import Session
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from llmcli.text import parse_command
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands import registry
from llmcli.ui.commands.compare import split_arguments
from tests.chat.controllers import ask, controller_with, open_local
from tests.models.tiny_models import full_attention


@pytest.mark.parametrize(
    ("argument", "question", "specs", "n"),
    [
        ("temp=0.2,0.8", "", ["temp=0.2,0.8"], 1),
        ("What's a comet? temp=0.2,0.8 top_p=0.9,1 n=3", "What's a comet?", ["temp=0.2,0.8", "top_p=0.9,1"], 3),
        ("n=2", "", [], 2),
        ("Why? answers=4 temp=0,1", "Why?", ["temp=0,1"], 4),
        ("Why? n=2 temp=1;2", "Why?", ["temp=1;2"], 2),
        ("Solve y = 3 for x=5 temp=0,1", "Solve y = 3 for x=5", ["temp=0,1"], 1),
        ('Hi system="Be brief.;Be long."', "Hi", ["system=Be brief.;Be long."], 1),
        ("Hi\nthere  top-k=1,2", "Hi\nthere", ["top-k=1,2"], 1),
        ("Why?", "Why?", [], 1),
        ("", "", [], 1),
    ],
)
def test_settings_follow_the_question(argument: str, question: str, specs: list[str], n: int) -> None:
    assert split_arguments(argument) == (question, specs, n)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("Why? tmp=1,2", "unknown setting 'tmp'"),
        ("n=0", "n must be an integer of at least 1, got '0'"),
        ("answers=two temp=1,2", "answers must be an integer of at least 1, got 'two'"),
    ],
)
def test_an_unknown_setting_or_count_is_an_error(argument: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        split_arguments(argument)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    made = open_local(path, Settings(n_ctx=512, n_threads=1))
    yield made
    made.close()


@pytest.fixture
def controller(engine: LocalEngine, home: Path) -> Iterator[ChatController]:
    controller = controller_with(engine, n_ctx=512, max_tokens=6, session=Session())
    yield controller
    controller.session.close()


@pytest.fixture
def chat(controller: ChatController) -> ChatApp:
    return ChatApp(controller)


def type_command(chat: ChatApp, line: str) -> None:
    parsed = parse_command(line)
    assert parsed
    registry.dispatch(chat, *parsed)


def contents(chat: ChatApp) -> list[str]:
    return [message.content for message in chat.path()]


def test_compare_answers_the_last_question_and_adds_nothing(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    ask(chat.controller, "the river")
    before = dict(chat.session.conversation.messages)
    capfd.readouterr()
    type_command(chat, "/compare temp=0.2,1.5")
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if line.startswith("== ")] == ["== temp=0.2 ==", "== temp=1.5 =="]
    assert "DISTINCT-2" in err
    assert "/keep N continues" in err
    assert chat.session.conversation.messages == before
    assert chat.compare_session
    assert chat.compare_session.question.content == "the river"


def test_keep_adds_a_new_question_with_its_answer(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    ask(chat.controller, "the river")
    before = contents(chat)
    type_command(chat, "/compare and the hill? temp=0.2,1.5 n=2")
    assert contents(chat) == before
    assert chat.compare_session
    wanted = chat.compare_session.comparison.answers[2].text
    type_command(chat, "/keep 3")
    assert contents(chat) == [*before, "and the hill?", wanted]
    assert "kept answer 3 (temp=1.5 #1)" in capfd.readouterr().err
    assert chat.turn is chat.compare_session.turns[2]
    assert chat.path()[-1].params["temperature"] == 1.5
    type_command(chat, "/keep 1")
    assert len(chat.session.conversation.leaves()) == 2
    assert contents(chat)[:3] == [*before, "and the hill?"]


def test_keep_adds_the_answer_beside_the_first_one(chat: ChatApp) -> None:
    first = ask(chat.controller, "the river").message
    type_command(chat, "/compare temp=0.2,1.5")
    type_command(chat, "/keep 2")
    assert len(chat.path()) == 2
    assert chat.path()[-1] != first
    assert first
    assert chat.path()[-1].parent == first.parent


def test_compare_uses_the_seed_of_the_session(chat: ChatApp) -> None:
    def compared() -> list[tuple[Any, str]]:
        type_command(chat, "/compare the river temp=0.8,1.5")
        assert chat.compare_session
        return [(one.settings.seed, one.text) for one in chat.compare_session.comparison.answers]

    first = compared()
    assert [seed for seed, _ in first] == [1, 1]
    assert compared() == first


def test_attached_files_go_with_the_kept_question(chat: ChatApp, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("abc")
    type_command(chat, f"/file {tmp_path / 'note.txt'}")
    type_command(chat, "/compare the river temp=0.2,1.5")
    assert len(chat.pending) == 1
    type_command(chat, "/keep 1")
    assert [one.text for one in chat.path()[0].attachments] == ["abc"]
    assert chat.pending == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/compare temp=0.2,0.8", "no question to answer"),
        ("/compare why", "no setting to compare"),
        ("/compare why prompt=a,b", "prompt cannot be set in a running chat"),
        ("/compare why n_ctx=512,1024", "n_ctx needs a model reload"),
        ("/keep 1", "no comparison yet"),
    ],
)
def test_compare_refuses_what_cannot_vary(chat: ChatApp, line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        type_command(chat, line)
    assert chat.session.conversation.messages == {}


def test_keep_needs_an_answer_of_this_session(chat: ChatApp) -> None:
    type_command(chat, "/compare the river temp=0.2,1.5")
    for line, says in (
        ("/keep", "needs an argument: /keep N"),
        ("/keep x", "takes a number"),
        ("/keep 3", "answer 3 does not exist"),
    ):
        with pytest.raises(UsageError, match=says):
            type_command(chat, line)
    chat.controller.session = Session()
    with pytest.raises(UsageError, match="no comparison yet"):
        type_command(chat, "/keep 1")


def test_a_question_without_room_is_not_added(chat: ChatApp) -> None:
    with pytest.raises(ContextOverflowError):
        type_command(chat, f"/compare {'a' * 600} temp=0.2,1.5")
    assert chat.session.conversation.messages == {}
    assert chat.compare_session is None


def test_a_failed_answer_is_reported_and_others_can_be_kept(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    engine = chat.controller.engine
    assert engine
    digits = [token for digit in "0123456789" for token in engine.tokenizer.tokenize(digit)[-1:]]
    type_command(chat, f"/logit_bias {json.dumps([[token, False] for token in digits])}")
    type_command(chat, "/compare the river grammar='root ::= [0-9]+;root ::= [a-z]+'")
    assert "error: grammar=root ::= [0-9]+: no token satisfies the constraints" in capfd.readouterr().err
    with pytest.raises(UsageError, match="answer 1 is empty"):
        type_command(chat, "/keep 1")
    type_command(chat, "/keep 2")
    assert chat.path()[-1].content.isalpha()


def test_keep_completes_numbers_with_their_labels(chat: ChatApp) -> None:
    type_command(chat, "/compare the river temp=0.2,1.5")
    complete = registry.commands()["keep"].complete
    assert complete
    assert list(complete(chat, "")) == [("1", "temp=0.2"), ("2", "temp=1.5")]
    assert list(complete(chat, "2")) == [("2", "temp=1.5")]
