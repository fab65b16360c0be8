"""A store keeps texts with their vectors, and refuses what it did not make; an array has a row for each text."""

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcli.errors import DiskError, UsageError
from llmcli.pipelines.text_source import Text
from llmcli.pipelines.vector_search import duplicate_groups, search, similar_pairs
from llmcli.pipelines.vector_store import ArrayFile, StoreIdentity, VectorStore, remove_store

IDENTITY = StoreIdentity("tiny", "tiny.gguf", "ab" * 32, "mean", 3)
MAKE_TOGETHER = """
import sys, time
from pathlib import Path
import numpy
from llmcli.pipelines import vector_store
from llmcli.pipelines.text_source import Text
path, number = Path(sys.argv[1]), int(sys.argv[2])
vector_store._PATIENCE = 60.0
make = vector_store.VectorStore._make
def make_late(store, identity):
    (path.parent / f"ready-{number}").touch()
    while len([*path.parent.glob("ready-*")]) < 4:
        time.sleep(0.001)
    make(store, identity)
vector_store.VectorStore._make = make_late
store = vector_store.VectorStore(path, vector_store.StoreIdentity("tiny", "tiny.gguf", "ab" * 32, "mean", 3))
store.add([(Text(f"text {number}"), numpy.ones(3, numpy.float32))])
store.close()
"""


def vector(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


def text(number: int) -> Text:
    return Text(f"text {number}", "a.txt", number)


def make(path: Path, vectors: Sequence[Any]) -> VectorStore:
    store = VectorStore(path, IDENTITY)
    store.add([(text(number), one) for number, one in enumerate(vectors, 1)])
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a #1?.db"  # a path that is not simply an address


def test_a_store_gives_back_texts_places_and_vectors(path: Path) -> None:
    make(path, [vector(3, 0, 4), vector(0, 0, 0)]).close()
    with closing(VectorStore(path)) as store:
        assert store.identity == IDENTITY
        [(ids, matrix)] = store.blocks()
        assert store.texts([2])[2].place == "a.txt:2"
    assert ids.tolist() == [1, 2]
    assert matrix == pytest.approx(np.array([[0.6, 0, 0.8], [0, 0, 0]]))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_store_is_private(path: Path) -> None:
    make(path, []).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_text_at_the_same_place_is_stored_once(path: Path) -> None:
    with closing(make(path, [vector(1, 0, 0)])) as store:
        assert not store.is_missing(text(1))
        assert store.is_missing(text(2))
        assert store.is_missing(Text("text 1", "b.txt", 1))
        store.add([(text(1), vector(0, 1, 0))])
        assert store.ids().tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other", "sha256": "cd" * 32}, "has vectors of 'tiny', not of 'other'"),
        ({"sha256": "cd" * 32}, "not of 'tiny', of another file (sha256 abababababab, not cdcdcdcdcdcd)"),
        ({"pooling": "cls"}, "has vectors of 3 numbers with pooling mean, not of 3 numbers with pooling cls"),
    ],
)
def test_a_store_of_another_model_is_refused(path: Path, change: dict[str, Any], message: str) -> None:
    make(path, []).close()
    with pytest.raises(UsageError) as caught:
        VectorStore(path, replace(IDENTITY, **change))
    assert message in str(caught.value)
    assert caught.value.hint == "use -m tiny.gguf, another store, or replace this one with --force"


def test_the_same_model_under_another_name_is_taken(path: Path) -> None:
    make(path, []).close()
    VectorStore(path, replace(IDENTITY, model="other", reference="other.gguf")).close()


def corrupt(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET vector = x'00'",
        "UPDATE vectors SET vector = 'text'",
        "UPDATE vectors SET vector = x'0000c07f0000000000000000'",  # NaN
        "UPDATE vectors SET text = CAST(x'ff' AS TEXT)",  # not UTF-8
        "UPDATE vectors SET line = 'first'",
        "UPDATE store SET value = 'many' WHERE key = 'n_dims'",
        "UPDATE store SET value = '-3' WHERE key = 'n_dims'",
        "DELETE FROM store WHERE key = 'model'",
        "DROP TABLE vectors",
        "DROP TABLE store",
        "CREATE VIEW v AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "CREATE TRIGGER t AFTER INSERT ON vectors BEGIN DELETE FROM vectors; END",
    ],
)
def test_a_store_that_was_changed_is_refused(path: Path, statement: str) -> None:
    make(path, [vector(1, 0, 0)]).close()
    corrupt(path, statement)
    with pytest.raises(UsageError, match="is not a store of vectors"), closing(VectorStore(path)) as store:
        search(store, vector(1, 0, 0), 1)


def test_a_store_with_numbers_in_a_circle_is_refused(path: Path) -> None:
    """As the pages of a damaged file can be; here, a number is there twice."""
    make(path, [vector(1, 0, 0)]).close()
    corrupt(path, "ALTER TABLE vectors RENAME TO old")
    corrupt(path, "CREATE TABLE vectors AS SELECT * FROM old UNION ALL SELECT * FROM old")
    with pytest.raises(UsageError, match="is not a store of vectors"), closing(VectorStore(path)) as store:
        search(store, vector(1, 0, 0), 1)


