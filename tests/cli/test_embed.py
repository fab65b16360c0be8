"""`llmcli embed` and `llmcli rerank`: what they print, store, refuse and skip."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcli.engine.llama.probe import probe_record
from llmcli.errors import LlmcliError
from llmcli.models.notes import record_probed
from llmcli.pipelines.vector_store import VectorStore
from tests.conftest import Run
from tests.models.tiny_models import encoder
from tests.waiting import wait_until

LONG = "a" * 200
LINES = ["cat dog", "bird", "", "cat dog", "cat dogs"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    encoder(folder / "bert.gguf")
    encoder(folder / "cls.gguf", pooling=2)
    encoder(folder / "judge.gguf", pooling=4, n_scores=1)
    return folder


@pytest.fixture
def bert(home: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedding model as the one that the environment names, tried before; and the test's folder as the present."""
    monkeypatch.setenv("LLMCLI_MODEL", str(models / "bert.gguf"))
    monkeypatch.setenv("LLMCLI_N_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (home / "data").mkdir(parents=True, exist_ok=True)
    for path in models.iterdir():
        record_probed(home / "data", [path], probe_record())
    (tmp_path / "notes.txt").write_text("\n".join(LINES) + "\n")
    return models / "bert.gguf"


pytestmark = pytest.mark.usefixtures("bert")


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_text_is_a_line_of_json(inside: Run) -> None:
    ran = inside("embed", "cat", "a dog")
    first, second = objects(ran.text)
    assert (ran.status, ran.stderr) == (0, "")
    assert [first["index"], second["index"], second["text"]] == [0, 1, "a dog"]
    assert [*first] == ["index", "text", "embedding"]
    assert np.linalg.norm(first["embedding"]) == pytest.approx(1)
    assert np.array(first["embedding"], np.float32).tolist() != first["embedding"]  # the shortest numbers
    [named] = objects(inside("embed", "texts", "cat").text)
    assert named["embedding"] == pytest.approx(first["embedding"], abs=1e-5)


def test_each_line_of_a_file_or_stdin_is_a_text(inside: Run) -> None:
    ran = inside("embed", "--file", "notes.txt", "--file", "-", stdin="x\n")
    assert [(one["text"], one["file"], one["line"]) for one in objects(ran.text)] == [
        ("cat dog", "notes.txt", 1),
        ("bird", "notes.txt", 2),
        ("cat dog", "notes.txt", 4),
        ("cat dogs", "notes.txt", 5),
        ("x", "stdin", 1),
    ]
    assert ran.stderr == "skipped 1 empty line\n"
    assert [one["text"] for one in objects(inside("embed", stdin="a\nb\n").text)] == ["a", "b"]
    [whole] = objects(inside("embed", "--file", "notes.txt", "--whole").text)
    assert whole["text"].split("\n") == [*LINES, ""]


@pytest.mark.parametrize(("flags", "encoding"), [((), "utf-16"), (("--encoding", "latin-1"), "latin-1")])
def test_stdin_in_another_encoding_is_read(run: Run, flags: tuple[str, ...], encoding: str) -> None:
    ran = run("embed", *flags, stdin=f"naïve\n{'é' * 20000}\n\nend".encode(encoding))
    assert [(one["text"][:5], one["line"]) for one in objects(ran.text)] == [("naïve", 1), ("é" * 5, 2), ("end", 4)]


def test_a_text_that_begins_with_a_command_needs_dashes(inside: Run) -> None:
    assert [one["text"] for one in objects(inside("embed", "--", "search", "texts").text)] == ["search", "texts"]


def test_a_text_that_fails_leaves_the_others(inside: Run) -> None:
    ran = inside("embed", "cat", LONG, "dog")
    first, second, third = objects(ran.text)
    assert ran.status == 10
    assert second["error"] == {
        "type": "context_overflow",
        "message": "the text has 202 tokens, and the context has 64",
        "hint": "split it, or use --truncate to leave out its end",
    }
    assert ran.stderr.startswith("error: text 2: the text has 202 tokens")
    assert "embedding" in first
    assert "embedding" in third


def test_a_single_text_that_fails_has_its_own_status(inside: Run) -> None:
    assert inside("embed", LONG).status == 7


def test_an_empty_text_has_no_vector(inside: Run, tiny: Path, home: Path, models: Path) -> None:
    """Whatever tokens the model adds to each text."""
    Path("blank.txt").write_text("\n \n")
    first, second = objects(inside("embed", " ", "cat").text)
    assert (first["error"]["message"], "embedding" in second) == ("the text is empty", True)
    whole = inside("embed", "--whole", "-f", "blank.txt")
    assert (whole.status, whole.stderr.splitlines()[0]) == (2, "error: blank.txt: the text is empty")
    record_probed(home / "data", [tiny], probe_record())
    for model in (models / "bert.gguf", models / "judge.gguf", tiny):
        ran = inside("rerank", "cat", "blank.txt", "notes.txt", "--whole", "--json", "-m", str(model))
        assert (ran.status, len(json.loads(ran.text)["results"])) == (10, 1)
        assert "error: blank.txt: the text is empty" in ran.stderr


def test_truncation_is_warned_of(inside: Run) -> None:
    ran = inside("embed", LONG, "--truncate")
    assert (ran.status, len(objects(ran.text)[0]["embedding"])) == (0, 32)
    assert ran.stderr == "warning: left out the end of 1 text: longer than the context\n"


def test_no_pooling_gives_a_vector_for_each_token(inside: Run) -> None:
    [one] = objects(inside("embed", "cat", "--pooling", "none").text)
    assert np.array(one["embedding"]).shape == (5, 32)


def test_an_array_has_a_row_for_each_text(inside: Run) -> None:
    Path("notes.txt").write_text(f"cat\n{LONG}\ndog\n")
    ran = inside("embed", "-f", "notes.txt", "-o", "notes.npy")
    rows = np.load("notes.npy")
    assert (ran.status, ran.text) == (10, "")
    assert ran.stderr.endswith("notes.npy: 3 vectors of 32 numbers\n")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]
    assert rows[2].tolist() == pytest.approx(objects(inside("embed", "dog").text)[0]["embedding"], abs=1e-4)
    again = inside("embed", "x", "-o", "notes.npy")
    assert (again.status, again.stderr.splitlines()[0]) == (2, "error: notes.npy already exists")
    assert inside("embed", "x", "-o", "notes.npy", "--force").status == 0
    assert np.load("notes.npy").shape == (1, 32)


