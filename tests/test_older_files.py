"""Files of earlier versions are read, shown, continued and replayed."""

import json
import shutil
from pathlib import Path

import pytest

from llmcli.chat.replay import from_output, from_session
from llmcli.chat.sessions import listing, store
from llmcli.chat.sessions.session import Session
from llmcli.inference.trace_file import read_trace, to_data
from tests.conftest import Run

FILES = Path(__file__).parent / "fixtures" / "0.1"
OUTPUTS = {"generate.json": 1, "generate_raw.json": 1, "compare.json": 4}  # and the number of answers in each
ANSWERS = (3, 4, 6, 8, 10, 15, 16)  # ids of the messages of the session with replay data
# What may differ on another machine, or with another release of llama.cpp; settings, prompt and model may not.
OUTER = ("llama-cpp-python: ", "machine: ", "threads: ")


@pytest.fixture
def talk(home: Path) -> str:
    """The name of the session of the earlier version, in the folder of sessions."""
    folder = home / "data" / "sessions"
    folder.mkdir(parents=True)
    shutil.copy(FILES / "talk.jsonl", folder)
    return "talk"


def contents(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


def test_an_older_session_is_shown_and_exported_as_before(talk: str, inside: Run) -> None:
    for arguments, expected in (
        (("show", talk), "show.txt"),
        (("show", talk, "--all"), "show_all.txt"),
        (("export", talk), "talk.md"),
    ):
        ran = inside("sessions", *arguments)
        assert (ran.status, ran.stderr, ran.stdout) == (0, "", (FILES / expected).read_bytes())


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_an_older_session_is_exported_to_a_file_as_before(talk: str, tmp_path: Path, inside: Run, suffix: str) -> None:
    place = tmp_path / f"out.{suffix}"
    assert inside("sessions", "export", talk, str(place)).status == 0
    assert place.read_bytes() == (FILES / f"talk.{suffix}").read_bytes()


def test_an_older_session_is_listed_and_searched(talk: str) -> None:
    (summary,) = listing.session_summaries()
    assert (summary.n_messages, summary.n_branches, summary.title) == (5, 5, "Name a river.")
    assert [(hit.id, hit.number) for hit in listing.search("moon")] == [(9, 6), (10, 7), (12, 2), (13, 3)]


def test_an_older_session_is_continued(talk: str) -> None:
    session = Session.load(talk)
    assert session.notes == []
    assert session.conversation.head == 16
    assert [message.role for message in session.conversation.messages.values()].count("summary") == 1
    assert (session.character, sorted(session.overrides)) == (
        "",
        ["banned_strings", "max_tokens", "n_ctx", "seed", "temperature"],
    )
    before = contents(session)
    session.add("user", "Go on.")
    session.set("top_k", 3)
    session.close()
    again = Session.load(talk)
    assert contents(again) == [*before, "Go on."]
    assert again.overrides["top_k"] == 3
    assert again.notes == []
    again.close()


def test_lines_of_an_older_session_are_written_the_same(talk: str) -> None:
    session = Session.load(talk)
    session.copy("copy").close()
    session.close()
    old, new = (map(json.loads, store.path_of(name).read_text().splitlines()) for name in (talk, "copy"))
    assert [event for event in new if event["type"] == "message"] == [
        event for event in old if event["type"] == "message"
    ]


def test_the_unfinished_answer_of_an_older_session_is_recovered(talk: str) -> None:
    partial = store.partial_path(store.path_of(talk))
    partial.parent.mkdir()
    shutil.copy(FILES / "talk.partial", partial)
    session = Session.load(talk)
    assert session.notes == ["the last answer is not complete; /continue resumes it"]
    message = session.conversation.messages[17]
    assert (message.parent, message.reasoning, message.content) == (14, "Hm.", "Red, green")
    session.close()


def test_a_character_of_an_older_session_is_removed_with_its_settings(talk: str) -> None:
    path = store.path_of(talk)
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith('{"type":"message","id":3'))
    path.write_text("\n".join(lines[:end]) + "\n")
    session = Session.load(talk)
    assert session.character == "Captain Redbeard"
    session.remove_character()
    assert sorted(session.overrides) == ["max_tokens", "n_ctx", "seed"]
    session.close()


def test_the_answers_of_an_older_session_have_replay_data(talk: str) -> None:
    session = Session.read(talk)
    assert [one.id for one in session.conversation.messages.values() if one.replay] == list(ANSWERS)
    for number in ANSWERS:
        session.conversation.move(number)
        recorded = from_session(session, None)
        assert recorded.text == session.conversation.messages[number].content
        assert recorded.values["seed"] == 7
        assert recorded.manifest.to_data() == session.conversation.messages[number].replay


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_older_output_is_read_for_replay(name: str) -> None:
    text = (FILES / name).read_text()
    answers = from_output(text, name)
    data = json.loads(text)
    outputs = data.get("variants", [data])
    assert len(answers) == OUTPUTS[name]
    assert [answer.manifest.to_data() for answer in answers] == [one["replay"] for one in outputs]
    assert [answer.text for answer in answers] == [one["text"] for one in outputs]


def test_an_older_trace_is_read_and_written_the_same(inside: Run) -> None:
    path = FILES / "trace.jsonl"
    notes: list[str] = []
    tokens = read_trace(path, notes)
    assert (len(tokens), notes) == (16, [])
    assert [to_data(token) for token in tokens] == [json.loads(line) for line in path.read_text().splitlines()]
    assert inside("trace", "show", str(path), "--json").status == 0


@pytest.mark.parametrize("name", [*OUTPUTS, "session:talk:2", "session:talk:5", "session:talk"])
def test_an_older_answer_is_replayed(with_starter: Path, talk: str, inside: Run, name: str) -> None:
    ran = inside("replay", name if name.startswith("session:") else str(FILES / name), "--json", "-q")
    data = json.loads(ran.stdout)
    reasons = [reason for one in data.get("variants", [data]) for reason in one["reasons"]]
    assert [reason for reason in reasons if not reason.startswith(OUTER)] == []
    assert ran.status == 0 or reasons
