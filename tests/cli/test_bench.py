"""`llmcli bench`: its forms, what it refuses, and the settings that it keeps."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.benchmark import Sample, SpeedContext
from llmcli.errors import DiskError
from llmcli.inference import fastest_settings, tuning
from llmcli.inference.tuning import Choice, SearchResult
from tests.conftest import Run
from tests.models.tiny_models import encoder

pytestmark = pytest.mark.usefixtures("with_tiny")
SHORT = ("-p", "8", "-n", "2", "-r", "2", "-t", "1")
FOUND = SearchResult({"n_threads": 1, "n_ubatch": 256}, [Choice("n_threads", 1, 0, 0.2)], 0.2, 0.0)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """A search that finds `FOUND` at once; the list has the settings that it must not change."""
    fixed: list[set[str]] = []

    class Search:
        def __init__(self, _engine: object, _settings: object, chosen: set[str], *_others: object) -> None:
            fixed.append(chosen)

        def run(self) -> SearchResult:
            return FOUND

    monkeypatch.setattr(tuning, "Search", Search)
    return fixed


def test_a_table_has_a_row_for_each_test(inside: Run) -> None:
    ran = inside("bench", *SHORT, "-d", "0,16", "--parallel", "1,3")
    assert (ran.status, ran.stderr) == (0, "")
    facts, table = ran.text.split("\n\n")
    assert [line.split()[0] for line in facts.splitlines()] == ["model", "machine", "threads", "load"]
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    assert rows[0] == ["TEST", "TOKENS/S", "FIRST TOKEN"]
    assert [row[0] for row in rows[1:]] == ["pp8", "tg2", "tg2 x3", "pp8 @ d16", "tg2 @ d16", "tg2 x3 @ d16"]
    assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row[1]) for row in rows[1:])
    assert re.fullmatch(r"\d+ ± \d+ ms", rows[1][2])


def test_the_model_is_an_argument_or_a_flag(inside: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMCLI_MODEL")
    for words in ([str(tiny)], ["-m", str(tiny)]):
        assert inside("bench", *words, *SHORT, "-n", "0").status == 0
    ran = inside("bench", str(tiny), "-m", str(tiny))
    assert (ran.status, ran.stderr.splitlines()[0]) == (
        2,
        "error: the model is given twice, as an argument and as an option",
    )


def test_json_has_the_names_of_llama_bench(inside: Run) -> None:
    data: dict[str, Any] = json.loads(inside("bench", *SHORT, "--json").text)
    assert data["load_ms"] > 0
    prompt, answer = data["tests"]
    names = {"build_commit", "cpu_info", "model_type", "model_size", "n_batch", "n_ubatch", "n_threads", "type_k"}
    names |= {"n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns"}
    assert names <= prompt.keys()
    assert (prompt["n_prompt"], prompt["n_gen"], answer["n_prompt"], answer["n_gen"]) == (8, 0, 0, 2)
    assert len(prompt["samples_ns"]) == len(prompt["samples_ts"]) == 2
    assert prompt["samples_ts"][0] == pytest.approx(8e9 / prompt["samples_ns"][0], rel=1e-4)
    assert prompt["first_token_ms"] > 0
    assert answer["first_token_ms"] is None
    assert "fastest" not in data


def test_csv_has_a_line_for_each_test(inside: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(inside("bench", *SHORT, "--csv").text)))
    assert [(row["n_prompt"], row["n_gen"], row["test"]) for row in rows] == [("8", "0", "pp8"), ("0", "2", "tg2")]
    assert float(rows[0]["avg_ts"]) > 0


def test_markdown_is_the_table_of_llama_bench(inside: Run) -> None:
    lines = inside("bench", *SHORT, "--markdown").text.splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert lines[1].startswith("| ------------------------------ | ---------: |")
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[3:6] == ["CPU", "1", "pp8"]
    assert re.fullmatch(r"build: \S+; load: \d+ ms; first token: pp8 \d+ ± \d+ ms", lines[-1])
    assert len({len(line) for line in lines[:4]}) == 1


def test_what_varies_is_a_column(inside: Run) -> None:
    ran = inside("bench", *SHORT, "-n", "0", "--vary", "flash-attn=on,off", "--vary", "ubatch-size=4,8")
    labels = re.findall(r"^pp8 +(\S+ \S+) ", ran.text, re.MULTILINE)
    assert labels == [f"flash-attn={fa} ubatch-size={size}" for fa in ("on", "off") for size in (4, 8)]
    ran = inside("bench", *SHORT, "-n", "0", "--vary", "flash-attn=on,off", "-ctk", "f32", "--markdown")
    heads = [cell.strip() for cell in ran.text.splitlines()[0].strip("|").split("|")]
    assert heads[4:] == ["threads", "type_k", "fa", "test", "t/s"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "x"], "--n-prompt must be integers between 0 and 1048576, got 'x'"),
        (["-n", "1,,2"], "--n-gen must be integers between 0 and 1048576, got '1,,2'"),
        (["-d", "-1"], "--n-depth must be integers between 0 and 1048576, got '-1'"),
        (["--parallel", "0"], "--parallel must be integers between 1 and 256, got '0'"),
        (["--parallel", "257"], "--parallel must be integers between 1 and 256, got '257'"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-p", "2000"], "pp2000 needs a context of 2000 tokens, and the model was trained on 1024"),
        (["--json", "--markdown"], "--json and --markdown cannot be used together"),
        (["--forget", "--save"], "--forget and --save cannot be used together"),
        (["--vary", "temp=1,2"], "temperature cannot be compared"),
        (["-ctv", "q8_0", "--vary", "fa=on"], "unknown setting 'fa'"),
        (["-ctv", "q8_0", "-fa", "off"], "cache_type_v q8_0 needs flash attention"),
        (["-t", "1,2"], "n_threads must be an integer, got '1,2'"),
    ],
)
def test_bad_values_are_refused_before_the_load(inside: Run, words: list[str], message: str) -> None:
    ran = inside("bench", *words)
    assert (ran.status, ran.stdout) == (2, b"")
    assert ran.stderr.splitlines()[0] == f"error: {message}"


def test_a_list_of_values_for_a_flag_names_the_way(inside: Run) -> None:
    hint = inside("bench", "-t", "1,2").stderr.splitlines()[1]
    assert hint == "  hint: to measure several values, use `llmcli bench --vary threads=1,2`"


def test_a_model_without_answers_is_refused(inside: Run, tmp_path: Path) -> None:
    tmp_path.joinpath("models").mkdir()
    ran = inside("bench", str(encoder(tmp_path / "models" / "bert.gguf")))
    assert ran.status == 8
    assert ran.stdout == b""


def test_a_time_limit_keeps_what_is_measured(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SpeedContext.run

    def run_until_the_limit(self: SpeedContext) -> Sample:
        if self.test.n_gen:
            self._context._watched[0].set("timeout")
        return run(self)

    monkeypatch.setattr(SpeedContext, "run", run_until_the_limit)
    ran = inside("bench", *SHORT, "--timeout", "1000", "--search", "--json")
    assert ran.status == 124
    assert [one["test"] for one in json.loads(ran.text)["tests"]] == ["pp8"]


def test_a_test_that_fails_ends_no_other_one(inside: Run) -> None:
    ran = inside(
        "bench", *SHORT, "--vary", "cache-type-k=q8_0,f16", "-n", "0"
    )  # a head is smaller than a block of Q8_0
    assert ran.status == 1
    assert ran.text.splitlines()[-1].startswith("pp8   cache-type-k=f16 ")
    assert ran.stderr.startswith("error: pp8 cache-type-k=q8_0: cannot create a context of 8 tokens: ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", -2), ("SIGTERM", 143)])
def test_a_signal_keeps_what_is_measured(tmp_path: Path, name: str, status: int) -> None:
    """The second test has so many samples that it is measured when the first of them is there."""
    log = tmp_path / "stderr"
    program = _INTERRUPTED.replace("SIGINT", name)
    command = [sys.executable, "-c", program, "bench", "-p", "8", "-n", "1", "-r", "1000", "-t", "1", "--json"]
    with log.open("wb") as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=os.environ, check=False)
    assert done.returncode == status, log.read_text()
    prompt, answer = json.loads(done.stdout)["tests"]
    assert len(prompt["samples_ns"]) == 1000
    assert len(answer["samples_ns"]) == 7


# The program, with a signal of its own at the eighth sample of the second test.
_INTERRUPTED = """
import signal, time
from llmcli.engine import benchmark