def test_a_store_grows_and_skips_what_it_has(inside: Run) -> None:
    first = inside("embed", "-f", "notes.txt", "-o", "notes.db")
    assert (first.status, first.text) == (0, "")
    assert first.stderr.startswith("notes.db: added 4 texts\n")
    Path("notes.txt").write_text("\n".join([*LINES, "more"]))
    second = inside("embed", "-f", "notes.txt", "-o", "notes.db")
    assert second.stderr.startswith("notes.db: added 1 text, skipped 4 that it had\n")
    inside("embed", "alone", "-o", "notes.db", "--force")
    with closing(VectorStore(Path("notes.db"))) as store:
        assert store.texts([int(number) for number in store.ids()])[1].text == "alone"
        assert len(store.ids()) == 1


def test_a_store_of_another_model_names_both(inside: Run, models: Path) -> None:
    inside("embed", "x", "-o", "notes.db")
    other = str(models / "cls.gguf")
    for arguments in (("x", "-o", "notes.db", "-m", other), ("search", "x", "notes.db", "-m", other)):
        ran = inside("embed", *arguments)
        assert (ran.status, ran.text) == (2, "")
        assert "error: notes.db has vectors of 'bert', not of 'cls'" in ran.stderr
    pooled = inside("embed", "x", "-o", "notes.db", "--pooling", "last")
    assert "32 numbers with pooling mean, not of 32 numbers with pooling last" in pooled.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "-o", "x.txt"), "the suffix of 'x.txt' is not one of vectors"),
        (("x", "-o", "folder.db"), "folder.db is a folder, not a file"),
        (("x", "-o", "folder.npy", "--force"), "folder.npy is a folder, not a file"),
        (("x", "-o", "missing/x.db", "-m", "nothing.gguf"), "the folder 'missing' does not exist"),
        (("x", "-o", "x.db", "--pooling", "none"), "pooling none gives no vector of a text to store"),
        (("x", "--pooling", "sum"), "pooling must be one of mean, cls, last, rank, none, got 'sum'"),
        (("x", "--pooling", "rank"), "pooling rank needs a reranking model, and bert is not one"),
        (("x", "--similarity"), "--similarity needs two texts, or a file with two on each line, got 1 text"),
        (("x", "y", "--similarity", "-o", "x.db"), "--similarity prints to stdout and stores no vectors"),
        (("x", "y", "--similarity", "--pooling", "none"), "pooling none gives no vector of a text to compare"),
        (("x", "--whole"), "--whole needs a file"),
        (("-f", "-", "-f", "-"), "stdin can be read only once, and it is given twice"),
        (("search", " ", "x.db"), "the query is empty"),
        (("duplicates", "x.db", "--above", "nan"), "--above must be between -1 and 1, got nan"),
        (("duplicates", "x.db", "--above", "1.5"), "--above must be a number between -1 and 1, got '1.5'"),
    ],
)
def test_a_wrong_use_is_refused(inside: Run, arguments: tuple[str, ...], message: str) -> None:
    for name in ("folder.db", "folder.npy"):
        Path(name).mkdir()
    ran = inside("embed", *arguments)
    assert (ran.status, ran.text, ran.stderr.splitlines()[0]) == (2, "", f"error: {message}")
    assert not Path("x.db").exists()


