"""`llmcli sessions`, and which session `llmcli chat` opens."""

import json
import sys
from pathlib import Path

import pytest
import typer

from llmcli.chat import session_files as files
from llmcli.chat.session import Session
from llmcli.cli import sessions
from llmcli.cli.chat_session import open_session
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError
from tests.conftest import Run


@pytest.fixture
def talk() -> str:
    """A session of two branches with hostile words in it."""
    session = Session("talk")
    session.set("system", "Be brief.")
    session.say("user", 'say "hi" \x1b[31m\n')
    session.begin_answer(1, model="m")
    session.end_answer("first é 日本 🙂", "why", finish_reason="stop")
    session.move(1)
    session.begin_answer(1, model="m")
    session.end_answer("second\n\n", finish_reason="stop")
    session.close()
    return "talk"


def out(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_the_whole_way_through_the_program(run: Run, talk: str, tmp_path: Path) -> None:
    """Once as a user runs it; what follows calls the commands themselves."""
    listed = run("sessions")
    assert (listed.status, listed.stderr) == (0, "")
    assert listed.text.splitlines()[1].split()[:2] == ["talk", "3"]
    removed = run("sessions", "rm", "talk")
    assert (removed.status, removed.stdout) == (2, b"")
    assert "say --yes" in removed.stderr
    wrong = run("sessions", "show", "tolk")
    assert wrong.status == 2
    assert wrong.stderr == 'error: there is no session called tolk; did you mean "talk"?\n'


def test_an_empty_folder_is_told_and_json_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert sessions.list_sessions() == ExitStatus.OK
    assert "no sessions yet" in capfd.readouterr().err
    assert sessions.list_sessions(as_json=True) == ExitStatus.OK
    assert out(capfd) == "[]\n"


def test_json_of_a_list_and_of_a_search_has_the_fields_by_name(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.list_sessions(as_json=True)
    (one,) = json.loads(out(capfd))
    assert one["changed"] > 1e9
    about = {"name": "talk", "title": 'say "hi" \x1b[31m', "n_messages": 3, "size": files.path_of(talk).stat().st_size}
    assert {key: one[key] for key in about} == about
    assert sessions.search_sessions("SECOND", as_json=True) == ExitStatus.OK
    assert json.loads(out(capfd)) == [{"session": "talk", "id": 3, "role": "assistant", "excerpt": "second"}]
    assert sessions.search_sessions("nowhere", as_json=True) == ExitStatus.FAILED
    assert out(capfd) == "[]\n"


def test_a_search_is_a_table_or_one_line_that_nothing_was_found(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.search_sessions("日本")
    assert out(capfd).splitlines()[1].split() == ["talk", "2", "assistant", "first", "é", "日本", "🙂"]
    assert sessions.search_sessions("nowhere") == ExitStatus.FAILED
    assert capfd.readouterr().err == "no session holds 'nowhere'\n"


def test_show_prints_the_present_branch_or_all(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.show_session(talk)
    assert out(capfd) == '1 user\nsay "hi" \x1b[31m\n\n3 assistant\nsecond\n\n'
    sessions.show_session(talk, everything=True)
    assert "2 assistant (after 1)\nfirst é 日本 🙂\n\n3 assistant (after 1)\n" in out(capfd)


def test_a_cleared_session_says_where_its_words_are(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    session = Session.load(talk)
    session.clear()
    session.close()
    for command in (sessions.show_session, sessions.export_session):
        assert command(talk) == ExitStatus.OK
        assert "show --all" in capfd.readouterr().err
    sessions.show_session(talk, everything=True)
    assert "second" in out(capfd)


def test_a_session_without_a_readable_message_is_told(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    files.path_of(talk).write_bytes(b"\x00\xffjunk\n" * 9)
    with pytest.raises(LlmcliError, match="talk holds no message"):
        sessions.show_session(talk)
    warned = capfd.readouterr().err.splitlines()
    assert warned[0] == "warning: talk.jsonl: line 1 cannot be read and was left out"
    assert warned[-1] == "warning: talk.jsonl: 6 more faults like these"


def test_an_export_is_what_its_name_says_and_replaces_nothing(
    talk: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sessions.export_session(talk)
    assert out(capfd).startswith("# talk\n\n## System\n\nBe brief.\n\n## You\n\nsay")
    file = tmp_path / "talk.json"
    sessions.export_session(talk, str(file))
    data = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in data["messages"]] == ["system", "user", "assistant"]
    assert len(data["tree"]) == 3
    with pytest.raises(UsageError, match="is there already"):
        sessions.export_session(talk, str(file))
    file.write_text("old")
    sessions.export_session(talk, str(file), force=True)
    assert json.loads(file.read_text(encoding="utf-8")) == data
    with pytest.raises(UsageError, match="cannot tell the form"):
        sessions.export_session(talk, str(tmp_path / "talk.pdf"))
    with pytest.raises(DiskError, match="cannot write"):
        sessions.export_session(talk, str(tmp_path / "no folder" / "talk.md"))


def test_an_export_goes_without_the_file_of_a_system_prompt_that_is_gone(
    talk: str, capfd: pytest.CaptureFixture[str]
) -> None:
    session = Session.load(talk)
    session.set("system", "@gone.md")
    session.close()
    assert sessions.export_session(talk) == ExitStatus.OK
    told = capfd.readouterr()
    assert "the system prompt is left out: cannot read gone.md" in told.err
    assert "second" in told.out


def test_rm_asks_where_somebody_can_answer(talk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nobody can be asked"):
        sessions.remove_sessions([talk])
    asked: list[str] = []

    def confirm(question: str, default: bool) -> bool:
        assert not default
        asked.append(question)
        return len(asked) == 2

    monkeypatch.setattr(sessions, "can_ask", lambda: True)
    monkeypatch.setattr(sessions, "confirm", confirm)
    assert sessions.remove_sessions([talk]) == ExitStatus.FAILED
    assert files.names() == [talk]
    assert sessions.remove_sessions([talk]) == ExitStatus.OK
    assert files.names() == []
    assert asked == ["remove talk for good?"] * 2


def test_rm_takes_several_and_none_where_one_is_not_there(talk: str) -> None:
    copied = Session.load(talk)
    copied.copy("other").close()
    with pytest.raises(UsageError, match="another chat has the session talk open"):
        sessions.remove_sessions(["talk"], yes=True)
    copied.close()
    with pytest.raises(UsageError, match="no session called third"):
        sessions.remove_sessions(["talk", "third"], yes=True)
    assert sorted(files.names()) == ["other", "talk"]
    assert sessions.remove_sessions(["talk", "other", "talk"], yes=True) == ExitStatus.OK
    assert files.names() == []


def test_rename_moves_a_session_that_is_free(talk: str) -> None:
    assert sessions.rename_session(talk, "novel") == ExitStatus.OK
    assert files.names() == ["novel"]
    with pytest.raises(UsageError, match="is not a valid name"):
        sessions.rename_session("novel", "../novel")


def test_the_bare_command_lists(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.default(typer.Context(typer.main.get_command(sessions.app)))
    assert out(capfd).startswith("SESSION")


def test_continue_takes_the_last_session_that_is_free(talk: str, capfd: pytest.CaptureFixture[str]) -> None:
    later = Session("later")
    later.say("user", "hi")
    files.path_of("zz").with_name("not a name.jsonl").write_text("{}\n")  # somebody's copy
    opened = open_session(go_on=True, name=None, keep=True)
    assert opened.name == "talk"
    later.close()
    second = open_session(go_on=True, name=None, keep=True)
    assert second.name == "later"
    third = open_session(go_on=True, name=None, keep=True)
    assert third.name == ""
    assert "this is a new one" in capfd.readouterr().err
    with pytest.raises(UsageError, match="another chat has the session talk open"):
        open_session(go_on=False, name="talk", keep=True)
    for session in (opened, second):
        session.close()


@pytest.mark.parametrize(("go_on", "name", "keep"), [(True, "a", True), (True, None, False), (False, "a", False)])
def test_what_cannot_go_together_is_refused(go_on: bool, name: str | None, keep: bool) -> None:
    with pytest.raises(UsageError):
        open_session(go_on, name, keep)


def test_a_name_begins_a_session_or_opens_it(talk: str) -> None:
    fresh = open_session(go_on=False, name="fresh", keep=True)
    assert (fresh.name, fresh.conversation.messages) == ("fresh", {})
    opened = open_session(go_on=False, name="talk", keep=True)
    assert len(opened.conversation.messages) == 3
    opened.close()
    with pytest.raises(UsageError, match="is not a valid name"):
        open_session(go_on=False, name="../talk", keep=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_on_a_terminal_no_escape_sequence_of_a_message_is_obeyed(talk: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    shown = pexpect.run(f"{sys.executable} -m llmcli sessions show talk", encoding="utf-8")
    assert 'say "hi" ␛[31m' in shown
    assert "\x1b[31m" not in shown