def test_programs_that_make_one_store_at_once_all_add_to_it(path: Path) -> None:
    """Each of them has seen that there is none, before the first one makes it."""
    processes = [
        subprocess.Popen([sys.executable, "-c", MAKE_TOGETHER, str(path), str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    assert [(one.communicate()[1], one.returncode) for one in processes] == [(b"", 0)] * 4
    with closing(VectorStore(path)) as store:
        assert len(store.ids()) == 4
        assert store.identity == IDENTITY


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    make(path, []).close()
    corrupt(path, "UPDATE store SET value = '2' WHERE key = 'version'")
    with pytest.raises(UsageError, match="newer version"):
        VectorStore(path)


def test_another_file_is_not_a_store(path: Path) -> None:
    path.write_bytes(b"hello " * 1000)
    for identity in (None, IDENTITY):
        with pytest.raises(UsageError, match="is not a store of vectors"):
            VectorStore(path, identity)
    assert path.read_bytes().startswith(b"hello")


def test_a_missing_store_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(DiskError, match="store not found") as caught:
        VectorStore(path)
    assert "llmcli embed" in caught.value.hint
    assert not path.exists()


def test_a_store_that_another_program_writes_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.pipelines.vector_store._PATIENCE", 0.01)
    store = make(path, [])
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DiskError, match="locked"):
            store.add([(text(1), vector(1, 0, 0))])
    store.close()


def test_a_removed_store_leaves_nothing(path: Path) -> None:
    make(path, []).close()
    Path(f"{path}-journal").touch()
    remove_store(path)
    remove_store(path)
    assert [*path.parent.iterdir()] == []


def random_vectors(n: int, n_dims: int = 3) -> Any:
    return np.array(np.random.default_rng(1).normal(size=(n, n_dims)), np.float32)


def test_search_finds_the_best_of_all_blocks(path: Path) -> None:
    vectors, query = random_vectors(9000), vector(1, 2, 3)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    done: list[int] = []
    with closing(make(path, vectors)) as store:
        hits = search(store, query, 7, done.append)
    assert [hit.text.id - 1 for hit in hits] == np.argsort(-cosines)[:7].tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(cosines)[::-1][:7].tolist(), abs=1e-6)
    assert done == [4096, 8192, 9000]


def test_search_in_an_empty_store_finds_nothing(path: Path) -> None:
    with closing(make(path, [])) as store:
        assert search(store, vector(1, 0, 0), 5) == []
        assert [*duplicate_groups(store, 0.5)] == []


@pytest.fixture
def many(path: Path) -> Iterator[tuple[VectorStore, Any]]:
    vectors = random_vectors(5000, 8)
    vectors[[1500, 4500]] = 2 * vectors[7]  # copies in other blocks, of another length
    store = VectorStore(path, replace(IDENTITY, n_dims=8))
    store.add([(text(number), one) for number, one in enumerate(vectors, 1)])
    yield store, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    store.close()


def test_pairs_are_all_those_above_the_limit(many: tuple[VectorStore, Any]) -> None:
    store, unit = many
    found = {(a, int(b)) for a, others, _ in similar_pairs(store, 0.97) for b in others}
    first, second = np.nonzero(np.triu(unit @ unit.T, 1) >= 0.97)
    assert found == {(int(a) + 1, int(b) + 1) for a, b in zip(first, second, strict=True)}
    assert {(8, 1501), (8, 4501), (1501, 4501)} <= found


def test_copies_are_one_group_in_the_order_of_the_store(many: tuple[VectorStore, Any]) -> None:
    groups = [[hit.text.id for hit in group] for group in duplicate_groups(many[0], 0.9999)]
    assert groups == [[8, 1501, 4501]]


def test_equal_texts_are_copies_for_a_limit_of_one(path: Path) -> None:
    """The vectors of one text in two batches differ by rounding, and their cosine is below 1."""
    twins = [vector(0.6, 0.8, 0), vector(0.6, 0.79999995, 0)]
    with closing(make(path, [*twins, vector(0.6, 0.8, 0.01)])) as store:
        [group] = duplicate_groups(store, 1.0)
    assert [hit.text.id for hit in group] == [1, 2]


def test_a_chain_of_pairs_is_one_group(path: Path) -> None:
    angles = [0.0, 2.0, 0.2, 0.4, 2.1]
    with closing(make(path, [vector(np.cos(a), np.sin(a), 0) for a in angles])) as store:
        groups = [*duplicate_groups(store, float(np.cos(0.25)))]
    assert [[hit.text.id for hit in group] for group in groups] == [[1, 3, 4], [2, 5]]
    assert [hit.score for hit in groups[0]] == pytest.approx([1, np.cos(0.2), np.cos(0.4)], abs=1e-6)


def test_equal_texts_without_number_are_one_group(path: Path) -> None:
    with closing(make(path, [vector(1, 2, 3)] * 2500)) as store:
        [group] = duplicate_groups(store, 1 - 1e-5)
    assert len(group) == 2500


def test_an_array_appears_when_it_is_complete(tmp_path: Path) -> None:
    file = ArrayFile(tmp_path / "a.npy", 3)
    for number in range(1000):
        file.add([vector(number, 0, 1)])
    assert not (tmp_path / "a.npy").exists()
    file.save()
    file.close()
    found = np.load(tmp_path / "a.npy")
    assert (found.shape, found.dtype, found[999].tolist()) == ((1000, 3), np.float32, [999, 0, 1])
    assert [one.name for one in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ArrayFile(tmp_path / "a.npy", 3)
    file._file.close()
    monkeypatch.setattr(file, "_file", open("/dev/full", "wb"))  # noqa: SIM115 - the array closes it
    with pytest.raises(DiskError, match=r"cannot write .*a\.npy: No space left"):
        file.add([vector(1, 2, 3)] * 100_000)
    file.close()
    assert [*tmp_path.iterdir()] == []


def test_an_array_that_is_not_saved_leaves_nothing(tmp_path: Path) -> None:
    file = ArrayFile(tmp_path / "a.npy", 3)
    file.add([vector(1, 2, 3)])
    file.close()
    assert [*tmp_path.iterdir()] == []
