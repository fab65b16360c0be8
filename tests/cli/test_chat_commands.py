"""Every slash command, in chats through a pipe: answers on stdout, what commands tell on stderr."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.ran import Ran

pytestmark = pytest.mark.usefixtures("with_starter")

FLAGS = ("--temp", "0", "-n", "8", "-c", "1024", "-t", "1")
LETTERS = (*FLAGS, "--grammar", "root ::= [a-z]+")  # so that the noise of the tiny model can be shown
CUT = "cut off: max_tokens is 8; /continue resumes"
COMET = "A comet is a small, icy particle"
STAR = "A star is a celestial body in the"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the chat is started in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def talk(run: Run, *lines: str, flags: tuple[str, ...] = FLAGS, env: dict[str, str] | None = None) -> Ran:
    """A chat of these lines; nothing in it may be a crash, and no escape sequence leaves through a pipe."""
    ran = run("chat", *flags, stdin="\n".join(lines) + "\n", env=env)
    assert "Traceback" not in ran.stderr
    assert "internal" not in ran.stderr
    assert b"\x1b" not in ran.stdout + ran.stderr.encode()
    return ran


def told(ran: Ran) -> list[str]:
    """What was said beside the answers."""
    return ran.stderr.splitlines()


def cells(ran: Ran, first: str) -> list[list[str]]:
    """The rows of tables that begin with `first`, cell by cell."""
    return [re.split(r"\s{2,}", line) for line in told(ran) if re.match(rf"{re.escape(first)}\s\s", line)]


def test_going_back_and_branching_loses_nothing(run: Run, here: Path) -> None:
    ran = talk(
        run, "What is a comet?", "/edit 1 What is a star?", "/undo", "/redo", "/retry temperature=0.5 seed=7",
        "/branches", "/branch 1", "/history", "/edit 2 A comet is ice.", "/history 1", "/clear", "/redo", "/redo",
    )  # fmt: skip
    assert ran.text.splitlines()[:2] == [COMET, STAR]
    assert len(ran.text.splitlines()) == 3
    lines = told(ran)
    assert lines[:4] == [CUT, CUT, "took back 2 messages, from 'What is a star?' on", "back at 2 messages"]
    table = [line for line in lines if re.match(r"\d\*? +2 ", line)]
    assert [row.split()[:3] for row in table] == [["1", "2", "0"], ["2", "2", "1"], ["3*", "2", "2"]]
    assert "temperature=0.5 seed=7" in table[2]
    assert sum(line.startswith("1 you") for line in lines) == 2  # /branch 1 shows where one is, /history all
    assert "message 2 is changed; /continue lets the model extend it" in lines
    assert any(re.match(r"2 model .* edited$", line) for line in lines)
    assert lines[-4:] == [
        "",
        "a new conversation; settings and system prompt stay",
        "back at 2 messages",
        "error: there is nothing to redo",
    ]
    assert ran.status == 2


def test_continue_and_an_edited_answer_go_on_where_the_text_ends(run: Run) -> None:
    whole = talk(run, "What is a comet?", flags=("--temp", "0", "-n", "16", "-c", "1024", "-t", "1"))
    ran = talk(run, "What is a comet?", "/continue", "/edit 2 A comet is made", "/continue", "/history")
    first, second, third = ran.text.splitlines()
    assert first == COMET
    assert second == whole.text.rstrip("\n")
    assert third.startswith("A comet is made")
    assert len(third) > len("A comet is made")
    assert ran.stderr.count(third) == 1  # in the history, whole
    assert ran.status == 0


def test_wrong_arguments_are_told_with_what_to_do_and_nothing_changes(run: Run, with_tiny: Path) -> None:
    wrong = {
        "/undo": "there is nothing to undo",
        "/undo x": "/undo takes the number of turns; as in /undo 2",
        "/redo": "there is nothing to redo",
        "/branch 4": "there is no branch 4; /branches lists them",
        "/branch": "there is no branch without a number; /branches lists them",
        "/fork": "/fork needs a name for the new session; as in /fork other-ending",
        "/history 0": "/history takes the number of messages; as in /history 4",
        "/retry": "there is no question to answer again; say something first",
        "/continue": "there is no answer to go on with; /retry answers the last message",
        "/edit": "nothing was said yet; say something first",
        "/edit 3": "there is no message 3; /history shows their numbers",
        "/save": "/save needs a name; as in /save novel",
        "/load": "/load needs a name; /sessions lists them",
        "/load gone": "there is no session called gone; see `llmcli sessions`",
        "/rename": "/rename needs a name; as in /rename novel",
        "/export": "/export needs a file; as in /export talk.md",
        "/export t.md": "there is nothing to export; say something first",
        "/file": "/file needs the name of a file; as in /file notes.txt",
        "/file gone.txt": "file not found: gone.txt",
        "/file 'a": "/file: No closing quotation; quote a name that has spaces",
        "/copy": "there is no answer to copy",
        "/copy 7": "there is no message 7; /history shows their numbers",
        "/compact x": "/compact takes the number of turns that stay; as in /compact 2",
        "/compact": "there is too little to summarize; /context shows what fills the context",
        "/preset save": "/preset save needs a name; as in /preset save dialogue",
        "/preset save mine": "nothing was set in this session; set something first, as in /temp 1.2",
        "/preset gone": "there is no preset 'gone'; there are balanced",
        '/json {"type":': "json_schema is not valid JSON: Expecting value: line 1 column 9 (char 8)",
        "/system @gone.txt": "file not found: gone.txt",
        "/markdown maybe": "markdown must be true or false, got 'maybe'",
        "/reset gone": "unknown setting 'gone'",
        "/min_p 2": "min_p must be between 0 and 1, got 2",
        "/top_k 3.7": "top_k must be",
        "/temp warm": "temperature",
        "/prompt hi": "there is no command /prompt; see /help",
        "/set file x": "file cannot be set here; /file PATH adds a file to the next message",
        "/tmp 3": 'there is no command /tmp; did you mean "/temp"?',
        "/hlep": 'there is no command /hlep; did you mean "/help"?',
        "/help hlep": "there is no command /hlep",
        "/xyzzyxyzzy": "there is no command /xyzzyxyzzy; see /help",
    }
    ran = talk(run, *wrong)
    assert ran.stdout == b""
    lines = told(ran)
    assert len(lines) == len(wrong), lines
    for line, (command, meaning) in zip(lines, wrong.items(), strict=True):
        assert line.startswith(f"error: {meaning}"), command


def test_settings_are_set_shown_saved_as_a_preset_and_taken_back(run: Run, with_tiny: Path) -> None:
    ran = talk(
        run, "/temp 0.3..1.3", "/seed 7", "/top-k 5", "/mirostat_tau 3", "/params", "/preset save mine",
        "/reset top_k", "/reset", "/reset", "/preset mine", "/set", "/preset list", "/preset none", "/samplers",
        "/samplers temperature,top_k", "/top_p 0.5", "/samplers default", "/seed random", "/temp", "/exit", "/nope",
    )  # fmt: skip
    assert (ran.stdout, ran.status) == (b"", 0)
    lines = told(ran)
    assert lines[:4] == [
        "temperature = 0.3..1.3",
        "seed = 7",
        "top_k = 5",
        "mirostat_tau = 3, without effect: needs mirostat",
    ]
    assert [row[1:3] for row in cells(ran, "min_p")[:1]] == [["0.05", "default"]]
    assert [row[1:3] for row in cells(ran, "temperature")] == [["0.3..1.3", "session"], ["0.3..1.3", "preset"]]
    assert lines[-1].startswith("temperature = 0")
    assert [row[1:3] for row in cells(ran, "max_tokens")] == [["8", "flag"]] * 2
    assert cells(ran, "mirostat_tau")[0][1:3] == ["3", "session"]
    assert "inert: needs mirostat" in ran.stderr
    assert any(line.startswith("mine*") for line in lines)
    assert "back to what it was: top_k" in lines
    assert "back to what it was: temperature, seed, mirostat_tau" in lines
    assert "nothing was set in this session" in lines
    assert "no preset" in lines
    chain = [row[1] for row in (re.split(r"\s{2,}", line) for line in lines if re.match(r"\d  \w", line))]
    assert chain == ["top_k", "top_p", "min_p", "temperature", "dist"]
    assert "top_p = 0.5, without effect: top_p is not in samplers" in lines


def test_the_system_prompt_comes_from_a_text_a_file_and_an_editor(run: Run, here: Path, with_tiny: Path) -> None:
    (here / "sys.txt").write_text("You are terse.\n")
    editor = here / "ed"
    editor.write_text('#!/bin/sh\nprintf "%s, and kind." "$(cat "$1")" > "$1"\n')
    editor.chmod(0o755)
    ran = talk(
        run, "/system", "/system Be brief.", "/system", "/system @sys.txt", "/system", "/system edit", "/system",
        "hi", "/context", "/system none", "/system", flags=LETTERS, env={"EDITOR": str(editor)},
    )  # fmt: skip
    lines = [line for line in told(ran) if line != "the system prompt is changed"]
    assert lines[:4] == ["there is no system prompt", "Be brief.", "You are terse.", "You are terse., and kind."]
    assert any(re.match(r" +system +\d+ +\d+%  You are terse., and kind.", line) for line in lines)
    assert lines[-2:] == ["there is no system prompt now", "there is no system prompt"]


def test_sessions_are_named_copied_searched_and_exported(run: Run, here: Path) -> None:
    ran = talk(
        run, "/temp 0.5", "/temp 0", "What is a comet?", "/save first", "/save kept", "/fork other", "/load first",
        "/rename other", "/rename renamed", "/sessions", "/sessions icy", "/sessions zzz", "/export t.md",
        "/export t.md", "/export t.json", "/export t.html", "/export t.xyz", "/quit", "/nope",
    )  # fmt: skip
    lines = told(ran)
    for line in (
        "this session is first now; llmcli chat --session first opens it again",
        "a copy is kept as kept; this is still first",
        "this is other now; first stays as it is",
        "this is the session first, 2 messages",
        "error: there is a session called other already; choose another name",
        "this session is renamed now",
        "no session holds 'zzz'",
        "written to t.md",
        "error: t.md is there already; choose another name",
    ):
        assert lines.count(line) == 1, line
    assert all(cells(ran, name) for name in ("renamed*", "other", "kept"))
    assert lines[-1].startswith("error: cannot tell the form of 't.xyz'")  # /quit reads no more
    assert "What is a comet?" in (here / "t.md").read_text()
    assert COMET in (here / "t.html").read_text()
    assert COMET in json.dumps(json.loads((here / "t.json").read_text()))


def test_what_was_set_in_a_session_is_there_again_with_continue(run: Run, with_tiny: Path) -> None:
    talk(run, "/top_k 7", "/system Be brief.", "hi", "/seed 5", flags=LETTERS)
    ran = talk(run, "/system", "/params", "/history", flags=("--continue", "--min-p", "0.1"))
    assert [row[1:3] for key in ("top_k", "seed", "min_p") for row in cells(ran, key)] == [
        ["7", "session"],
        ["5", "session"],
        ["0.1", "flag"],
    ]
    assert "Be brief." in told(ran)
    assert "hi" in told(ran)
    assert ran.status == 0


def test_files_and_the_clipboard_go_with_the_next_message(run: Run, here: Path, with_tiny: Path) -> None:
    (here / "a.txt").write_text("alpha")
    (here / "b c.txt").write_text("beta")
    (here / "bin.dat").write_bytes(bytes(range(256)) * 9)
    tools = here / "tools"
    tools.mkdir()
    for name, body in (("xclip", f'case "$*" in *-out*) cat "{here}/clip";; *) cat > "{here}/clip";; esac'),):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    env = {"PATH": f"{tools}:/usr/bin:/bin", "DISPLAY": ":9"}
    ran = talk(
        run, "/file *.txt", "/file none", '/file "b c.txt"', "/file bin.dat", "read @a.txt", "/copy", "/paste",
        "/copy 1", "/copy code", "see @bin.dat", "/history", flags=LETTERS, env=env,
    )  # fmt: skip
    lines = told(ran)
    for line in (
        "with the next message: a.txt (5 characters), b c.txt (4 characters)",
        "no files go with the next message",
        "with the next message: b c.txt (4 characters)",
        "attached: a.txt",
    ):
        assert line in lines
    answer = ran.text.splitlines()[0]
    assert f"copied {len(answer)} characters to the clipboard" in lines
    assert f"with the next message: {len(answer)} characters from the clipboard" in lines
    assert (here / "clip").read_text() == "read @a.txt"
    assert sum(line.startswith("error: bin.dat ") for line in lines) == 2
    assert "error: the last answer has no code block; /copy alone copies all of it" in lines
    assert any(re.match(r"1 you \+b c.txt \+a.txt", line) for line in lines)
    assert len(ran.text.splitlines()) == 1


def test_another_model_takes_the_conversation_on_and_a_missing_one_changes_nothing(
    run: Run, here: Path, with_starter: Path
) -> None:
    (here / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    shutil.copy(with_starter, here / "copy.gguf")
    ran = talk(
        run, "/model ./gone.gguf", "What is a comet?", "/model ./bad.gguf", "/model", "/model ./copy.gguf",
        "/continue", "/model", "/reset model", "/retry", "/model",
    )  # fmt: skip
    lines = told(ran)
    assert lines[0].startswith("error: there is no file ")
    assert any(line.startswith("error: ") and "bad.gguf" in line for line in lines)
    assert [line for line in lines if line.endswith(", context 1024 tokens")][-1] == "starter, context 1024 tokens"
    assert any(line.startswith("this is ") and "copy" in line for line in lines)
    answers = ran.text.splitlines()
    assert answers[0] == answers[2] == COMET
    assert answers[1].startswith(COMET)
    assert len(answers[1]) > len(COMET)


def test_json_stop_and_think_shape_the_answer(run: Run) -> None:
    ran = talk(
        run, "/max_tokens 30", '/json {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}', "hi",
        "/json", "/json off", "/max_tokens 8", "/stop icy", "/stop", "What is a comet?", "/stop none", "/think hide",
        "/think", "/max_tokens 4", "/retry", "/stats",
    )  # fmt: skip
    answers = ran.text.splitlines()
    assert json.loads(answers[0]) == {"a": 1}
    assert answers[1:] == ["A comet is a small, ", "A comet is a"]
    lines = told(ran)
    assert "Ctrl-C stops an answer; answers end before 'icy'" in lines
    assert "no answer here has reasoning; think = hide" in lines
    assert any(re.match(r"answer +4 tokens", line) for line in lines)
    assert any(re.match(r"session +3 answers", line) for line in lines)


def test_help_names_every_command_and_explains_each(run: Run, with_tiny: Path) -> None:
    from llmcli.ui.commands.registry import commands

    ran = talk(run, "/help", *(f"/help {name}" for name in commands()), "/? top_k", "/multiline", "/multiline off",
               "/theme light", "/markdown off", "/bye", "/nope")  # fmt: skip
    lines = told(ran)
    for name, one in commands().items():
        assert any(line.startswith(f"  /{name}") for line in lines), name
        assert any(line.startswith(f"/{name}") for line in lines), name
        assert one.help in lines
    assert lines[-4:] == ["Enter makes a new line, Alt-Enter sends", "Enter sends", "theme = light", "markdown = false"]
    assert ran.status == 0  # what stands after /bye was not read
