"""Tasks on the command line: found, filled, trusted, written, tried; and an input that is longer than the context."""

import json
import sys
from pathlib import Path

import pytest

from llmcli.pipelines.task_files import find_task, is_trusted, trust
from llmcli.ui.terminal.progress import ProgressLine
from tests.conftest import Run

TWO_LINES = "One line is here.\nAnother line is there.\n"
LONG = "The boat came back. Nobody was on it. " * 60
FEW = ("-t", "1", "-n", "4", "--seed", "1", "-q")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of a project, seen from a folder in it."""
    folder = tmp_path / "project/.llmcli/tasks"
    folder.mkdir(parents=True)
    (tmp_path / "project/sub").mkdir()
    monkeypatch.chdir(tmp_path / "project/sub")
    path = folder / "review.md"
    path.write_text('+++\ndescription = "Review."\n+++\nReview this: {{input}}\n')
    return path


# What is refused, before a model is searched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-T", "sumarize", "hi"), "error: unknown task 'sumarize'\n  hint: did you mean 'summarize'?\n"),
        (("-T", "translate", "hi"), "error: the task translate needs to (language of the translation)\n"),
        (
            ("-T", "translate", "--var", "to= ", "hi"),
            "error: the task translate needs to (language of the translation)\n",
        ),
        (("-T", "title", "--var", "input=a", "hi"), "error: --var cannot set input: it is the text that the task"),
        (("-T", "translate", "--var", "tto=x", "hi"), "error: the task translate has no variable 'tto'\n"),
        (("-T", "translate", "--var", "French", "hi"), "error: --var must be NAME=TEXT, got 'French'\n"),
        (("-T", "classify", "--var", "labels=one", "hi"), "error: choices must be at least two, got 'one'\n"),
        (("-T", "extract", "--var", "fields=name", "hi"), "error: 'name' is not a JSON schema\n"),
        (("-T", "describe-data", "hi"), "error: the input is not a CSV table: it has no rows below the names\n"),
        (("--var", "to=French", "hi"), "error: --var has no effect without --task\n"),
        (("--diff", "hi"), "error: --diff has no effect without --task\n"),
        (("--diff", "--json", "-T", "title", "hi"), "error: --diff and --json cannot be used together\n"),
    ],
)
def test_a_wrong_task_or_variable_is_refused(inside: Run, arguments: tuple[str, ...], message: str) -> None:
    ran = inside("generate", "--no-stdin", *arguments)
    assert ran.status == 2
    assert ran.stderr.startswith(message)


def test_a_task_of_a_project_is_refused_without_a_terminal(inside: Run, project: Path) -> None:
    ran = inside("generate", "--no-stdin", "-T", "review", "hi")
    assert ran.status == 2
    assert f"you have not trusted it yet: {project}" in ran.stderr
    assert "hint: run `llmcli tasks show review` in a terminal" in ran.stderr


# Answers


@pytest.mark.usefixtures("with_tiny")
def test_a_task_answers_its_input(inside: Run) -> None:
    ran = inside("generate", "-T", "title", "--json", *FEW, "-n", "400", stdin=TWO_LINES)
    data = json.loads(ran.text)
    assert (data["task"], data["params"]["temperature"]) == ("title", 0.3)
    assert "\n" not in data["text"]
    assert data["messages"][-1]["content"].endswith(
        "Write only the title.\n\nOne line is here.\nAnother line is there."
    )


@pytest.mark.usefixtures("with_tiny")
def test_the_settings_of_a_task_have_their_origin(inside: Run) -> None:
    ran = inside("generate", "-T", "translate", "--var", "to=French", "hi", "-t", "1", "-n", "1", "-v", stdin="")
    assert "temperature = 0.2 (from task)" in ran.stderr
    ran = inside("generate", "-T", "translate", "--var", "to=Dutch", "hi", "-n", "1", "-v", "--temp", "0.9", stdin="")
    assert "temperature = 0.9 (from flag)" in ran.stderr


@pytest.mark.usefixtures("with_tiny")
def test_a_model_smaller_than_a_task_needs_gets_a_warning(inside: Run) -> None:
    ran = inside("generate", "-T", "explain", "hi", "-t", "1", "-n", "1", stdin="")
    assert ran.stderr.count("warning: the task explain needs a model with 3B parameters, and tiny") == 1


@pytest.mark.usefixtures("with_tiny")
def test_a_constraint_in_the_flags_replaces_that_of_a_task(inside: Run) -> None:
    ran = inside("generate", "-T", "sentiment", "--regex", "[0-9]{3}", "hi", *FEW, "-n", "40", stdin="")
    assert ran.status == 0
    assert len(ran.text.strip()) == 3
    ran = inside("tasks", "test", "sentiment", "--regex", "[0-9]{3}", *FEW, "-n", "40", "--json")
    assert [len(row["text"]) for row in json.loads(ran.text)] == [3, 3]


@pytest.mark.usefixtures("with_tiny")
def test_choices_are_the_only_answers(inside: Run) -> None:
    ran = inside("generate", "-T", "classify", "--var", "labels=good; so, so", "hi", *FEW, "-n", "40", stdin="")
    assert ran.text in ("good\n", "so, so\n")


@pytest.mark.usefixtures("with_tiny")
def test_a_variable_can_be_the_content_of_a_file(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "style.txt").write_text("like {{input}}\n")
    given = f"style=@{tmp_path / 'style.txt'}"
    ran = inside("generate", "-T", "rewrite", "--var", given, "--show-prompt", "hi", stdin="")
    assert "in this style: like {{input}}. Keep its meaning" in ran.text
    assert "\n\nhi\n" in ran.text


@pytest.mark.usefixtures("with_tiny")
def test_a_variable_that_names_a_file_is_not_taken_silently(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.txt").write_text("the cat\n")
    ran = inside("generate", "-T", "compare", "--var", "other=b.txt", "the", "--show-prompt", "--no-stdin")
    warning = "warning: 'b.txt' is taken as a text; for the text of this file, use --var other=@b.txt\n"
    assert (ran.status, warning in ran.stderr) == (0, True)


@pytest.mark.usefixtures("with_tiny")
def test_a_long_input_is_answered_in_parts(inside: Run) -> None:
    words = ("generate", "-T", "proofread", "-c", "600")
    prompts = inside(*words, "--show-prompt", stdin=LONG).text
    data = json.loads(inside(*words, "--json", *FEW, stdin=LONG).text)
    n_parts = prompts.count("Correct the spelling")
    assert n_parts > 3
    assert data["n_parts"] == n_parts
    assert data["completion_tokens"] == 4 * n_parts
    assert "replay" not in data
    ran = inside(*words, *FEW, stdin=LONG)
    assert ran.text == data["text"] + "\n"
    assert ran.status == 0


@pytest.mark.usefixtures("with_tiny")
def test_progress_counts_the_parts_of_a_long_input(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(ProgressLine, "update", lambda _self, text: shown.append(text))
    data = json.loads(inside("generate", "-T", "proofread", "-c", "600", "--json", *FEW, stdin=LONG).text)
    n_parts, n_tokens = data["n_parts"], data["completion_tokens"]
    parts = [text for text in shown if text.startswith("part ")]
    assert parts[0] == f"part 1 of {n_parts}, 1 token"
    assert parts[-1].startswith(f"part {n_parts} of {n_parts}, ")
    assert parts[-1].endswith(f" {n_tokens} tokens")


@pytest.mark.usefixtures("with_tiny")
def test_a_shell_command_is_printed_and_not_run(inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = inside("generate", "-T", "shell", "--regex", "touch made", "Make a file.", *FEW, "-n", "40", stdin="")
    assert (ran.status, ran.text) == (0, "touch made\n")
    assert not Path("made").exists()


@pytest.mark.usefixtures("with_tiny")
def test_a_long_input_is_summarized_in_rounds(inside: Run) -> None:
    ran = inside("generate", "-T", "summarize", "-c", "700", "--json", *FEW, stdin=LONG)
    data = json.loads(ran.text)
    assert data["n_parts"] > 3
    assert data["finish_reason"] == "length"
    assert data["task"] == "summarize"


@pytest.mark.usefixtures("with_tiny")
def test_a_context_too_small_for_a_task_is_an_error(inside: Run) -> None:
    ran = inside("generate", "-T", "proofread", "-c", "64", *FEW, stdin=LONG)
    assert ran.status == 7
    assert "error: the context of 64 tokens has no room for the task and a text\n  hint: raise --ctx-size" in ran.stderr


@pytest.mark.usefixtures("with_tiny")
def test_a_diff_compares_the_input_and_the_answer(inside: Run) -> None:
    ran = inside("generate", "-T", "proofread", "--diff", *FEW, stdin=TWO_LINES)
    lines = ran.text.split("\n")
    assert lines[:2] == ["--- input", "+++ answer"]
    assert "-One line is here." in lines
    assert any(line.startswith("+") for line in lines[3:])


@pytest.mark.usefixtures("with_tiny")
def test_the_result_of_a_helper_is_printed_alone(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,name\n1,Ada\n2,Alan\n")
    ran = inside("generate", "-T", "recommend", "--var", "likes=tea", *FEW, "-n", "200", stdin="one\ntwo\nthree\n")
    assert sorted(ran.text.split()) == ["one", "three", "two"]
    ran = inside("generate", "-T", "compare", "--var", "other=a b c d e f", "a b c d e f", *FEW, "-n", "60", stdin="")
    assert json.loads(ran.text)["verdict"] == "copied"


@pytest.mark.usefixtures("with_tiny")
def test_a_trace_of_an_answer_in_parts_is_refused_with_a_warning(inside: Run, tmp_path: Path) -> None:
    flags = ("-c", "600", "-t", "1", "-n", "4", "--trace", str(tmp_path / "trace.jsonl"))
    ran = inside("generate", "-T", "proofread", *flags, stdin=LONG)
    assert "warning: trace has no effect: the answer has several parts, or was computed" in ran.stderr
    assert "note" not in ran.text
    ran = inside("generate", "-T", "proofread", *flags, "--echo", "--stats", stdin=TWO_LINES)
    assert ran.text.startswith(TWO_LINES)
    assert (tmp_path / "trace.jsonl").exists()
    assert "generated 4 tokens" in ran.stderr


# The commands


def test_the_list_has_every_task_with_its_source(inside: Run, project: Path, home: Path) -> None:
    (home / "config/tasks").mkdir(parents=True)
    (home / "config/tasks/title.md").write_text("+++\nsize = 'x'\n+++\nA title.")
    rows = {row["name"]: row for row in json.loads(inside("tasks", "list", "--json").text)}
    assert (rows["review"]["source"], rows["review"]["description"]) == ("project", "(not trusted yet)")
    assert rows["title"]["source"] == "user"
    assert "line 2: size must be a number of parameters" in rows["title"]["error"]
    assert rows["translate"]["variables"] == {"to": {"default": None, "help": "language of the translation"}}
    trust(project.read_bytes())
    assert "Review.\n" in inside("tasks", "list").text


def test_show_prints_the_file_of_a_task(inside: Run, project: Path) -> None:
    assert inside("tasks", "show", "title").text == find_task("title").path.read_text(encoding="utf-8")
    ran = inside("tasks", "show", "review")
    assert ran.text == project.read_text()
    assert "is not trusted yet" in ran.stderr


@pytest.mark.terminal
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.parametrize(("key", "is_kept"), [("y", True), ("n", False), ("", False)])
def test_show_asks_in_a_terminal_whether_a_task_is_trusted(project: Path, key: str, is_kept: bool) -> None:
    pexpect = pytest.importorskip("pexpect")
    command = f"{sys.executable} -m llmcli tasks show review"
    shown = pexpect.run(command, timeout=60, events={"y/N": f"{key}\n"}, encoding="utf-8")
    assert "Review this: {{input}}" in shown
    assert str(project) in shown.replace("\r\n", "")
    assert is_trusted(project.read_bytes()) is is_kept
    assert ("y/N" in pexpect.run(command, timeout=60, events={"y/N": "\n"}, encoding="utf-8")) is not is_kept


def test_show_fills_the_places_of_variables(inside: Run) -> None:
    text = inside("tasks", "show", "translate", "--var", "to=French").text
    assert "Translate the text below into French." in text
    assert "{{input}}" in text
    assert inside("tasks", "show", "translate", "--var", "tto=x").status == 2


def test_path_prints_the_folders_or_a_file(inside: Run, project: Path, home: Path) -> None:
    folders = inside("tasks", "path").text.splitlines()
    assert folders[:2] == [str(project.parent), str(home / "config/tasks")]
    assert inside("tasks", "path", "review").text == f"{project}\n"


def test_new_writes_a_task_that_is_valid_and_keeps_an_old_one(inside: Run, home: Path) -> None:
    ran = inside("tasks", "new", "mine")
    path = home / "config/tasks/mine.md"
    assert ran.text == f"{path}\n"
    task = find_task("mine")
    assert (task.source, task.variables["style"].default) == ("user", "plain")
    ran = inside("tasks", "new", "mine", "--from", "title")
    assert ran.status == 2
    assert f"error: {path} already exists" in ran.stderr
    assert inside("tasks", "new", "../x").status == 2


def test_every_key_of_the_skeleton_is_a_key(inside: Run, home: Path) -> None:
    inside("tasks", "new", "mine")
    path = home / "config/tasks/mine.md"
    lines = path.read_text().split("\n")
    # One constraint of the four; the sentences of the comments stay.
    bare = [line[2:] if line[:2] == "# " and ("= " in line or line[2] == "[") else line for line in lines]
    kept = [line for line in bare if not line.startswith(("json_schema", "regex", "grammar"))]
    path.write_text("\n".join(kept).replace("[constraint]    ", "[constraint] #"))
    task = find_task("mine")
    assert (task.size, task.long_input, task.overlap, task.form) == (3 * 10**9, "windows", 100, "line")
    assert task.constraint == {"choices": "yes, no"}
    assert task.examples[0].variables == {"style": "formal"}


def test_new_copies_a_task_into_the_project(inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = inside("tasks", "new", "recap", "--project", "--from", "summarize")
    assert ran.text == f"{Path('.llmcli', 'tasks', 'recap.md')}\n"
    assert find_task("recap").source == "project"  # and trusted: the user made it


def test_edit_makes_a_copy_of_a_built_in_task(inside: Run, home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('Be brief: {{input}}')")
    ran = inside("tasks", "edit", "title", env={"EDITOR": f'"{sys.executable}" "{editor}"'})
    assert ran.status == 0, ran.stderr
    assert find_task("title").prompt == "Be brief: {{input}}"
    assert find_task("title").path == home / "config/tasks/title.md"
    editor.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{{oops}}')")
    ran = inside("tasks", "edit", "title", env={"EDITOR": f'"{sys.executable}" "{editor}"'})
    assert "line 1: {{oops}} is not a variable of this task" in ran.stderr


@pytest.mark.usefixtures("with_tiny")
def test_test_prints_a_row_for_each_trial(inside: Run) -> None:
    ran = inside("tasks", "test", "sentiment", "translate", "-c", "500", *FEW, "-n", "12", "--json")
    rows = json.loads(ran.text)
    assert [(row["task"], row["input"]) for row in rows] == [
        ("sentiment", "example 1"),
        ("sentiment", "long"),
        ("translate", "example 1"),
        ("translate", "long"),
    ]
    assert [row["problem"] for row in rows[:2]] == ["", ""]
    assert rows[3]["n_parts"] > 1
    assert ran.status == (1 if any(row["problem"] for row in rows) else 0)


@pytest.mark.usefixtures("with_tiny")
def test_test_fails_if_an_answer_has_another_form(inside: Run, home: Path) -> None:
    (home / "config/tasks").mkdir(parents=True)
    (home / "config/tasks/json.md").write_text("+++\nform = 'json'\n[settings]\nregex='a'\n+++\nAnswer.")
    assert "line 4: regex cannot be in settings" in inside("tasks", "test", "json").stderr
    (home / "config/tasks/json.md").write_text("+++\nform = 'json'\n[constraint]\nregex='aa'\n+++\nAnswer.")
    ran = inside("tasks", "test", "json", "-c", "2100", *FEW, "-n", "12", "--answers")
    assert ran.status == 1
    assert "json, short\naa\n" in ran.text
    assert ran.text.count("it is not JSON") == 2


@pytest.mark.usefixtures("with_tiny")
def test_stdin_of_a_variable_is_not_a_part_of_the_prompt(inside: Run) -> None:
    flags = ("-T", "translate", "--var", "to=@-")
    shown = inside("generate", *flags, "Hello.", "--show-prompt", stdin="French\n").text
    assert "Translate the text below into French." in shown
    assert shown.count("French") == 1
    twice = inside("generate", *flags, "-f", "-", stdin="French\n")
    assert (twice.status, twice.text) == (2, "")
    assert "stdin can be read only once, and two options read it: --file and --var to" in twice.stderr
    assert "--no-stdin and --var to (stdin) cannot" in inside("generate", *flags, "Hi", "--no-stdin", stdin="x").stderr
    assert "two options read it: INPUT and --var to" in inside("batch", "-", *flags, stdin="x").stderr


@pytest.mark.usefixtures("with_tiny")
def test_test_takes_samples_and_extracts_as_generate_does(inside: Run) -> None:
    flags = ("tasks", "test", "explain", "-c", "500", *FEW)
    sampled = json.loads(inside(*flags, "--samples", "3", "--best", "vote", "--json").text)
    assert sampled[0]["completion_tokens"] == 3 * 4
    extracted = json.loads(inside(*flags, "--extract", "^.", "--json").text)
    assert len(extracted[0]["text"]) == 1
    undecided = json.loads(inside(*flags, "--samples", "3", "--json").text)
    assert undecided[0]["problem"] == "samples needs best: a trial has one answer"


@pytest.mark.usefixtures("with_tiny")
def test_a_variable_is_given_to_the_tasks_that_have_it(inside: Run) -> None:
    flags = ("tasks", "test", "translate", "sentiment", "-c", "500", *FEW)
    assert "none of these tasks has a variable 'too'" in inside(*flags, "--var", "too=x").stderr
    rows = json.loads(inside(*flags, "--var", "to=Latin", "--json").text)
    assert [row["task"] for row in rows] == ["translate", "translate", "sentiment", "sentiment"]
    assert not any("has no variable" in row["problem"] for row in rows)


# Completion


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("generate --task tran", ["translate"]),
        ("generate -T title --var ", []),
        ("generate -T translate --var t", ["to="]),
        ("generate -T recommend --var ", ["likes="]),
        ("generate -T nosuch --var ", []),
        ("tasks show descr", ["describe-data"]),
        ("tasks test --var ", []),
    ],
)
def test_tasks_and_their_variables_are_completed(inside: Run, line: str, words: list[str]) -> None:
    variables = {
        "_LLMCLI_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": f"llmcli {line}",
    }
    lines = inside(env=variables).text.splitlines()
    assert [line.partition("\t")[0] for line in lines if line] == words