def test_a_text_that_names_a_file_is_not_taken_silently(inside: Run) -> None:
    ran = inside("embed", "notes.txt")
    assert (ran.status, len(objects(ran.text))) == (0, 1)
    assert ran.stderr == "warning: 'notes.txt' is taken as a text; for the text of this file, use --file\n"
    inside("embed", "x", "-o", "notes.db")
    forgotten = inside("embed", "where do cats sleep?", "notes.db")
    assert (forgotten.status, forgotten.text) == (2, "")
    assert "'notes.db' is the name of a store, not a text" in forgotten.stderr


def test_what_a_shell_makes_of_a_pattern_is_refused(inside: Run) -> None:
    Path("more.txt").write_text("x\n")
    ran = inside("embed", "-f", "notes.txt", "more.txt")
    assert (ran.status, ran.text) == (2, "")
    assert ran.stderr == (
        "error: 'more.txt' is the name of a file, not a text\n  hint: give each file its own --file\n"
    )


def test_a_search_with_the_store_first_says_the_order(inside: Run) -> None:
    inside("embed", "x", "-o", "order.db")
    ran = inside("embed", "search", "order.db", "cats")
    assert (ran.status, ran.stderr) == (
        6,
        "error: store not found: cats\n  hint: give the query first, then the store\n",
    )


def test_a_missing_file_is_an_error_before_the_model(inside: Run) -> None:
    ran = inside("embed", "-f", "nothing.txt", "-m", "nothing.gguf")
    assert (ran.status, ran.stderr.splitlines()[0]) == (6, "error: file not found: nothing.txt")


def test_the_similarity_of_two_texts_is_their_cosine(inside: Run) -> None:
    a, b = (np.array(one["embedding"]) for one in objects(inside("embed", "cat", "a dog").text))
    assert inside("embed", "cat", "a dog", "--similarity").text == f"{a @ b:.4f}\n"
    assert inside("embed", "cat", "cat", "--similarity").text == "1.0000\n"
    [one] = objects(inside("embed", "cat", "a dog", "--similarity", "--json").text)
    assert (one["texts"], one["similarity"]) == (["cat", "a dog"], pytest.approx(a @ b, abs=1e-5))


def test_pairs_in_a_file_have_a_line_each(inside: Run) -> None:
    ran = inside("embed", "--similarity", "--json", stdin=f'cat\tcat\nalone\n["a", "b"]\na\t{LONG}\nc\tc\n')
    found = objects(ran.text)
    assert ran.status == 10
    assert [one["index"] for one in found] == [0, 1, 2, 3, 4]
    assert [one.get("similarity") is not None for one in found] == [True, False, True, False, True]
    assert [found[number]["error"]["type"] for number in (1, 3)] == ["usage", "context_overflow"]
    assert "error: stdin:2: the line does not have two texts\n" in ran.stderr


def test_search_prints_score_place_and_text(inside: Run) -> None:
    inside("embed", "-f", "notes.txt", "-o", "notes.db")
    ran = inside("embed", "search", "cat dog", "notes.db", "-k", "2")
    assert (ran.status, ran.stderr) == (0, "")
    assert sorted(ran.text.splitlines()) == ["1.0000  notes.txt:1  cat dog", "1.0000  notes.txt:4  cat dog"]
    hits = json.loads(inside("embed", "search", "bird", "notes.db", "--json").text)
    assert len(hits) == 4
    assert hits[0] == {"score": pytest.approx(1, abs=1e-5), "id": 2, "text": "bird", "file": "notes.txt", "line": 2}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_search_takes_the_model_of_the_store(inside: Run, models: Path) -> None:
    inside("embed", "cat", "-o", "notes.db", "-m", str(models / "cls.gguf"))
    ran = inside("embed", "search", "cat", "notes.db", env={"LLMCLI_MODEL": "nothing.gguf"})
    assert (ran.status, ran.text) == (0, "1.0000  cat\n")


def test_duplicates_are_groups_with_their_places(inside: Run) -> None:
    inside("embed", "-f", "notes.txt", "-o", "notes.db")
    ran = inside("embed", "duplicates", "notes.db", "--above", "0.99999")
    assert (ran.status, ran.text) == (
        0,
        "group 1: 2 texts\n1.0000  notes.txt:1  cat dog\n1.0000  notes.txt:4  cat dog\n",
    )
    [group] = objects(inside("embed", "duplicates", "notes.db", "--above", "0.99999", "--json").text)
    assert [one["line"] for one in group["texts"]] == [1, 4]
    [pair] = objects(inside("embed", "duplicates", "notes.db", "--above", "0.99999", "--json", "--pairs").text)
    assert ([one["id"] for one in pair["texts"]], pair["score"]) == ([1, 3], pytest.approx(1))


