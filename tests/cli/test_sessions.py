"""`llmcli sessions`, and which session `llmcli chat` opens."""

import json
import sys
from pathlib import Path

import pytest

from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.cli import sessions
from llmcli.cli.chat import open_session
from llmcli.config.config_file import set_value
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError
from tests.conftest import Run


@pytest.fixture
def saved() -> str:
    """The name of a session of two branches, one message with an escape sequence."""
    session = Session("talk")
    session.set("system", "Be brief.")
    session.add("user", 'say "hi" \x1b[31m\n')
    session.begin_answer(1, model="m")
    session.end_answer("first é 日本 🙂", "why", finish_reason="stop")
    session.conversation.move(1)
    session.begin_answer(1, model="m")
    session.end_answer("second\n\n", finish_reason="stop")
    session.close()
    return "talk"


def out(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_the_program_lists_removes_and_explains(run: Run, saved: str) -> None:
    """Once as a user runs it; the tests below call the functions of the commands."""
    listed = run("sessions")
    assert (listed.status, listed.stderr) == (0, "")
    assert [line.split()[:3] for line in listed.text.splitlines()] == [
        ["SESSION", "MESSAGES", "BRANCHES"],
        ["talk", "2", "2"],
    ]
    removed = run("sessions", "rm", "talk")
    assert (removed.status, removed.stdout) == (2, b"")
    assert removed.stderr == (
        "error: cannot ask for confirmation to delete 'talk' (not a terminal)\n  hint: use --yes\n"
    )
    wrong = run("sessions", "show", "tolk")
    assert wrong.status == 2
    error, hint = wrong.stderr.splitlines()
    assert error == "error: session not found: 'tolk'"
    assert hint.startswith("  hint: did you mean")
    assert "talk" in hint


def test_an_empty_list_is_a_note_or_empty_json(capfd: pytest.CaptureFixture[str]) -> None:
    sessions.list_sessions()
    assert "no sessions yet" in capfd.readouterr().err
    sessions.list_sessions(as_json=True)
    assert out(capfd) == "[]\n"


def test_the_json_of_lists_has_every_field(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.list_sessions(as_json=True)
    (one,) = json.loads(out(capfd))
    assert one["changed"] > 1e9
    about = {
        "name": "talk",
        "title": 'say "hi" \x1b[31m',
        "n_messages": 2,
        "n_branches": 2,
        "size": store.path_of(saved).stat().st_size,
    }
    assert {key: one[key] for key in about} == about
    assert sessions.search_sessions("SECOND", as_json=True) == ExitStatus.OK
    assert json.loads(out(capfd)) == [
        {"session": "talk", "id": 3, "role": "assistant", "excerpt": "second", "number": 2}
    ]
    assert sessions.search_sessions("nowhere", as_json=True) == ExitStatus.FAILED
    assert out(capfd) == "[]\n"


def test_a_search_prints_a_table_or_a_note(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.search_sessions("日本")
    assert out(capfd).splitlines()[1].split() == ["talk", "2", "model", "first", "é", "日本", "🙂"]
    assert sessions.search_sessions("nowhere") == ExitStatus.FAILED
    assert capfd.readouterr().err == "no message contains 'nowhere'\n"


def test_show_prints_the_current_branch_or_all(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.show_session(saved)
    assert out(capfd) == '1 you\nsay "hi" ␛[31m\n\n2 model\nsecond\n\n'
    sessions.show_session(saved, everything=True)
    assert out(capfd) == (
        'branch 1 of 2\n\n1 you\nsay "hi" ␛[31m\n\n2 model\nfirst é 日本 🙂\n\n'
        "branch 2 of 2, after message 1 (current)\n\n2 model\nsecond\n\n"
    )


def test_show_of_a_cleared_session_names_the_option_all(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    session = Session.load(saved)
    session.conversation.clear()
    session.close()
    for command in (sessions.show_session, sessions.export_session):
        command(saved)
        assert "show talk --all" in capfd.readouterr().err
    sessions.show_session(saved, everything=True)
    assert "second" in out(capfd)


def test_a_session_without_a_readable_message_is_an_error(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    store.path_of(saved).write_bytes(b"\x00\xffjunk\n" * 9)
    with pytest.raises(LlmcliError, match="session 'talk' has no messages"):
        sessions.show_session(saved)
    warned = capfd.readouterr().err.splitlines()
    assert warned[0] == "warning: talk.jsonl: skipped line 1, which is not valid"
    assert warned[-1] == "warning: talk.jsonl: 6 other problems"


def test_an_export_has_the_format_of_its_suffix(saved: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.export_session(saved)
    exported = out(capfd)
    assert exported.startswith("# talk\n\n## System prompt\n\nBe brief.\n\n## You\n\nsay")
    assert "\x1b[31m" in exported  # verbatim
    file = tmp_path / "talk.json"
    sessions.export_session(saved, str(file))
    assert capfd.readouterr().err == f"exported to {file}\n"
    data = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in data["messages"]] == ["system", "user", "assistant"]
    assert len(data["tree"]) == 3
    with pytest.raises(UsageError, match="already exists"):
        sessions.export_session(saved, str(file))
    file.write_text("old")
    sessions.export_session(saved, str(file), force=True)
    assert json.loads(file.read_text(encoding="utf-8")) == data
    with pytest.raises(UsageError, match="unknown export format"):
        sessions.export_session(saved, str(tmp_path / "talk.pdf"))
    with pytest.raises(DiskError, match="cannot write"):
        sessions.export_session(saved, str(tmp_path / "no folder" / "talk.md"))


def test_an_export_without_the_file_of_its_system_prompt_warns(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    session = Session.load(saved)
    session.unset("system")
    session.close()
    set_value("system", "@gone.md")
    sessions.export_session(saved)
    printed = capfd.readouterr()
    assert "the export has no system prompt: file not found: gone.md" in printed.err
    assert "second" in printed.out


def test_rm_asks_for_confirmation_on_a_terminal(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot ask for confirmation"):
        sessions.remove_sessions([saved])
    asked: list[str] = []

    def confirm(question: str, default: bool) -> bool:
        assert not default
        asked.append(question)
        return len(asked) == 2

    monkeypatch.setattr(sessions, "can_ask", lambda: True)
    monkeypatch.setattr(sessions, "confirm", confirm)
    assert sessions.remove_sessions([saved]) == ExitStatus.FAILED
    assert store.names() == [saved]
    assert sessions.remove_sessions([saved]) == ExitStatus.OK
    assert store.names() == []
    assert asked == ["Delete 'talk' permanently?"] * 2


def test_rm_deletes_several_sessions_or_none(saved: str) -> None:
    copied = Session.load(saved)
    copied.copy("other").close()
    with pytest.raises(UsageError, match="session 'talk' is open in another chat"):
        sessions.remove_sessions(["talk"], yes=True)
    copied.close()
    with pytest.raises(UsageError, match="session not found: 'third'"):
        sessions.remove_sessions(["talk", "third"], yes=True)
    assert sorted(store.names()) == ["other", "talk"]
    assert sessions.remove_sessions(["talk", "other", "talk"], yes=True) == ExitStatus.OK
    assert store.names() == []


def test_rename_changes_the_name_of_a_session(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    sessions.rename_session(saved, "ghost story")
    assert store.names() == ["ghost-story"]
    assert capfd.readouterr().err == "renamed to 'ghost-story'\n"
    with pytest.raises(UsageError, match="not a valid name"):
        sessions.rename_session("ghost-story", "../novel")


def test_the_command_alone_lists_the_sessions(saved: str, inside: Run) -> None:
    assert inside("sessions").text.startswith("SESSION")
    assert inside("sessions").text == inside("sessions", "list").text


def test_continue_opens_the_last_session_that_is_not_open(saved: str, capfd: pytest.CaptureFixture[str]) -> None:
    later = Session("later")
    later.add("user", "hi")
    store.path_of("zz").with_name("not a name.jsonl").write_text("{}\n")  # somebody's copy
    opened = open_session(go_on=True, name=None, keep=True)
    assert opened.name == "talk"
    later.close()
    second = open_session(go_on=True, name=None, keep=True)
    assert second.name == "later"
    third = open_session(go_on=True, name=None, keep=True)
    assert third.name == ""
    assert "this is a new session" in capfd.readouterr().err
    with pytest.raises(UsageError, match="session 'talk' is open in another chat"):
        open_session(go_on=False, name="talk", keep=True)
    for session in (opened, second):
        session.close()


@pytest.mark.parametrize(("go_on", "name", "keep"), [(True, "a", True), (True, None, False), (False, "a", False)])
def test_options_that_contradict_each_other_are_refused(go_on: bool, name: str | None, keep: bool) -> None:
    with pytest.raises(UsageError, match=r"cannot be used together|--no-save starts a new session"):
        open_session(go_on, name, keep)


def test_a_name_creates_a_session_or_opens_it(saved: str) -> None:
    fresh = open_session(go_on=False, name="fresh", keep=True)
    assert (fresh.name, fresh.conversation.messages) == ("fresh", {})
    opened = open_session(go_on=False, name="talk", keep=True)
    assert len(opened.conversation.messages) == 3
    opened.close()
    with pytest.raises(UsageError, match="not a valid name"):
        open_session(go_on=False, name="../talk", keep=True)


@pytest.mark.terminal
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_a_terminal_gets_no_escape_sequence_of_a_message(saved: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    shown = pexpect.run(f"{sys.executable} -m llmcli sessions show talk", timeout=60, encoding="utf-8")
    assert 'say "hi" ␛[31m' in shown
    assert "\x1b[31m" not in shown
