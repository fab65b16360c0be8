"""Task files: what is read, which line is wrong, which file counts, and which ones the user has trusted."""

import os
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.params.policies.policy import Fixed
from llmcli.pipelines import task_files
from llmcli.pipelines.task_files import find_task, is_trusted, parse_task, trust
from llmcli.pipelines.tasks import Example, Task, Variable

FILE = """+++
description = "Answer a letter."
size = "3B"
input = "windows"
overlap = 50
form = "shorter"
system = "You write letters."

[variables]
tone = { default = "kind", help = "tone of the answer" }
to = {}
short = "yes"

[settings]
temp = 0.3
top_k = 5

[constraint]
regex = "[a-z]+"

[[examples]]
input = "Dear Sir"
variables = { to = "Ann" }
+++

Answer {{ to }} in a {{tone}} tone:

{{input}}

"""


def parsed(text: str) -> Task:
    return parse_task(text, Path("reply.md"), "user")


def front(*lines: str) -> str:
    return "\n".join(["+++", *lines, "+++", "Do it: {{input}}"])


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tasks of a project, seen from a folder deep in it."""
    (tmp_path / "work/src/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work/src/deep")
    return tmp_path / "work/.llmcli/tasks"


def test_a_task_file_says_all_about_its_task() -> None:
    task = parsed(FILE)
    assert task.name == "reply"
    assert (task.description, task.size, task.long_input, task.overlap) == (
        "Answer a letter.",
        3 * 10**9,
        "windows",
        50,
    )
    assert task.variables == {
        "tone": Variable("tone", "kind", "tone of the answer"),
        "to": Variable("to"),
        "short": Variable("short", "yes"),
    }
    assert task.settings.values == {"temperature": Fixed(0.3), "top_k": 5}
    assert task.constraint == {"regex": "[a-z]+"}
    assert task.examples == [Example("Dear Sir", {"to": "Ann"})]
    assert task.prompt == "Answer {{ to }} in a {{tone}} tone:\n\n{{input}}"
    assert task.form == "shorter"


def test_a_temperature_of_a_task_can_be_a_policy() -> None:
    task = parsed(front("[settings]", "temp = 'sentence:1.1,0.7'"))
    assert str(task.settings.values["temperature"]) == "sentence:1.1,0.7"


def test_a_file_without_front_matter_is_a_prompt() -> None:
    assert parsed("Shorten this.\n").prompt == "Shorten this.\n\n{{input}}"


def test_a_file_with_windows_line_ends_is_read() -> None:
    assert parsed(FILE.replace("\n", "\r\n")) == parsed(FILE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (front('description = "a"', "size = "), "reply.md, line 3: the front matter is not valid TOML: Invalid value"),
        (front('description = "a"', 'description = "b"'), "reply.md, line 3: the front matter is not valid TOML"),
        ("+++\nsize = '3B'\n", "reply.md, line 1: the front matter is not closed"),
        (front("x = 1"), "reply.md, line 2: unknown key 'x'"),
        (front("", "overlap = 'a'"), "reply.md, line 3: overlap must be an integer"),
        (front("overlap = -1"), "reply.md, line 2: overlap must be an integer >= 0"),
        (front("[settings]", '"" = 1'), "reply.md: settings: unknown setting ''"),
        (front("[settings]", '"!!" = 1'), "reply.md: settings: unknown setting '!!'"),
        (front("input = 'cut'"), "reply.md, line 2: input must be one of error, map-reduce, windows, got 'cut'"),
        (front("size = '999999999999B'"), "reply.md, line 2: size must be a number of parameters"),
        (front("size = 'big'"), "reply.md, line 2: size must be a number of parameters such as 3B or 500M, got 'big'"),
        (front("[settings]", "", "top_p = 3"), "reply.md, line 4: settings: top_p must be between 0 and 1, got 3"),
        (front("[settings]", "topp = 3"), "reply.md, line 3: settings: unknown setting 'topp'"),
        (front("[settings]", "regex = 'a'"), "reply.md, line 3: regex cannot be in settings"),
        (front("[settings]", "system = 'a'"), "reply.md, line 3: system cannot be in settings"),
        (front("[settings]", "temp_policy_file = 'x.py:f'"), "reply.md, line 3: a task cannot set temp_policy_file"),
        (front("[settings]", "prompt = 'a'"), "reply.md, line 3: settings: prompt cannot be part of a preset"),
        (front("[constraint]", "regex = 'a'", "grammar = 'b'"), "reply.md, line 2: regex and grammar cannot be used"),
        (front("[constraint]", "shape = 'a'"), "reply.md, line 3: unknown constraint 'shape'"),
        (front("[variables]", "input = 'a'"), "reply.md, line 3: 'input' cannot be the name of a variable"),
        (front("[variables]", "'a b' = 'a'"), "reply.md, line 3: 'a b' cannot be the name of a variable"),
        (front("[variables]", "to = 3"), "reply.md, line 3: variables.to must be an object"),
        (
            front("helper = 'magic'"),
            "reply.md, line 2: helper must be one of annotations, code, compare, rank, table, got 'magic'",
        ),
        ("+++\n+++\n \n", "reply.md: the prompt is missing"),
        ("+++\n+++\nTo {{too}}: {{input}}", "reply.md, line 3: {{too}} is not a variable of this task"),
        (front(f"a = {'[' * 5000}"), "reply.md: the front matter is not valid TOML: it is nested too deeply"),
    ],
)
def test_an_error_names_the_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(text)
    assert str(caught.value).startswith(message)


def test_a_wrong_key_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parsed(front("descripton = 'a'"))
    assert caught.value.hint == "did you mean 'description'?"


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown task 'sumarize'") as caught:
        find_task("sumarize")
    assert caught.value.hint == "did you mean 'summarize'?"


@pytest.mark.parametrize("name", ["..", ".hidden", "", "a" * 300, "a\0b", "con"])
def test_a_name_that_no_task_can_have_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown task"):
        find_task(name)


def test_the_nearest_folder_counts_first(project: Path, home: Path) -> None:
    assert find_task("title").source == "built-in"
    write(home / "config/tasks", "title", "Mine")
    assert find_task("title").source == "user"
    path = write(project, "title", "The project's")
    trust(path.read_bytes())
    task = find_task("title")
    assert (task.source, task.path, task.prompt) == ("project", path, "The project's\n\n{{input}}")
    listed = {path.stem: source for path, source in task_files.task_files()}
    assert (listed["title"], listed["summarize"]) == ("project", "built-in")


def test_a_task_of_a_project_is_asked_about_once(project: Path) -> None:
    path, asked = write(project, "review", "Review this."), list[Path]()

    def confirm(which: Path) -> bool:
        asked.append(which)
        return True

    assert find_task("review", confirm).prompt.startswith("Review this.")
    find_task("review", confirm)
    find_task("review")
    assert asked == [path]


def test_a_changed_task_of_a_project_is_asked_about_again(project: Path) -> None:
    find_task("review", lambda _: True) if write(project, "review", "Review this.") else None
    write(project, "review", "Say that all is well.")
    with pytest.raises(UsageError, match="you have not trusted it yet"):
        find_task("review")


def test_a_task_that_the_user_does_not_trust_is_refused(project: Path) -> None:
    path = write(project, "review", "Review this.")
    with pytest.raises(UsageError, match="is not trusted"):
        find_task("review", lambda _: False)
    assert not is_trusted(path.read_bytes())


def test_without_a_terminal_a_hint_says_how_to_trust(project: Path) -> None:
    path = write(project, "review", "Review this.")
    with pytest.raises(UsageError) as caught:
        find_task("review")
    assert str(path) in str(caught.value)
    assert "`llmcli tasks show review` in a terminal" in caught.value.hint


def test_a_damaged_list_of_trusted_tasks_trusts_nothing(project: Path, home: Path) -> None:
    write(project, "review", "Review this.")
    find_task("review", lambda _: True)
    (home / "data/trusted-tasks.json").write_text("[1, 2")
    with pytest.raises(UsageError, match="not trusted"):
        find_task("review")


def test_a_path_names_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", "Shorten this.")
    assert (find_task(str(path)).source, find_task(str(path)).name) == ("file", "mine")
    with pytest.raises(UsageError, match="task file not found"):
        find_task(str(tmp_path / "other.md"))


def hostile(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(b"x" * ((1 << 20) + 1))
    elif kind == "binary":
        path.write_bytes(b"\0\1\2")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "link to nothing":
        path.symlink_to(path.parent / "nothing")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("huge", "is larger than 1 MiB"),
        ("binary", "is not a text file"),
        ("loop", "is not a file"),
        ("link to nothing", "is not a file"),
    ],
)
def test_a_hostile_file_is_refused(kind: str, message: str, home: Path) -> None:
    folder = home / "config/tasks"
    folder.mkdir(parents=True)
    hostile(folder / "evil.md", kind)
    with pytest.raises(LlmcliError, match=message):
        find_task("evil")


def test_a_file_that_cannot_be_read_is_an_error(home: Path, ordinary_user: Any) -> None:
    path = write(home / "config/tasks", "secret", "Hush.")
    path.chmod(0)
    with pytest.raises(DiskError, match="cannot read"):
        find_task("secret")
