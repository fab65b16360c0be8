"""`llmcli cache`, and the commands that store and restore contexts.

What can be wrong with stored contexts, and which test has it:

a flipped bit at 200 places    test_a_flipped_bit_anywhere_is_found,
                               test_a_damaged_state_is_evaluated_again_and_replaced
truncated, empty               test_a_truncated_file_is_found
foreign, newer, senseless      test_a_foreign_file_is_not_a_state, test_a_newer_file_is_not_a_state,
                               test_a_header_that_makes_no_sense_is_not_a_state,
                               test_sizes_that_are_not_those_of_the_file_are_found
not a file                     test_what_is_not_a_file_is_passed_over
a full disk                    test_a_full_disk_leaves_nothing_behind,
                               test_a_disk_without_room_stores_nothing_and_leaves_nothing,
                               test_a_file_whose_last_byte_does_not_fit_is_an_error
several processes              test_processes_that_store_the_same_state_do_not_disturb_each_other,
                               test_a_state_that_is_removed_while_it_is_written_is_not_kept
a process that was killed      test_clear_removes_all_states_and_what_was_left_over, also with a clock that was set back
a read-only folder, no folder  test_a_folder_that_cannot_be_written_is_passed_over,
                               test_a_folder_that_cannot_be_made_is_no_error
another model, other settings  test_a_state_of_another_model_is_not_used, test_a_state_of_other_settings_is_not_used
too little memory              test_a_context_that_cannot_fit_is_refused_with_the_figures,
                               test_a_part_of_the_free_memory_is_left_to_others
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.inference.state_store import StateStore
from tests.conftest import Run

SYSTEM = "the an he the er " * 60
GREEDY = ("--temp", "0", "-n", "6", "-t", "1", "-c", "1024")
pytestmark = pytest.mark.usefixtures("with_tiny")


def ask(inside: Run, question: str, *more: str) -> str:
    done = inside("generate", question, "-s", SYSTEM, *GREEDY, *more)
    assert done.status == 0, done.stderr
    return done.stdout.decode()


def listed(inside: Run) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(inside("cache", "list", "--json").stdout)
    return found


def test_a_second_question_restores_the_beginning(inside: Run) -> None:
    first = ask(inside, "a he the", "--json")
    again = ask(inside, "the er an a", "--json")
    assert json.loads(first)["timings"]["prompt_n"] == json.loads(first)["prompt_tokens"]
    assert json.loads(again)["timings"]["prompt_n"] < 200
    fresh = ask(inside, "the er an a", "--json", "--no-kv-cache")
    assert json.loads(again)["text"] == json.loads(fresh)["text"]
    assert len(listed(inside)) == 1


def test_a_document_that_is_piped_in_as_a_file_is_shared(inside: Run) -> None:
    for number, question in enumerate(("a he the", "the er an a")):
        done = inside("generate", question, "-f", "-", *GREEDY, "--json", stdin=SYSTEM)
        answer = json.loads(done.stdout)
        assert (answer["timings"]["prompt_n"] == answer["prompt_tokens"]) == (number == 0)


def test_verbose_says_what_was_stored_and_restored(inside: Run) -> None:
    assert "stored " in inside("generate", "a", "-s", SYSTEM, *GREEDY, "-v").stderr
    assert "restored " in inside("generate", "b", "-s", SYSTEM, *GREEDY, "-v").stderr
    quiet = inside("generate", "b", "-s", SYSTEM, *GREEDY).stderr
    assert "stored" not in quiet


def test_a_damaged_state_has_no_message(inside: Run) -> None:
    text = ask(inside, "a he the")
    (entry,) = StateStore().entries()
    data = bytearray(entry.path.read_bytes())
    data[5000] ^= 1
    entry.path.write_bytes(data)
    done = inside("generate", "a he the", "-s", SYSTEM, *GREEDY)
    assert (done.stdout.decode(), done.status) == (text, 0)
    assert "state" not in done.stderr


def test_commands_share_what_they_store(inside: Run, tmp_path: Path) -> None:
    ask(inside, "a he the")
    lines = tmp_path / "lines.txt"
    lines.write_text("the er an a\nan er he\n")
    done = inside("batch", str(lines), "-s", SYSTEM, *GREEDY, "-v")
    assert done.status == 0, done.stderr
    assert "restored " in done.stderr
    done = inside("compare", "an a the", "-s", SYSTEM, "--vary", "top_k=1,2", "-n", "4", "-t", "1", "-c", "1024", "-v")
    assert "restored " in done.stderr


def test_a_question_in_a_session_goes_on_where_it_was_left(inside: Run) -> None:
    ask(inside, "a he the", "--session", "novel")
    (state,) = listed(inside)
    assert state["session"] == "novel"
    done = inside("generate", "and", "--session", "novel", *GREEDY, "-v")
    assert "restored " in done.stderr
    assert inside("sessions", "rename", "novel", "story").status == 0
    assert [one["session"] for one in listed(inside)] == ["story"]
    assert inside("sessions", "rm", "story", "--yes").status == 0
    assert listed(inside) == []


def test_a_replay_of_a_session_stores_nothing(inside: Run) -> None:
    ask(inside, "a he the", "--session", "novel")
    assert inside("sessions", "rename", "novel", "story").status == 0
    assert inside("replay", "story").status == 0
    assert [one["session"] for one in listed(inside)] == ["story"]


def test_list_and_stats_show_what_is_stored(inside: Run) -> None:
    assert inside("cache", "list").stderr == "no stored contexts\n"
    ask(inside, "a he the")
    ask(inside, "a he the", "--session", "novel")
    done = inside("cache", "list")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["MODEL", "tiny", "tiny"]
    assert "novel" in done.stdout.decode()
    facts = inside("cache", "stats").stdout.decode().splitlines()
    assert facts[0].split(maxsplit=1) == ["contexts", "2 (1 session, 1 beginning of prompts)"]
    assert " of at most " in facts[2]
    totals = json.loads(inside("cache", "stats", "--json").stdout)
    assert (totals["states"], totals["sessions"]) == (2, 1)
    assert 0 < totals["size"] < totals["limit"] <= 2 << 30


def test_clear_asks_and_deletes(inside: Run) -> None:
    ask(inside, "a he the")
    assert inside("cache", "clear").status == 2  # nobody can be asked
    assert len(listed(inside)) == 1
    done = inside("cache", "clear", "--yes")
    assert done.stderr.startswith("deleted 1 stored context (")
    assert listed(inside) == []
    assert inside("cache", "clear").status == 0


@pytest.mark.parametrize("off", [("--no-kv-cache",), ("--kv-cache-limit", "0"), ("--kv-cache-min", "5000")])
def test_nothing_is_stored_where_it_is_off(inside: Run, off: tuple[str, ...]) -> None:
    ask(inside, "a he the", *off)
    assert listed(inside) == []


def test_a_folder_that_cannot_be_made_is_no_error(inside: Run, home: Path) -> None:
    (home / "cache" / "contexts").write_text("a file")
    assert ask(inside, "a he the") == ask(inside, "a he the", "--no-kv-cache")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT", ""])
def test_a_chat_that_is_ended_stores_its_context(inside: Run, number: str) -> None:
    """By a signal while it waits for the next message, or by the end of its input."""
    command = [sys.executable, "-m", "llmcli", "chat", "-S", "novel", "-s", SYSTEM, *GREEDY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"a he the\n/top_k\n")
        process.stdin.flush()
        assert any(line.startswith(b"top_k = ") for line in process.stderr)  # the answer has ended
        if number:
            process.send_signal(getattr(signal, number))
            process.wait(60)
        process.stdin.close()
    (state,) = listed(inside)
    assert state["session"] == "novel"
    done = inside("chat", "-S", "novel", "-s", SYSTEM, *GREEDY, "-v", stdin="and\n")
    assert done.status == 0
    assert "restored " in done.stderr
    assert "stored " in done.stderr.splitlines()[-1]


def test_a_chat_that_is_not_saved_leaves_no_state(inside: Run) -> None:
    done = inside("chat", "--no-save", "-s", SYSTEM, *GREEDY, stdin="a he the\n")
    assert done.status == 0
    assert listed(inside) == []


def test_off_in_the_configuration_is_off(inside: Run) -> None:
    assert inside("config", "set", "kv_cache", "off").status == 0
    ask(inside, "a he the")
    assert listed(inside) == []


def test_each_test_of_the_list_above_exists() -> None:
    names = set(re.findall(r"test_\w+", __doc__ or ""))
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.parent.rglob("test_*.py"))
    assert {name for name in names if f"def {name}(" not in text} == set()
