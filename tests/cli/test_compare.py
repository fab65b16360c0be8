"""`llmcli compare` as a user runs it: in a pipe, with --json, and on a terminal."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.chat_terminal import CTRL_C, Talk
from tests.conftest import Run

BASE = ("compare", "the river", "--seed", "3", "-t", "1", "-n", "12")
COMPARE = (sys.executable, "-m", "llmcli", *BASE)
KEYS = ["model", "messages", "seed", "variants"]


def test_a_pipe_gets_labeled_texts_and_stderr_the_statistics(run: Run, with_tiny: Path) -> None:
    ran = run(*BASE, "--vary", "temp=0,1.5", "--vary", "top_k=1,40")
    assert ran.status == 0
    labels = ["temp=0 top_k=1", "temp=0 top_k=40", "temp=1.5 top_k=1", "temp=1.5 top_k=40"]
    text = ran.stdout.decode("utf-8", "replace")
    assert [line for line in text.splitlines() if line.startswith("== ")] == [f"== {label} ==" for label in labels]
    assert text.endswith("\n")
    assert "VARIANT" not in text
    assert [line.split()[0] for line in ran.stderr.splitlines() if " length" in line] == ["1", "2", "3", "4"]
    assert "4 answers, 48 tokens" in ran.stderr
    assert "DISTINCT-n: share of n-token sequences that are different" in ran.stderr
    assert "\x1b" not in ran.stderr


def test_verbose_shows_the_settings_that_all_answers_share(inside: Run, with_tiny: Path) -> None:
    ran = inside("compare", "hi", "-n", "1", "-t", "1", "--min-p", "0.1", "--vary", "temp=0.2,1", "--verbose")
    assert "min_p = 0.1 (from flag)\n" in ran.stderr
    assert "temperature = " not in ran.stderr
    assert "seed = " not in ran.stderr
    assert "configuration file: " in ran.stderr
    assert "seed = 3 (from flag)\n" in inside(*BASE, "--vary", "temp=0.2,1", "--verbose").stderr


def test_json_is_one_object_with_settings_and_statistics(inside: Run, with_tiny: Path) -> None:
    def data(*flags: str) -> dict[str, object]:
        ran = inside(*BASE, *flags, "--json")
        assert ran.status == 0
        assert ran.text.count("\n") == 1
        found = json.loads(ran.text)
        assert isinstance(found, dict)
        return found

    found = data("--vary", "temp=0.2,0.3..1.3", "--answers", "2")
    assert list(found) == KEYS
    assert found["messages"] == [{"role": "user", "content": "the river"}]
    assert found["seed"] == 3
    variants = found["variants"]
    assert isinstance(variants, list)
    assert [one["label"] for one in variants] == [
        *("temp=0.2 #1", "temp=0.2 #2", "temp=0.3..1.3 #1", "temp=0.3..1.3 #2")
    ]
    assert [one["settings"] for one in variants] == [
        {"temperature": temperature, "seed": seed} for temperature in (0.2, "0.3..1.3") for seed in (3, 4)
    ]
    assert [one["timings"]["prompt_n"] for one in variants] == [variants[0]["prompt_tokens"], 0, 0, 0]
    assert not any("constraint_retries" in one["params"] for one in variants)  # without a schema it has no effect
    assert all(one["stats"]["tokens"] == one["completion_tokens"] == 12 for one in variants)
    assert [one["text"] for one in data("--vary", "temp=0.2,0.3..1.3", "--answers", "2")["variants"]] == [  # type: ignore[attr-defined]
        one["text"] for one in variants
    ]
    assert data("--vary", "temp=0.2,1", "--raw")["prompt"] == "the river"


def test_stdin_is_part_of_every_prompt(inside: Run, with_tiny: Path) -> None:
    ran = inside("compare", "-n", "1", "-t", "1", "--vary", "system=;Be brief.", "--json", stdin="the hill")
    asked = [one["messages"] for one in json.loads(ran.text)["variants"]]
    assert [messages[-1]["content"] for messages in asked] == ["the hill", "the hill"]
    assert asked[1][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (
            ["hi"],
            2,
            "no setting to compare\n  hint: use --vary temp=0.2,0.8 or --answers 4 (-n is the number of tokens)",
        ),
        (["hi", "--vary", "temp=0.2,x"], 2, "temperature must be"),
        (["hi", "--vary", "n_ctx=1,2"], 2, "n_ctx needs a model reload"),
        (["hi", "--vary", "prompt=a,b"], 2, "the prompt is given twice: as an argument and with --vary"),
        (["hi", "--vary", "mirostat=0,1", "--temp", "sentence:1,0.5"], 2, "mirostat=1: mirostat needs a number"),
        (["hi", "--vary", "grammar_file=/no/such;/file"], 6, "grammar_file=/no/such: file not found: /no/such"),
        (["--vary", "temp=1,2"], 2, "no prompt"),
        (["hi", "--n", "0"], 2, "--n must be an integer of at least 1"),
        (["hi", "--answers", "0"], 2, "--answers must be an integer of at least 1"),
        (["hi", "--n", "2", "--answers", "2"], 2, "--answers and --n cannot be used together\n  hint: use --answers"),
        (["hi", "--temp", "0.2,1.4"], 2, "  hint: to compare several values, use `llmcli compare --vary temp=0.2,1.4`"),
        (["hi", "--top-k", "10,40"], 2, "  hint: to compare several values, use `llmcli compare --vary top-k=10,40`"),
        (["-", "--no-stdin", "--vary", "temp=1,2"], 2, "--no-stdin and --prompt (stdin) cannot be used together"),
    ],
)
def test_a_usage_error_comes_before_the_model_is_loaded(inside: Run, flags: list[str], status: int, says: str) -> None:
    ran = inside("compare", *flags, "-m", "/no/such.gguf")
    assert (ran.status, ran.stdout) == (status, b"")
    assert says in ran.stderr


def test_a_comparison_does_not_promise_another_try(inside: Run, with_tiny: Path) -> None:
    schema = '{"const": 3, "not": {"const": 3}}'
    ran = inside(*BASE, "--json-schema", schema, "--vary", "temp=0,1")
    assert ran.status == 9
    assert ran.stderr.count("only the finished answer shows whether it matches /not; it is refused if it does not") == 1
    assert "error: temp=0: the answer does not match json_schema: " in ran.stderr


def test_a_failed_answer_is_reported_last_and_gives_its_status(inside: Run, with_tiny: Path) -> None:
    digits = [f"--logit-bias={token}=-inf" for token in range(51, 61)]  # as bytes, the only ones there are
    ran = inside(*BASE, *digits, "--vary", 'grammar=root ::= [0-9]+;root ::= "ab"')
    assert ran.status == 9
    assert ran.text == '== grammar=root ::= [0-9]+ ==\n\n== grammar=root ::= "ab" ==\nab\n'
    assert "error: grammar=root ::= [0-9]+: no token satisfies the constraints" in ran.stderr


def test_a_warning_names_the_answers_that_ignore_a_setting(inside: Run, with_tiny: Path) -> None:
    ran = inside(*BASE, "--vary", "mirostat=0,2", "--top-k", "5", "--dynatemp-exponent", "2")
    assert "top_k has no effect in mirostat=2: mirostat 2 replaces the chain" in ran.stderr
    assert "dynatemp_exponent has no effect in mirostat=0: needs dynatemp_range" in ran.stderr


def test_an_old_name_and_a_value_that_is_not_a_list_still_work(inside: Run, with_tiny: Path) -> None:
    old, new = (inside(*BASE, flag, "2", "--json") for flag in ("--n", "--answers"))
    assert [one["text"] for one in json.loads(old.text)["variants"]] == [
        one["text"] for one in json.loads(new.text)["variants"]
    ]
    assert "--vary" not in inside("compare", "hi", "--top-k", "x", "--answers", "2").stderr
    shown = inside("compare", "--help").text
    assert "--answers" in shown
    assert "--n " not in shown


def test_no_stdin_leaves_stdin_out_of_every_prompt(inside: Run, with_tiny: Path) -> None:
    ran = inside(*BASE, "--answers", "2", "--no-stdin", "--json", stdin="the hill")
    assert json.loads(ran.text)["messages"] == [{"role": "user", "content": "the river"}]


def test_a_time_limit_ends_the_comparison_with_status_124(inside: Run, with_tiny: Path) -> None:
    flags = ("--answers", "2", "--ignore-eos", "-n", "-1", "-c", "100000", "--timeout", "0.5")
    ran = inside(*BASE, *flags)
    assert ran.status == 124
    assert "stopped by --timeout after 0.5 s" in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_a_terminal_shows_columns_and_ctrl_c_stops_them_all(with_tiny: Path) -> None:
    flags = ("--vary", "temp=0.2,1.5", "--ignore-eos", "--grammar", 'root ::= ("ab ")+', "-n", "-1", "-c", "100000")
    with Talk(*flags, command=COMPARE, columns=80) as talk:
        talk.wait_for("ab ab ab")
        assert "1. temp=0.2" in talk.text()
        rows = [row for row in talk.screen() if "ab" in row and "│" in row]
        assert all(row.index("│") == 39 for row in rows)
        talk.keys(CTRL_C)
        talk.wait_for("2 answers")
        assert talk.wait_end() == -signal.SIGINT
        assert [row.split()[-1] for row in talk.screen() if row.startswith(("1  ", "2  "))] == ["interrupt"] * 2
