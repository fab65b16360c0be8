"""Commands that inspect an answer, in a chat with the starter."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.chat.inspect import last_answer
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.local import LocalEngine
from llmcli.params.policies.policy import Entropy
from llmcli.params.settings import Settings
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import dispatch, suggest
from tests.chat.controllers import controller_with, open_local
from tests.engine.drive import UNSTOPPED

ASKED = "What is a comet?"


@pytest.fixture(scope="module")
def engine(starter: Path) -> Iterator[LocalEngine]:
    model = open_local(starter, Settings(n_ctx=512, n_threads=1))
    yield model
    model.close()


class ChatRecorder:
    """A chat and its output: answers go to stdout, and what commands print to stderr."""

    def __init__(self, engine: LocalEngine, capfd: pytest.CaptureFixture[str]) -> None:
        self.chat = ChatApp(controller_with(engine, n_ctx=512, max_tokens=20, seed=3, temperature=Entropy(0.5, 1.4)))
        self._capfd = capfd
        self.answers = ""

    def send(self, text: str) -> str:
        """Send a message; returns the answer."""
        self.chat.send(text)
        self.answers, _ = self._capfd.readouterr()
        return self.answers.rstrip("\n")

    def command(self, name: str, argument: str = "") -> list[str]:
        """Run a command; returns the lines that it prints."""
        dispatch(self.chat, name, argument)
        self.answers, err = self._capfd.readouterr()
        return err.splitlines()

    def head(self) -> str:
        return self.chat.path()[-1].content


@pytest.fixture
def recorder(home: Path, engine: LocalEngine, capfd: pytest.CaptureFixture[str]) -> ChatRecorder:
    return ChatRecorder(engine, capfd)


def texts(recorder: ChatRecorder) -> list[str]:
    """Those of the tokens of the last answer."""
    assert recorder.chat.turn
    return [one.text for one in recorder.chat.turn.answer.traces if one.id is not None]


def test_why_takes_the_number_of_a_token_or_its_text(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    pieces = texts(recorder)
    number = next(at for at, text in enumerate(pieces) if text == " comet")
    by_number = recorder.command("why", str(number))
    assert by_number[0] == f'token {number} (0 to 19), after "{"".join(pieces[:number]).strip()}"'
    assert by_number[1].split()[:3] == ["model", "top_k", "top_p"]
    assert any(re.match(r"> +\d+ +␣comet ", line) for line in by_number)
    assert by_number[-1].startswith("sampled ")
    assert recorder.answers == ""
    for text in ("comet", '"comet"', "' comet'"):
        assert recorder.command("why", text) == by_number


def test_why_alone_takes_the_token_of_highest_entropy(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    assert recorder.chat.turn
    entropies = [one.entropy or 0.0 for one in recorder.chat.turn.answer.traces]
    number = entropies.index(max(entropies))
    err = recorder.command("why")
    assert err[0].startswith(f"least sure: token {number} (0 to 19), after ")
    assert err[1:] == recorder.command("why", str(number))[1:]
    assert f"entropy {max(entropies):.2f} nats" in "\n".join(err)


def test_token_numbers_of_a_continuation_start_again(recorder: ChatRecorder) -> None:
    before = recorder.send(ASKED)
    recorder.command("continue")
    assert recorder.command("why", "0")[0] == f'token 0 (0 to 19) of the continuation, after "…{before[-32:]}"'


def test_the_last_column_of_why_is_that_of_the_trace(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    assert recorder.chat.turn
    for one in recorder.chat.turn.answer.traces[:6]:
        drawn = recorder.command("why", str(one.i))[-1]
        shown = re.search(r", (<?[\d.]+)% of", drawn)
        assert shown
        assert float(shown[1]) == pytest.approx(100 * (one.p or 0), rel=0.006)


def test_alternatives_are_ranked_and_the_sampled_one_is_marked(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    err = recorder.command("alternatives", "2")
    assert err[1].split() == ["K", "TOKEN", "BEFORE", "%", "AFTER", "%"]
    rows = [line.split() for line in err[2:-1]]
    assert [row[0].rstrip("*") for row in rows[:10]] == [str(rank) for rank in range(1, 11)]
    (drawn,) = [row for row in rows if row[0].endswith("*")]
    assert drawn[1].replace("␣", " ") == texts(recorder)[2]
    assert any(row[-2] == "-" for row in rows)
    assert err[-1] == "* was sampled; /branch 2 K continues from another candidate"


def test_a_branch_continues_from_another_candidate(recorder: ChatRecorder) -> None:
    answer = recorder.send(ASKED)
    pieces = texts(recorder)
    rows = [line.split() for line in recorder.command("alternatives", "4")[2:-1]]
    other = next(row for row in rows if not row[0].endswith("*") and row[1].startswith("␣"))
    first = recorder.chat.path()
    recorder.command("branch", f"4 {other[0]}")
    begun = "".join(pieces[:4]) + other[1].replace("␣", " ")
    assert recorder.head().startswith(begun)
    assert len(recorder.head()) > len(begun)
    assert recorder.answers.rstrip("\n") == recorder.head()
    assert [one.content for one in recorder.chat.path()[:-1]] == [ASKED]
    assert recorder.chat.session.conversation.messages[first[-1].id].content == answer
    recorder.command("branch", "1")
    assert recorder.head() == answer


def test_a_branch_of_a_continued_answer_keeps_its_beginning(recorder: ChatRecorder) -> None:
    whole = recorder.send(ASKED)
    recorder.command("continue")
    assert f'after "…{whole[-32:]}"' in recorder.command("why", "0")[0]
    pieces = texts(recorder)
    recorder.command("branch", "1 5")
    assert recorder.head().startswith(whole + pieces[0])
    assert not recorder.head().startswith(whole + pieces[0] + pieces[1])


def test_the_end_of_an_answer_is_a_candidate(recorder: ChatRecorder, engine: LocalEngine) -> None:
    recorder.send(ASKED)
    pieces = texts(recorder)
    inspector = last_answer(recorder.chat.controller, recorder.chat.turn).inspector
    found = inspector.inspect(4, engine.model.vocab.n_tokens, *UNSTOPPED)
    assert found
    end = next(one for one in found.stepwise.candidates if one.text == "<|im_end|>")
    err = recorder.command("branch", f"4 {end.rank}")
    assert recorder.head() == "".join(pieces[:4])
    assert err[-1] == "the answer ends there (/branches lists the earlier one)"


WRONG = [
    ("why", "20", "token 20 does not exist"),
    ("why", "9" * 5000, "token 9999"),
    ("why", "zebra", "'zebra' is not in the last answer"),
    ("why", '"7"', "'7' is not in the last answer"),  # a number in quotes is a text
    ("why", '""', "'' is not in the last answer"),
    ("alternatives", "99", "token 99 does not exist"),
    ("branch", "99 1", "token 99 does not exist"),
    ("branch", "1 0", "candidate 0 does not exist"),
    ("branch", "1 999999999999", "candidate 9999"),
    ("branch", "one two", "takes two numbers"),
    ("branch", "1 x", "takes two numbers"),
    ("branch", "7", "branch 7 does not exist"),
    ("branch", "1 2 3", "branch 1 2 3 does not exist"),
]


def test_a_wrong_number_is_an_error_and_changes_nothing(recorder: ChatRecorder) -> None:
    assert "7" not in recorder.send(ASKED)
    path = recorder.chat.path()
    for name, argument, message in WRONG:
        with pytest.raises(UsageError, match=re.escape(message)) as caught:
            recorder.command(name, argument)
        assert caught.value.hint
        assert recorder.chat.path() == path


def test_branch_refuses_the_candidate_of_the_answer(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    (drawn,) = [row for row in recorder.command("alternatives", "3") if re.match(r" *\d+\* ", row)]
    with pytest.raises(UsageError, match="is the token of this answer"):
        recorder.command("branch", f"3 {drawn.split()[0].rstrip('*')}")


@pytest.mark.parametrize("name", ["why", "alternatives"])
def test_without_an_answer_inspection_fails_and_loads_no_model(chat: ChatApp, name: str) -> None:
    chat.session.add("user", "hi")
    with pytest.raises(UsageError, match="no answer yet"):
        dispatch(chat, name, "")


def test_a_branch_without_room_changes_nothing(recorder: ChatRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.send(ASKED)
    head = recorder.head()

    def full(*_: object) -> None:
        raise ContextOverflowError("the conversation is too long")

    monkeypatch.setattr("llmcli.ui.chat.app.ChatApp.resolve_overflow", full)
    with pytest.raises(ContextOverflowError):
        recorder.command("branch", "2 4")
    assert recorder.head() == head


def test_an_answer_of_an_earlier_chat_is_inspected_with_a_note(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    recorder.chat.turn = None
    err = recorder.command("why", "2")
    assert err[-1].startswith("this answer is from an earlier chat")
    assert recorder.command("why")[0].startswith("least sure: token ")
    recorder.command("branch", "2 3")
    assert recorder.head()


def test_a_sampler_whose_state_was_reset_is_named(recorder: ChatRecorder) -> None:
    recorder.chat.controller.set("xtc_probability", 0.5)
    recorder.chat.controller.set("xtc_threshold", 0.05)
    recorder.send(ASKED)
    assert recorder.command("why", "5")[-1].startswith("sampled ")
    assert recorder.chat.turn
    recorder.chat.turn.answer.traces[0] = recorder.chat.turn.answer.traces[1]  # another answer than the seed gives
    assert recorder.command("why", "5")[-1] == (
        "could not reproduce the answer exactly: xtc state was reset at this token"
    )


def test_an_inspection_does_not_change_later_answers(engine: LocalEngine, capfd: pytest.CaptureFixture[str]) -> None:
    def talk(look: bool) -> list[str]:
        engine.context.prefill(0, [1])  # nothing is known of the prompt
        recorder = ChatRecorder(engine, capfd)
        answers = [recorder.send(ASKED)]
        if look:
            recorder.command("why", "4")
            recorder.command("alternatives", "9")
        answers.append(recorder.send("And a star?"))
        if look:
            recorder.command("why")
        recorder.command("retry")
        return [*answers, recorder.head()]

    assert talk(True) == talk(False)


def test_completion_lists_tokens_and_candidates(recorder: ChatRecorder) -> None:
    recorder.send(ASKED)
    offered = {text: note for text, _, note in suggest(recorder.chat, "/why 1")}
    assert list(offered) == ["1", *(str(number) for number in range(10, 20))]
    assert offered["1"] == repr(texts(recorder)[1])
    assert [text for text, _, _ in suggest(recorder.chat, "/branch 3 ")] == []
    recorder.command("alternatives", "3")
    offered = {text: note for text, _, note in suggest(recorder.chat, "/branch 3 1")}
    assert list(offered)[:2] == ["3 1", "3 10"]
    assert offered["3 1"]
