"""Every slash command, in chats through a pipe: answers on stdout, messages of commands on stderr."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli_result import CliResult
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("with_starter")

FLAGS = ("--temp", "0", "-n", "8", "-c", "1024", "-t", "1")
LETTERS = (*FLAGS, "--grammar", "root ::= [a-z]+")  # so that the noise of the tiny model can be shown
CUT = "cut off: max_tokens is 8; /continue resumes"
UNDONE = [
    "removed 2 messages, starting at 'What is a star?' (/redo restores them); the messages before /edit are back",
    "restored: the conversation has 2 messages",
]
COMET = "A comet is a small, icy particle"
STAR = "A star is a celestial body in the"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the chat is started in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def talk(inside: Run, *lines: str, flags: tuple[str, ...] = FLAGS, env: dict[str, str] | None = None) -> CliResult:
    """A chat of these lines; it must not crash, and no escape sequence may go through a pipe."""
    ran = inside("chat", *flags, stdin="\n".join(lines) + "\n", env=env)
    assert "Traceback" not in ran.stderr
    assert "internal" not in ran.stderr
    assert b"\x1b" not in ran.stdout + ran.stderr.encode()
    return ran


def stderr_lines(ran: CliResult) -> list[str]:
    """The messages beside the answers."""
    return ran.stderr.splitlines()


def cells(ran: CliResult, first: str) -> list[list[str]]:
    """The rows of tables that begin with `first`, cell by cell."""
    return [re.split(r"\s{2,}", line) for line in stderr_lines(ran) if re.match(rf"{re.escape(first)}\s\s", line)]


def test_undo_and_branches_lose_no_message(inside: Run, here: Path) -> None:
    ran = talk(
        inside, "What is a comet?", "/edit 1 What is a star?", "/undo", "/redo", "/retry temperature=0.5 seed=7",
        "/branches", "/branch 1", "/history", "/edit 2 A comet is ice.", "/history 1", "/clear", "/redo", "/redo",
    )  # fmt: skip
    assert ran.text.splitlines()[:2] == [COMET, STAR]
    assert len(ran.text.splitlines()) == 3
    lines = stderr_lines(ran)
    assert lines[:4] == [CUT, CUT, *UNDONE]
    table = [line for line in lines if re.match(r"\d\*? +2 ", line)]
    assert [row.split()[:3] for row in table] == [["1", "2", "0"], ["2", "2", "1"], ["3*", "2", "2"]]
    assert "temperature=0.5 seed=7" in table[2]
    assert sum(line.startswith("1 you") for line in lines) == 2  # by /branch 1 and by /history
    assert "message 2 is changed; /continue lets the model extend it" in lines
    assert any(re.match(r"2 model .* edited$", line) for line in lines)
    assert lines[-5:] == [
        "",
        "new conversation; settings and system prompt stay (/redo restores the earlier one)",
        "restored: the conversation has 2 messages",
        "error: nothing to redo",
        "  hint: for another answer, use /retry",
    ]
    assert ran.status == 2


def test_continue_extends_an_answer_and_an_edited_one(inside: Run) -> None:
    whole = talk(inside, "What is a comet?", flags=("--temp", "0", "-n", "16", "-c", "1024", "-t", "1"))
    ran = talk(inside, "What is a comet?", "/continue", "/edit 2 A comet is made", "/continue", "/history")
    first, second, third = ran.text.splitlines()
    assert first == COMET
    assert first + second == whole.text.rstrip("\n")  # a pipe gets only the continuation
    assert third.startswith("A comet is made")
    assert len(third) > len("A comet is made")
    assert ran.stderr.count(third) == 1  # in the history, whole
    assert ran.status == 0


def errors(ran: CliResult) -> list[str]:
    """The errors, each with its hint behind an arrow."""
    return re.findall(r"^error: (.*)", re.sub(r"\n  hint: ", " -> ", ran.stderr), re.MULTILINE)


def test_a_wrong_argument_is_one_error_with_a_hint(inside: Run, with_tiny: Path) -> None:
    wrong = {
        "/undo": "nothing to undo",
        "/undo x": "/undo takes a number, got 'x' -> try /undo 2",
        "/redo": "nothing to redo -> ",
        "/branch 4": "branch 4 does not exist -> see the numbers in /branches",
        "/branch": "/branch needs an argument: /branch N [K] -> try /branch 2",
        "/fork": "/fork needs an argument: /fork NAME -> try /fork other-ending",
        "/history 0": "/history takes a number of at least 1, got '0' -> try /history 4",
        "/retry": "no message to answer again -> send a message first",
        "/continue": "no answer to continue -> use /retry to answer the last message",
        "/edit": "the conversation is empty -> send a message first",
        "/edit 3": "message 3 does not exist -> see the numbers in /history",
        "/save": "/save needs an argument: /save NAME -> try /save novel",
        "/load": "/load needs an argument: /load NAME -> try /load novel",
        "/load gone": "session not found: 'gone' -> list the sessions with /sessions",
        "/rename": "/rename needs an argument: /rename NAME -> try /rename novel",
        "/export": "/export needs an argument: /export FILE -> try /export talk.md",
        "/export t.md": "the conversation is empty: nothing to export -> send a message first",
        "/file": "/file needs a file name -> try /file notes.txt",
        "/file gone.txt": "file not found: gone.txt",
        "/file 'a": "/file: No closing quotation -> quote a name that contains spaces",
        "/copy": "no answer to copy -> send a message first",
        "/copy 7": "message 7 does not exist -> see the numbers in /history",
        "/compact x": "/compact takes a number, got 'x' -> try /compact 4",
        "/compact": "the conversation is too short to summarize",
        "/preset save": "/preset save needs a name -> try /preset save mine",
        "/preset save mine": "no setting was changed in this session -> change one first, for example /temp 1.2",
        "/preset gone": "unknown preset 'gone' -> use one of balanced",
        '/json {"type":': "json_schema is not valid JSON: Expecting value: line 1 column 9 (char 8)",
        "/system @gone.txt": "file not found: gone.txt",
        "/markdown maybe": "markdown must be true or false, got 'maybe'",
        "/think maybe": "/think must be on, off or hide, got 'maybe'",
        "/reset gone": "unknown setting 'gone'",
        "/min_p 2": "min_p must be between 0 and 1, got 2",
        "/top_k 3.7": "top_k must be",
        "/temp warm": "temperature",
        "/prompt hi": "unknown command '/prompt' -> use /system",
        "/set file x": "file cannot be set in a running chat",
        "/tmp 3": "unknown command '/tmp' -> did you mean '/temp'?",
        "/hlep": "unknown command '/hlep' -> did you mean '/help'?",
        "/help hlep": "the help does not contain 'hlep' -> did you mean '/help'? see /help all",
        "/ctx 512": "unknown command '/ctx' -> use /n_ctx",
        "/temp_policy_file gone.py:wave": "cannot read the policy file gone.py",
        "/xyzzyxyzzy": "unknown command '/xyzzyxyzzy' -> see /help",
        "/logprobs": "unknown command '/logprobs' -> use /why or /tokens",
        "/dynatemp 0.3..1.3": "unknown command '/dynatemp' -> use /temp",
        "/retry more creative": "/retry takes settings as KEY=VALUE, got 'more' -> try /retry temperature=1.2",
    }
    ran = talk(inside, *wrong)
    assert ran.stdout == b""
    shown = errors(ran)
    assert len(shown) == len(wrong), shown
    for line, (command, meaning) in zip(shown, wrong.items(), strict=True):
        assert line.startswith(meaning), command


def test_settings_are_set_shown_saved_and_reset(inside: Run, with_tiny: Path) -> None:
    ran = talk(
        inside, "/temp 0.3..1.3", "/seed 7", "/top-k 5", "/mirostat_tau 3", "/params", "/preset save mine",
        "/reset top_k", "/reset", "/reset", "/preset mine", "/set", "/preset list", "/preset none", "/samplers",
        "/samplers temperature,top_k", "/top_p 0.5", "/samplers default", "/seed random", "/temp", "/exit", "/nope",
    )  # fmt: skip
    assert (ran.stdout, ran.status) == (b"", 0)
    lines = stderr_lines(ran)
    assert lines[:4] == [
        "temperature = 0.3..1.3",
        "seed = 7",
        "top_k = 5",
        "mirostat_tau = 3 (no effect: needs mirostat)",
    ]
    assert [row[1:3] for row in cells(ran, "min_p")[:1]] == [["0.05", "default"]]
    assert [row[1:3] for row in cells(ran, "temperature")] == [["0.3..1.3", "session"], ["0.3..1.3", "preset"]]
    assert lines[-1].startswith("temperature = 0")
    assert [row[1:3] for row in cells(ran, "max_tokens")] == [["8", "flag"]] * 2
    assert cells(ran, "mirostat_tau")[0][1:3] == ["3", "session"]
    assert "no effect: needs mirostat" in ran.stderr
    assert any(line.startswith("mine*") for line in lines)
    assert "reset: top_k" in lines
    assert "reset: temperature, seed, mirostat_tau" in lines
    assert "no setting was changed in this session" in lines
    assert "no preset" in lines
    chain = [row[1] for row in (re.split(r"\s{2,}", line) for line in lines if re.match(r"\d  \w", line))]
    assert chain == ["top_k", "top_p", "min_p", "temperature", "dist"]
    assert "top_p = 0.5 (no effect: top_p is not in samplers)" in lines


def test_a_model_that_cannot_be_loaded_gets_a_command_as_hint(inside: Run, here: Path, with_tiny: Path) -> None:
    (here / "cut.gguf").write_bytes(with_tiny.read_bytes()[:-1000])
    first = talk(inside, "Hi", "/model", flags=("-m", "cut.gguf", *FLAGS))
    hint = "  hint: download it again, or use another model with /model NAME"
    assert stderr_lines(first)[-2:] == [hint, "model: cut.gguf (not loaded)"]
    second = talk(inside, "/model cut.gguf", "/flash_attn off", "/cache_type_v q4_0", "Hi")
    assert hint in stderr_lines(second)
    assert stderr_lines(second)[-1] == "  hint: use /flash_attn on, or /cache_type_v f16"


def test_a_chat_tells_once_of_a_variable_no_template_reads(inside: Run, with_tiny: Path) -> None:
    template = '/chat_template "{{ x }}{{ messages[-1].content }}"'
    ran = talk(inside, template, "/template_arg y=1", "Hi", "Hi", "/template_arg x=1", "Hi")
    assert ran.stderr.count("template_arg y has no effect: the chat template does not read it\n  hint: it reads x") == 1
    assert ran.stderr.count("no effect") == 1


def test_system_takes_a_text_a_file_or_the_editor(inside: Run, here: Path, with_tiny: Path) -> None:
    (here / "sys.txt").write_text("You are terse.\n")
    editor = here / "ed"
    editor.write_text('#!/bin/sh\nprintf "%s, and kind." "$(cat "$1")" > "$1"\n')
    editor.chmod(0o755)
    ran = talk(
        inside, "/system", "/system Be brief.", "/system", "/system @sys.txt", "/system", "/system edit", "/system",
        "hi", "/context", "/system none", "/system", flags=LETTERS, env={"EDITOR": str(editor)},
    )  # fmt: skip
    lines = [line for line in stderr_lines(ran) if line != "system prompt changed"]
    assert lines[:4] == ["no system prompt", "Be brief.", "You are terse.", "You are terse., and kind."]
    assert any(re.match(r" +system +\d+ +\d+%  You are terse., and kind.", line) for line in lines)
    assert lines[-2:] == ["system prompt removed", "no system prompt"]


def test_sessions_are_saved_copied_searched_and_exported(inside: Run, here: Path) -> None:
    ran = talk(
        inside, "/temp 0.5", "/temp 0", "What is a comet?", "/save first", "/save kept", "/fork other", "/load first",
        "/rename other", "/rename renamed", "/sessions", "/sessions icy", "/sessions zzz", "/export t.md",
        "/export t.md", "/export t.json", "/export t.html", "/export t.xyz", "/quit", "/nope",
    )  # fmt: skip
    lines = stderr_lines(ran)
    for line in (
        "saved as first (open it again with `llmcli chat --session first`)",
        "saved a copy as kept; this session is still first",
        "session other (a copy of first, which stays as it is)",
        "session first, 2 messages",
        "error: session 'other' already exists",
        "renamed to renamed",
        "no message contains 'zzz'",
        f"exported to {here / 't.md'}",
        "error: t.md already exists",
    ):
        assert lines.count(line) == 1, line
    assert all(cells(ran, name) for name in ("renamed*", "other", "kept"))
    assert lines[-2].startswith("error: unknown export format: 't.xyz'")  # /quit reads no more
    assert "What is a comet?" in (here / "t.md").read_text()
    assert COMET in (here / "t.html").read_text()
    assert COMET in json.dumps(json.loads((here / "t.json").read_text()))


def test_continue_restores_the_settings_of_a_session(inside: Run, with_tiny: Path) -> None:
    talk(inside, "/top_k 7", "/system Be brief.", "hi", "/seed 5", flags=LETTERS)
    ran = talk(inside, "/system", "/params", "/history", flags=("--continue", "--min-p", "0.1"))
    assert [row[1:3] for key in ("top_k", "seed", "min_p") for row in cells(ran, key)] == [
        ["7", "session"],
        ["5", "session"],
        ["0.1", "flag"],
    ]
    assert "Be brief." in stderr_lines(ran)
    assert "hi" in stderr_lines(ran)
    assert ran.status == 0


def test_files_and_clipboard_are_attached_to_a_message(inside: Run, here: Path, with_tiny: Path) -> None:
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
        inside, "/file *.txt", "/file none", '/file "b c.txt"', "/file bin.dat", "read @a.txt", "/copy", "/paste",
        "/copy 1", "/copy code", "see @bin.dat", "/history", flags=LETTERS, env=env,
    )  # fmt: skip
    lines = stderr_lines(ran)
    for line in (
        "attached to the next message: a.txt (5 characters), b c.txt (4 characters)",
        "no files are attached to the next message",
        "attached to the next message: b c.txt (4 characters)",
        "attached: a.txt",
    ):
        assert line in lines
    answer = ran.text.splitlines()[0]
    assert f"copied {len(answer)} characters to the clipboard" in lines
    assert f"attached to the next message: {len(answer)} characters from the clipboard" in lines
    assert (here / "clip").read_text() == "read @a.txt"
    assert sum(line.startswith("error: bin.dat ") for line in lines) == 2
    assert "error: the last answer has no code block" in lines
    assert any(re.match(r"1 you \+b c.txt \+a.txt", line) for line in lines)
    assert len(ran.text.splitlines()) == 1


def test_model_switches_and_a_missing_model_changes_nothing(inside: Run, here: Path, with_starter: Path) -> None:
    (here / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    shutil.copy(with_starter, here / "copy.gguf")
    ran = talk(
        inside, "/model ./gone.gguf", "What is a comet?", "/model ./bad.gguf", "/model", "/model ./copy.gguf",
        "/continue", "/model", "/reset model", "/retry", "/model",
    )  # fmt: skip
    lines = stderr_lines(ran)
    assert re.match("error: .*gone.gguf", lines[0])
    assert any(line.startswith("error: ") and "bad.gguf" in line for line in lines)
    assert [line for line in lines if line.startswith("model: ")][-1] == "model: starter, context: 1024 tokens"
    assert any(line.startswith("model: ") and "copy" in line for line in lines)
    answers = ran.text.splitlines()
    assert answers[0] == answers[2] == COMET
    assert answers[1].strip()
    assert not answers[1].startswith(COMET)
    assert len(answers[1]) > len(COMET)


def test_json_stop_and_think_shape_the_answer(inside: Run) -> None:
    ran = talk(
        inside,
        "/max_tokens 30", '/json {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}', "hi",
        "/json", "/json off", "/max_tokens 8", "/stop icy", "/stop", "What is a comet?", "/stop none", "/think hide",
        "/think", "/max_tokens 4", "/retry", "/stats",
    )  # fmt: skip
    answers = ran.text.splitlines()
    assert json.loads(answers[0]) == {"a": 1}
    assert answers[1:] == ["A comet is a small, ", "A comet is a"]
    lines = stderr_lines(ran)
    assert "Ctrl-C stops an answer; answers also stop at 'icy'" in lines
    assert "no answer has reasoning (think = hide)" in lines
    assert any(re.match(r"answer +4 tokens", line) for line in lines)
    assert any(re.match(r"session +3 answers", line) for line in lines)


def test_help_all_lists_every_command_and_help_shows_each(inside: Run, with_tiny: Path) -> None:
    from llmcli.ui.commands.registry import commands

    ran = talk(inside, "/help all", *(f"/help {name}" for name in commands()), "/? top_k", "/multiline",
               "/multiline off", "/theme light", "/markdown off", "/bye", "/nope")  # fmt: skip
    lines = stderr_lines(ran)
    for name, one in commands().items():
        assert any(line.startswith(f"  /{name}") for line in lines), name
        assert any(line.startswith(f"/{name}") for line in lines), name
        assert one.help in lines
        start = lines.index(one.help)
        assert lines[start + 1 : start + 5] == ["Examples:", *(f"  {example}" for example in one.examples)]
        for alias in one.aliases:
            assert sum(f"/{alias}" in line for line in lines) >= 2, alias
    assert lines[-4:] == [
        "Enter starts a new line, Alt-Enter sends",
        "Enter sends",
        "theme = light",
        "markdown = false",
    ]
    assert ran.status == 0  # what stands after /bye was not read