def test_a_store_without_duplicates_has_status_1(inside: Run) -> None:
    inside("embed", "cat", "a b c d e f", "-o", "notes.db")
    ran = inside("embed", "duplicates", "notes.db", "--above", "0.99999")
    assert (ran.status, ran.text, ran.stderr) == (1, "", "no two texts have a cosine of 0.99999 or more\n")


def test_rerank_orders_by_a_reranking_model(inside: Run, models: Path) -> None:
    judge = str(models / "judge.gguf")
    ran = inside("rerank", "cat", "notes.txt", "-m", judge, "--json")
    found = json.loads(ran.text)
    scores = [one["score"] for one in found["results"]]
    assert (ran.status, found["model"], found["method"]) == (0, "judge", "reranker")
    assert scores == sorted(scores, reverse=True)
    assert sorted(one["index"] for one in found["results"]) == [0, 1, 2, 3]
    best = inside("rerank", "cat", "notes.txt", "-m", judge, "-k", "1")
    assert best.text.split()[1] == f"notes.txt:{found['results'][0]['line']}"
    assert "scores: outputs of a reranking model" in best.stderr


def test_rerank_with_an_embedding_model_orders_by_cosine(inside: Run) -> None:
    ran = inside("rerank", "bird", "-", "-k", "2", stdin="\n".join(LINES))
    assert (ran.status, ran.text.splitlines()[0]) == (0, "1.0000  stdin:2  bird")
    assert len(ran.text.splitlines()) == 2
    assert "scores: cosines of vectors" in ran.stderr


def test_rerank_with_a_model_for_text_says_so(inside: Run, tiny: Path, home: Path) -> None:
    record_probed(home / "data", [tiny], probe_record())
    ran = inside("rerank", "the hen", "notes.txt", "-m", str(tiny), "--json")
    found = json.loads(ran.text)
    assert (ran.status, found["method"], len(found["results"])) == (0, "likelihood", 4)
    assert all(one["score"] < 0 for one in found["results"])
    assert "scores: mean log-probabilities of the query after each document" in ran.stderr


def test_rerank_of_whole_files_names_the_files(inside: Run) -> None:
    for name in ("a", "b"):
        Path(f"{name}.txt").write_text(f"{name}\n\n{name} {name}\n")
    found = json.loads(inside("rerank", "a", "a.txt", "b.txt", "--whole", "--json").text)
    first, _ = found["results"]
    assert (first["file"], first["text"]) == ("a.txt", "a\n\na a\n")


def test_embedding_with_a_reranking_model_names_rerank(inside: Run, models: Path) -> None:
    ran = inside("embed", "x", "-m", str(models / "judge.gguf"))
    assert ran.status == 2
    assert "judge is a reranking model, which gives a score and no vector" in ran.stderr
    assert "llmcli rerank" in ran.stderr


def count_stored() -> int:
    with suppress(LlmcliError), closing(VectorStore(Path("notes.db"))) as store:
        return len(store.ids())
    return 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_is_stored(bert: Path) -> None:
    command = [sys.executable, "-m", "llmcli", "embed", "-f", "-", "-o", "notes.db"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for number in range(300):
            process.stdin.write(b"line %d\n" % number)
        process.stdin.flush()
        wait_until(lambda: count_stored() >= 64)
        process.send_signal(signal.SIGINT)
        with suppress(BrokenPipeError):  # it may have ended by now
            process.stdin.write(b"more\n" * 200)
            process.stdin.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == -signal.SIGINT
    n_stored = count_stored()
    assert 64 <= n_stored < 500
    assert f"notes.db: added {n_stored} texts" in said


PAGE = Path(__file__).parents[2] / "docs/embeddings.md"
EXAMPLES = re.findall(r"^\$ (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a POSIX shell")
def test_the_examples_of_the_page_run_as_written(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "user" / "models"
    folder.mkdir(parents=True)
    shutil.copy(bert, folder / "bge-small-en-v1.5-f16.gguf")
    for name in ("more", "a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"cat {name}\n")
    (tmp_path / "pairs.tsv").write_text('cat\tdog\n["a", "b"]\n')
    script = 'llmcli() { "$PYTHON" -m llmcli "$@"; }\nset -e -o pipefail\n' + "".join(
        f"echo '$' {shlex.quote(example)} >&2\n{example}\n" for example in EXAMPLES
    )
    ran = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert len(EXAMPLES) > 15
    assert len((tmp_path / "vectors.jsonl").read_text().splitlines()) == 4
    assert np.load("notes.npy").shape == (4, 32)
    assert count_stored() == 5
