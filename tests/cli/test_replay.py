"""`llmcli replay`: the text on stdout, the verdict on stderr and in the status."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.sessions.session import Session
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.chat.controllers import answer, ask, controller_with, open_local
from tests.conftest import Run

POLICY = "def hot(step):\n    return 1.5\n"


@pytest.fixture
def output_file(inside: Run, with_tiny: Path, tmp_path: Path) -> Path:
    """The file of an output, drawn hot enough that another seed gives another text."""
    ran = inside("generate", "why", "--json", "-n", "12", "--seed", "1", "--temp", "1.5", "-c", "512", "-t", "1")
    assert ran.status == 0
    place = tmp_path / "output.json"
    place.write_bytes(ran.stdout)
    return place


def changed(place: Path, **params: Any) -> Path:
    """The same with other settings."""
    data = json.loads(place.read_bytes())
    place.write_text(json.dumps(data | {"params": data["params"] | params}))
    return place


def test_an_output_of_the_starter_repeats_exactly(run: Run, with_starter: Path, tmp_path: Path) -> None:
    """In another process, and whatever else is set by then."""
    first = run("generate", "Name a river.", "--json", "-n", "16", "--temp", "sentence:1.3,0.4")
    again = run("replay", "-", stdin=first.stdout, env={"LLMCLI_TEMPERATURE": "0.1", "LLMCLI_N_THREADS": "1"})
    assert again.text == json.loads(first.stdout)["text"].rstrip("\n") + "\n"
    assert (again.stderr, again.status) == (f"same answer: {json.loads(first.stdout)['completion_tokens']} tokens\n", 0)


def test_an_output_in_a_file_repeats_exactly(inside: Run, output_file: Path) -> None:
    ran = inside("replay", str(output_file))
    assert ran.text == json.loads(output_file.read_bytes())["text"].rstrip("\n") + "\n"
    assert (ran.stderr, ran.status) == ("same answer: 12 tokens\n", 0)


def test_a_different_answer_is_located_and_explained(inside: Run, output_file: Path) -> None:
    ran = inside("replay", str(changed(output_file, seed=2)))
    assert ran.status == 1
    assert ran.stderr.startswith("different answer from token ")
    assert ran.stderr.endswith("; reason: seed: was 1, is 2\n")
    assert inside("replay", str(output_file), "--quiet").stderr == ""


def test_a_changed_policy_is_named(inside: Run, output_file: Path) -> None:
    ran = inside("replay", str(changed(output_file, temperature="sentence:0.1,0.2", top_k=3)))
    assert ran.stderr.endswith("; reason: temperature: was 1.5, is sentence:0.1,0.2; top_k: was default, is 3\n")


def test_the_json_has_the_result_and_the_difference(inside: Run, output_file: Path) -> None:
    text = json.loads(output_file.read_bytes())["text"]
    ran = inside("replay", str(output_file), "--json", "-q")
    assert json.loads(ran.stdout) == {"same": True, "first_difference": None, "reasons": [], "text": text}
    ran = inside("replay", str(changed(output_file, seed=2)), "--json", "-q")
    data = json.loads(ran.stdout)
    assert ran.status == 1
    assert data["same"] is False
    assert list(data["first_difference"]) == ["token", "offset", "part", "had", "now"]
    assert data["reasons"] == ["seed: was 1, is 2"]
    at = data["first_difference"]["offset"]
    assert data["text"][:at] == text[:at]
    assert data["text"][at:].startswith(data["first_difference"]["now"])


# Which one


def test_one_line_of_a_file_can_be_replayed(inside: Run, output_file: Path) -> None:
    one = output_file.read_text()
    output_file.write_text("\n" + one + json.dumps(json.loads(one) | {"text": "x"}) + "\n\n")
    ran = inside("replay", str(output_file))
    assert ran.status == 2
    assert "contains 2 outputs\n  hint: choose one, as in --line 2" in ran.stderr
    assert inside("replay", str(output_file), "--line", "2").status == 0
    assert inside("replay", str(output_file), "--line", "3").status == 1
    for number in ("1", "4", "9"):
        assert f"has no line {number}" in inside("replay", str(output_file), "--line", number).stderr


def test_an_output_may_span_several_lines(inside: Run, output_file: Path) -> None:
    output_file.write_text(json.dumps(json.loads(output_file.read_bytes()), indent=2))
    assert inside("replay", str(output_file)).status == 0


@pytest.fixture
def controller(with_tiny: Path) -> ChatController:
    """A session called talk, on disk, with three answers of the tiny model."""
    settings = Settings(n_ctx=512, n_threads=1)
    local = open_local(with_tiny, settings)
    flags = {"n_ctx": 512, "max_tokens": 8, "temperature": Fixed(1.5)}
    controller = controller_with(local, session=Session("talk"), model=str(with_tiny), **flags)
    ask(controller, "why")
    ask(controller, "the moon")
    controller.session.conversation.move(3)
    answer(controller, seed=7)
    controller.session.close()
    local.close()
    return controller


def test_an_answer_of_a_session_repeats_exactly(inside: Run, controller: ChatController) -> None:
    path = controller.session.conversation.path()
    texts = {"talk": path[3], "talk:4": path[3], "talk:3": path[3], "session:talk:1": path[1]}
    for name, message in texts.items():
        ran = inside("replay", name)
        assert (ran.text, ran.status) == (message.content.rstrip("\n") + "\n", 0), name
        assert ran.stderr.startswith("same answer: ")


def test_a_file_comes_before_a_session(
    inside: Run, output_file: Path, controller: ChatController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(output_file.parent)
    output_file.rename(output_file.with_name("talk"))
    assert "same answer: 12 tokens" in inside("replay", "talk").stderr
    assert "same answer: 8 tokens" in inside("replay", "session:talk").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("talk:9",), "talk has no message 9"),
        (("talk", "--line", "1"), "--line needs a file, and talk is not a file"),
        (("tulk",), "'tulk'\n  hint: did you mean"),
        (("out.json",), "file not found: out.json"),
        ((os.path.join("no", "where"),), "file not found: "),
        (("session:",), "is not a valid name for a session"),
    ],
)
def test_a_missing_source_is_an_error(
    inside: Run, controller: ChatController, arguments: tuple[str, ...], words: str
) -> None:
    ran = inside("replay", *arguments)
    assert ran.status in (2, 6)
    assert ran.stderr.startswith("error: ")
    assert words in ran.stderr
    assert [line[:7] for line in ran.stderr.splitlines()] in (["error: "], ["error: ", "  hint:"])


# What it needs


def test_a_model_may_be_in_another_place(inside: Run, output_file: Path, with_tiny: Path) -> None:
    changed(output_file, model=str(output_file.parent / "gone.gguf"))
    ran = inside("replay", str(output_file))
    assert ran.status == 3
    assert "give the model with -m" in ran.stderr
    assert inside("replay", str(output_file), "-m", str(with_tiny)).status == 0


def test_code_named_in_a_record_is_not_run(inside: Run, output_file: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n{POLICY}")
    ran = inside("replay", str(changed(output_file, temp_policy_file=f"{tmp_path / 'evil.py'}:hot")))
    assert ran.status == 2
    assert "which is code\n  hint: if you trust it, allow it with --temp-policy-file FILE.py:NAME" in ran.stderr
    assert not mark.exists()


def test_a_policy_file_is_used_with_permission(inside: Run, with_tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(POLICY)
    own = ("--temp-policy-file", f"{place}:hot")
    first = inside("generate", "why", "--json", "-n", "8", "-t", "1", *own)
    assert inside("replay", "-", *own, stdin=first.stdout).stderr == "same answer: 8 tokens\n"
    place.write_text(POLICY.replace("1.5", "0.01"))
    ran = inside("replay", "-", *own, stdin=first.stdout)
    assert ran.stderr.endswith("; reason: the file of the temperature policy is different\n")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([[3, 3, 1]], "cannot replay "),
        ([[2048, 1, 400], [1, 1, 1]], "1 of 2048 rows, 400 times"),
        ([[10**9, 5, 1]], "replay.layout[0][0] must be an integer <= "),
        ([[0, 0, 0]], "replay.layout[0][0] must be an integer >= 1"),
    ],
)
def test_a_layout_that_does_not_fit_is_one_error(inside: Run, output_file: Path, layout: Any, words: str) -> None:
    data = json.loads(output_file.read_bytes())
    output_file.write_text(json.dumps(data | {"replay": data["replay"] | {"layout": layout}}))
    ran = inside("replay", str(output_file))
    assert ran.status == 2
    assert words in ran.stderr
    assert [line[:7] for line in ran.stderr.splitlines()] == ["error: ", "  hint:"]


def test_a_comparison_is_replayed_side_by_side(inside: Run, with_tiny: Path, tmp_path: Path) -> None:
    words = (
        "hi",
        "--vary",
        "temp=0;0.9;0.2..1.5",
        "--answers",
        "2",
        "--seed",
        "3",
        "-n",
        "12",
        "-t",
        "1",
        "--ignore-eos",
    )
    made = inside("compare", *words, "--json")
    output_file = tmp_path / "compared.json"
    output_file.write_bytes(made.stdout)
    again = inside("replay", str(output_file), "--json")
    assert again.status == 0
    data, before = json.loads(again.text), json.loads(made.text)
    assert data["same"] is True
    assert [one["text"] for one in data["variants"]] == [one["text"] for one in before["variants"]]
    assert len({one["text"] for one in before["variants"]}) > 2

    before["variants"][3]["text"] = "something else"
    output_file.write_text(json.dumps(before))
    again = inside("replay", str(output_file))
    assert again.status == 1
    assert again.text.count("== ") == 6
    verdicts = [line for line in again.stderr.splitlines() if ": same answer: 12 tokens" in line]
    assert len(verdicts) == 5
    assert "temp=0.9 #2: different answer from token " in again.stderr
