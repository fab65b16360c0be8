"""What `generate` makes of its answers: an extracted part, a file, a session, the best of several."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from tests.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("with_tiny")]
FEW = ("-t", "1", "-n", "8", "--seed", "1", "-q", "--no-stdin")
FORCED = (*FEW, "--regex", "x=[0-9]{2};")


# Extract


def test_only_the_extracted_part_goes_to_stdout(inside: Run) -> None:
    ran = inside("generate", "Hi", *FORCED, "--extract", "x=(.*);")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.text.strip().isdecimal()
    assert len(ran.text) == 3


def test_nothing_goes_to_stdout_if_nothing_is_found(inside: Run) -> None:
    ran = inside("generate", "Hi", *FORCED, "--extract", "y=")
    assert (ran.status, ran.text) == (9, "")
    assert ran.stderr.startswith("error: the answer does not match 'y=': 'x=")
    assert "\n  hint: see the whole answer without --extract, or with --json\n" in ran.stderr


def test_json_has_the_extracted_part_or_null(inside: Run) -> None:
    found = inside("generate", "Hi", *FORCED, "--extract", "x=(.*);", "--json")
    assert json.loads(found.text)["text"] == f"x={json.loads(found.text)['extracted']};"
    missing = inside("generate", "Hi", *FORCED, "--extract", "y=", "--json")
    assert missing.status == 9
    assert json.loads(missing.text)["extracted"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--extract", "("), "extract must be code, code:LANGUAGE, json, last-line, or a regular expression"),
        (("--extract", " "), "extract must be code, "),
        (("--tee",), "--tee has no effect without --output"),
        (("--append",), "--append has no effect without --output"),
        (("--append", "--force", "-o", "x"), "--append and --force cannot be used together"),
        (("--session", "a", "-T", "title"), "--session and --task cannot be used together"),
        (("--continue", "--samples", "2"), "--continue and --samples cannot be used together"),
        (("--session", "a", "--predicate"), "--session and a decision cannot be used together"),
        (("--session", "a", "--continue"), "--continue and --session cannot be used together"),
        (("--session", ""), "'' is not a valid name for a session: it is empty"),
        (("--samples", "2", "--best", "no-such"), "best must be logprob, vote or a task that judges, got 'no-such'"),
        (("--samples", "2", "--best", "title"), "the task title cannot choose the best answer"),
        (("-T", "title", "--diff", "--extract", "code"), "--diff and --extract cannot be used together"),
    ],
)
def test_what_does_not_fit_together_is_refused(inside: Run, arguments: tuple[str, ...], message: str) -> None:
    ran = inside("generate", "Hi", "--no-stdin", *arguments)
    assert ran.status == 2
    assert f"error: {message}" in ran.stderr


# Files


def test_the_file_has_what_stdout_would_have(inside: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    printed = inside("generate", "Hi", *FEW).text
    ran = inside("generate", "Hi", *FEW, "-o", str(path))
    assert (ran.status, ran.text, path.read_text()) == (0, "", printed)
    again = inside("generate", "Hi", *FEW, "-o", str(path))
    assert again.status == 2
    assert "already exists\n  hint: replace it with --force, or add to it with --append" in again.stderr
    added = inside("generate", "Hi", *FEW, "-o", str(path), "--append", "--tee")
    assert (added.status, added.text, path.read_text()) == (0, printed, printed * 2)


def test_a_file_appears_only_with_status_0(inside: Run, tmp_path: Path) -> None:
    ran = inside("generate", "Hi", *FEW, "--regex", "[a-z]{200}", "-o", str(tmp_path / "out.txt"))
    assert ran.status == 9
    assert [one.name for one in tmp_path.glob("out*")] == ["out.txt.partial"]


# Sessions


def test_a_session_remembers_what_was_asked_before(inside: Run) -> None:
    first = inside("generate", "--session", "trip", "I am Ada.", *FEW)
    assert first.status == 0
    shown = inside("generate", "--session", "trip", "Who am I?", *FEW, "--show-prompt")
    assert shown.text == f"user: I am Ada.\nassistant: {first.text}user: Who am I?\nassistant: \n"
    second = inside("generate", "--continue", "Who am I?", *FEW, "--json")
    data = json.loads(second.text)
    assert data["session"] == "trip"
    assert [one["content"] for one in data["messages"]] == ["I am Ada.", first.text.rstrip("\n"), "Who am I?"]
    path = Session.read("trip").conversation.path()
    assert [(one.role, one.content) for one in path[2:]] == [("user", "Who am I?"), ("assistant", data["text"])]


def test_the_chat_opens_a_session_of_generate(run: Run) -> None:
    run("generate", "--session", "trip", "I am Ada.", *FEW, "--temp", "0.5")
    ran = run("chat", "--session", "trip", "-t", "1", stdin="/history\n/params\n")
    assert "I am Ada." in ran.stderr
    assert "session trip, 2 messages" in ran.stderr
    assert Session.read("trip").overrides["temperature"].value == 0.5


def test_generate_has_the_settings_of_the_session(inside: Run) -> None:
    inside("generate", "--session", "trip", "I am Ada.", *FEW, "--system", "You guide.")
    shown = inside("generate", "--session", "trip", "Go on.", "--show-prompt", "--no-stdin")
    assert shown.text.startswith("system: You guide.\nuser: I am Ada.\n")


def test_a_session_that_a_chat_has_open_is_refused(inside: Run) -> None:
    session = Session("trip")
    session.add("user", "Hi")
    ran = inside("generate", "--session", "trip", "Hi", *FEW)
    session.close()
    assert ran.status == 2
    assert "session 'trip' is open in another chat" in ran.stderr


def test_a_session_that_another_program_begins_is_refused(inside: Run, home: Path) -> None:
    """What is not a session has the name, as if another program had created it meanwhile."""
    (home / "data/sessions/trip.jsonl").mkdir(parents=True)
    ran = inside("generate", "--session", "trip", "Hi", *FEW)
    assert (ran.status, ran.text) == (2, "")
    assert "error: session 'trip' already exists" in ran.stderr
    assert not (home / "data/sessions/trip-2.jsonl").exists()


def test_a_question_without_an_answer_is_taken_back(inside: Run) -> None:
    assert inside("generate", "--session", "trip", "Lost?", *FEW, "-n", "0").status == 0
    shown = inside("generate", "--session", "trip", "Again?", "--show-prompt", "--no-stdin")
    assert shown.text == "user: Again?\nassistant: \n"


def test_a_full_context_follows_the_overflow_setting(inside: Run) -> None:
    small = (*FEW, "-c", "128", "-n", "4")
    assert inside("generate", "--session", "trip", "word " * 9, *small).status == 0
    full = inside("generate", "--session", "trip", "word " * 9, *small)
    assert full.status == 7
    assert "hint: use --overflow oldest, a larger --ctx-size, or a shorter prompt" in full.stderr
    ran = inside(
        "generate", "--session", "trip", "word " * 9, *[one for one in small if one != "-q"], "--overflow", "oldest"
    )
    assert ran.status == 0
    assert "the model no longer reads messages 1 to 2" in ran.stderr
    assert store.names() == ["trip"]


# Samples


def test_samples_are_printed_under_their_seeds(inside: Run) -> None:
    ran = inside("generate", "Hi", *FEW, "--samples", "2")
    single = inside("generate", "Hi", *FEW, "--seed", "2").text
    assert ran.status == 0
    assert ran.text.startswith("== seed=1 ==\n")
    assert ran.text.endswith(f"\n== seed=2 ==\n{single}")


def test_logprob_chooses_the_most_probable_answer(inside: Run) -> None:
    several: list[Any] = json.loads(inside("generate", "Hi", *FEW, "--samples", "4", "--json", "--logprobs", "1").text)
    means = [sum(token["logprob"] for token in one["tokens"]) / len(one["tokens"]) for one in several]
    best = json.loads(inside("generate", "Hi", *FEW, "--samples", "4", "--best", "logprob", "--json").text)
    index = means.index(max(means))
    assert best["best"] == {"rule": "logprob", "sample": index + 1}
    assert (best["seed"], best["text"]) == (several[index]["seed"], several[index]["text"])
    assert [one["mean_logprob"] for one in best["samples"]] == pytest.approx(means, abs=1e-5)
    assert "tokens" not in best
    assert "logprobs" not in best["params"]


def test_a_vote_counts_the_extracted_parts(inside: Run) -> None:
    forced = (*FEW, "--regex", "[a-c]=[01];", "--samples", "5", "--best", "vote", "--extract", "=(.)")
    data = json.loads(inside("generate", "Hi", *forced, "--json").text)
    parts = [one["extracted"] for one in data["samples"]]
    assert data["best"]["votes"] == max(map(parts.count, "01")) == parts.count(data["extracted"])
    assert inside("generate", "Hi", *forced).text == data["extracted"] + "\n"


def test_a_vote_of_different_answers_is_warned_about(inside: Run) -> None:
    ran = inside("generate", "Hi", *[one for one in FEW if one != "-q"], "--samples", "3", "--best", "vote")
    assert ran.status == 0
    assert "warning: no two answers are equal: the first one is printed\n  hint: let parts of them vote" in ran.stderr


def test_a_task_can_judge(inside: Run) -> None:
    ran = inside("generate", "Hi", *FEW, "--samples", "3", "--best", "best-answer", "--json")
    data = json.loads(ran.text)
    assert data["best"]["judgment"] == str(data["best"]["sample"])
    assert data["text"] == data["samples"][data["best"]["sample"] - 1]["text"]


def test_the_answers_of_a_task_can_be_samples(inside: Run) -> None:
    ran = inside("generate", "Hi", *FEW, "-T", "expand", "--samples", "3", "--best", "logprob", "--json")
    data = json.loads(ran.text)
    assert data["task"] == "expand"
    assert [one["seed"] for one in data["samples"]] == [1, 2, 3]


def test_a_task_with_labels_decides_without_samples(inside: Run) -> None:
    arguments = ("-T", "classify", "--var", "labels=good,bad", "--samples", "3", "--best", "vote", "--extract", "zz")
    ran = inside("generate", "Hi", *[one for one in FEW if one != "-q"], *arguments)
    assert ran.text in ("good\n", "bad\n")
    assert "samples (from flag) has no effect: a decision is scored, not sampled" in ran.stderr
    assert "extract (from flag) has no effect: a decision is scored, not sampled" in ran.stderr


def test_a_task_file_can_ask_for_samples_and_a_part(inside: Run, tmp_path: Path) -> None:
    settings = 'samples = 2\nbest = "best-answer"\nextract = "x=(.*);"\n[constraint]\nregex = "x=[0-9]{2};"'
    (tmp_path / "count.md").write_text(
        f'+++\ndescription = "Count."\n[settings]\n{settings}\n+++\nCount: {{{{input}}}}\n'
    )
    ran = inside("generate", "Hi", *FEW, "-T", str(tmp_path / "count.md"))
    assert ran.status == 0
    assert ran.text.strip().isdecimal()


def test_a_task_that_names_itself_as_its_judge_ends(inside: Run, tmp_path: Path) -> None:
    path = tmp_path / "loop.md"
    path.write_text(
        '+++\nvariables = { answers = "none", numbers = "1, 2" }\nconstraint = { choices = "{{numbers}}" }\n'
        f"[settings]\nsamples = 2\nbest = '{path}'\n+++\nWhich of {{{{answers}}}}? {{{{input}}}}\n"
    )
    ran = inside("generate", "Hi", *FEW, "--samples", "2", "--best", str(path), "--json")
    best = json.loads(ran.text)["best"]
    assert (ran.status, best["judgment"]) == (0, str(best["sample"]))
    assert inside("generate", "Hi", *FEW, "-T", str(path)).text in ("1\n", "2\n")


def test_equal_samples_are_refused(inside: Run) -> None:
    ran = inside("generate", "Hi", *FEW, "--samples", "2", "--temp", "0")
    assert ran.status == 2
    assert "2 samples at temperature 0 would all be the same answer\n  hint: raise the temperature" in ran.stderr