run, seen = benchmark.SpeedContext.run, []

def interrupted(self):
    seen.append(self.test.n_gen)
    if sum(seen) == 8:
        signal.raise_signal(signal.SIGINT)
        while not any(one.is_set() for one in self._context._watched):
            time.sleep(0.001)
    return run(self)

benchmark.SpeedContext.run = interrupted
from llmcli.cli.app import main
main()
"""


def test_a_search_says_what_is_fastest_and_keeps_nothing(
    inside: Run, found: list[set[str]], home: Path, tiny: Path
) -> None:
    ran = inside("bench", *SHORT, "--search")
    assert ran.text.splitlines()[-2:] == [
        "fastest here: --threads 1 --ubatch-size 256 (prompts 25% faster)",
        "to keep them, use `llmcli bench --save`",
    ]
    assert fastest_settings.saved_layer(home / "data", tiny).values == {}
    assert found == [{"model", "n_threads"}]  # which the environment and the command line set


def test_saved_settings_are_used_and_said_until_they_are_forgotten(
    inside: Run, found: list[set[str]], home: Path, tiny: Path
) -> None:
    ran = inside("bench", "-p", "0", "-n", "0", "--save")
    assert ran.text.splitlines()[-1] == ("kept for this model on this machine; `llmcli bench --forget` removes them")
    said = "uses the fastest settings that `llmcli bench` found for this model: n_threads 1, n_ubatch 256"
    assert said in inside("chat", "-n", "1", stdin="hello\n").stderr.splitlines()
    verbose = inside("generate", "-n", "1", "-v", "hello").stderr.splitlines()
    assert "n_ubatch = 256 (from bench)" in verbose
    assert "n_ubatch = 512 (from flag)" in inside("generate", "-n", "1", "-v", "-ub", "512", "hello").stderr
    assert "n_threads" not in inside("chat", "-n", "1", "-t", "0", stdin="hello\n").stderr
    assert re.search(
        r"kept by bench +n_threads 1, n_ubatch 256$", inside("models", "show", str(tiny)).text, re.MULTILINE
    )
    ran = inside("bench", "--forget")
    assert (ran.status, ran.stderr) == (0, "removed the settings of `llmcli bench` for tiny\n")
    assert inside("bench", "--forget").stderr == "`llmcli bench` has kept no settings for tiny\n"
    assert said not in inside("chat", "-n", "1", stdin="hello\n").stderr


def test_what_cannot_be_kept_is_printed_with_the_error(
    inside: Run, found: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise DiskError("cannot create the file")

    monkeypatch.setattr(fastest_settings, "save", fail)
    ran = inside("bench", *SHORT, "--save")
    assert ran.status == 6
    assert "tg2" in ran.text
    assert ran.text.splitlines()[-1] == "to keep them, use `llmcli bench --save`"
    assert "error: cannot create the file" in ran.stderr


def test_what_is_found_on_a_busy_machine_is_not_kept(
    inside: Run, monkeypatch: pytest.MonkeyPatch, home: Path, tiny: Path
) -> None:
    monkeypatch.setattr(tuning.Search, "run", lambda _self: replace(FOUND, is_busy=True))
    ran = inside("bench", "-p", "0", "-n", "0", "--save")
    reason = "--save keeps nothing, because at rest, other settings may be faster"
    assert ran.stderr == f"warning: other programs use the processors: {reason}\n"
    assert "--save keeps" not in inside("bench", "-p", "0", "-n", "0", "--search").stderr
    assert ran.text.splitlines()[-1] == "to keep them, use `llmcli bench --save` when the machine is at rest"
    assert fastest_settings.saved_layer(home / "data", tiny).values == {}


def test_the_settings_of_a_chat_show_where_they_are_from(run: Run, home: Path, tiny: Path) -> None:
    fastest_settings.save(home / "data", tiny, {"n_ubatch": 256})
    chat = run("chat", "-n", "1", "-t", "1", stdin="hello\n/params all\n")
    assert re.search(r"n_ubatch\s+256\s+bench", chat.stderr)


def test_a_search_that_finds_nothing_removes_what_was_kept(
    inside: Run, monkeypatch: pytest.MonkeyPatch, home: Path, tiny: Path
) -> None:
    fastest_settings.save(home / "data", tiny, {"n_threads": 1})
    monkeypatch.setattr(tuning.Search, "run", lambda _self: SearchResult())
    ran = inside("bench", "-p", "0", "-n", "0", "--save", "--json")
    assert json.loads(ran.text)["fastest"] == {
        "settings": {},
        "gain": {"prompt": 0.0, "generation": 0.0},
        "saved": False,
    }
    assert fastest_settings.saved_layer(home / "data", tiny).values == {}
