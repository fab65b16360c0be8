"""Partial downloads: resumed at the right byte, and never more bytes than were written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llmcli.errors import DiskError
from llmcli.models.download import partial_file as module
from llmcli.models.download.partial_file import RECORD_SUFFIX, PartialFile, Segment, bytes_downloaded
from tests.models.hub_folder import listing

SIZE = 100
BODY = bytes(1 + number % 255 for number in range(SIZE))  # no zero, which a gap is full of


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four bytes are worth a connection."""
    monkeypatch.setattr(module, "MIN_SPLIT", 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sha.llmcli.incomplete"


def write(partial: PartialFile, segment: Segment, n_bytes: int) -> None:
    """Put the next bytes of a segment where they belong, as a connection does."""
    n_bytes = min(n_bytes, segment.left)
    with partial.open() as file:
        file.seek(segment.position)
        file.write(BODY[segment.position : segment.position + n_bytes])
    segment.position += n_bytes


def in_two_segments(path: Path, first: int = 10, second: int = 5) -> PartialFile:
    """A download by two connections, with a gap between what they have brought."""
    partial = PartialFile(path, SIZE)
    other = partial.split()
    assert other is not None
    write(partial, partial.segments[0], first)
    write(partial, other, second)
    partial.record()
    return partial


def recorded(path: Path, **changes: Any) -> None:
    notes = path.with_name(path.name + RECORD_SUFFIX)
    notes.write_text(json.dumps(json.loads(notes.read_text()) | changes))


def positions(partial: PartialFile) -> list[tuple[int, int, int]]:
    return [(one.start, one.position, one.end) for one in partial.segments]


def test_new_download_starts_at_the_first_byte(path: Path) -> None:
    partial = PartialFile(path, SIZE)
    assert (partial.done, partial.frontier, positions(partial)) == (0, 0, [(0, 0, SIZE)])
    assert not path.exists()


def test_one_connection_resumes_at_end_of_file(path: Path) -> None:
    path.write_bytes(BODY[:30])
    partial = PartialFile(path, SIZE)
    assert (partial.done, partial.frontier, positions(partial)) == (30, 30, [(0, 30, SIZE)])
    partial.record()
    assert not path.with_name(path.name + RECORD_SUFFIX).exists()  # the length says it all


def test_complete_file_has_no_missing_bytes(path: Path) -> None:
    path.write_bytes(BODY)
    partial = PartialFile(path, SIZE)
    assert (partial.done, partial.frontier) == (SIZE, SIZE)
    assert all(segment.left == 0 for segment in partial.segments)


def test_partial_file_that_is_too_long_is_deleted(path: Path) -> None:
    path.write_bytes(BODY + b"x")
    assert bytes_downloaded(path, SIZE) == 0
    assert PartialFile(path, SIZE).done == 0
    assert not path.exists()


def test_split_halves_the_longest_missing_range(path: Path) -> None:
    partial = PartialFile(path, SIZE)
    write(partial, partial.segments[0], 20)
    partial.split()
    partial.split()
    assert positions(partial) == [(0, 20, 40), (40, 40, 60), (60, 60, 100)] or positions(partial) == [
        (0, 20, 60),
        (60, 60, 80),
        (80, 80, 100),
    ]


def test_short_range_is_not_split(path: Path) -> None:
    partial = PartialFile(path, SIZE)
    write(partial, partial.segments[0], SIZE - 7)
    assert partial.split() is None
    assert len(partial.segments) == 1


def test_split_download_resumes_in_its_segments(path: Path) -> None:
    in_two_segments(path)
    again = PartialFile(path, SIZE)
    assert positions(again) == [(0, 10, 50), (50, 55, 100)]
    assert (again.done, again.frontier, bytes_downloaded(path, SIZE)) == (15, 10, 15)


def test_split_is_recorded_before_the_second_half_starts(path: Path) -> None:
    partial = PartialFile(path, SIZE)
    write(partial, partial.segments[0], 10)
    other = partial.split()
    assert other is not None
    write(partial, other, 5)  # killed here: the length of the file says 60
    assert PartialFile(path, SIZE).frontier == 10


def test_unrecorded_bytes_are_downloaded_again(path: Path) -> None:
    partial = in_two_segments(path)
    write(partial, partial.segments[0], 7)
    write(partial, partial.segments[1], 7)
    assert PartialFile(path, SIZE).done == 15


def test_frontier_is_first_gap_or_file_size(path: Path) -> None:
    partial = in_two_segments(path)
    write(partial, partial.segments[1], SIZE)
    assert partial.frontier == 10
    write(partial, partial.segments[0], SIZE)
    assert (partial.frontier, path.read_bytes()) == (SIZE, BODY)


def test_download_with_many_segments_is_resumed(path: Path) -> None:
    partial = PartialFile(path, 10**12)
    write(partial, partial.segments[0], 10)
    for _ in range(500):
        partial.split()
    again = PartialFile(path, 10**12)
    assert len(again.segments) == 501
    assert positions(again) == positions(partial)


@pytest.mark.parametrize(
    "content",
    [b"{", b"null", b"[]", b"\xff\xfe", b"[" * 5000, b"0" * 100_000, b'{"size": 100}'],
    ids=["torn", "null", "list", "no utf-8", "deep", "long", "lacking"],
)
def test_damaged_segment_record_restarts_the_download(path: Path, content: bytes) -> None:
    in_two_segments(path)
    path.with_name(path.name + RECORD_SUFFIX).write_bytes(content)
    assert bytes_downloaded(path, SIZE) == 0
    assert positions(PartialFile(path, SIZE)) == [(0, 0, SIZE)]
    assert list(path.parent.glob("sha*")) == []


def test_empty_segment_record_means_no_gap(path: Path) -> None:
    path.write_bytes(BODY[:30])
    path.with_name(path.name + RECORD_SUFFIX).touch()
    assert bytes_downloaded(path, SIZE) == 30
    assert PartialFile(path, SIZE).frontier == 30
    assert not path.with_name(path.name + RECORD_SUFFIX).exists()


@pytest.mark.parametrize(
    "segments",
    [
        [],
        "segments",
        7,
        [[0, 10, 50]],
        [[0, 10, 50], [60, 60, 100]],
        [[0, 10, 60], [50, 55, 100]],
        [[0, 10, 50], [50, 55, 101]],
        [[0, 60, 50], [50, 55, 100]],
        [[0, -1, 50], [50, 55, 100]],
        [[-5, 10, 50], [50, 55, 100]],
        [[0, 10, 50], [50, 56, 100]],
        [[0, 10], [50, 55, 100]],
        [[0, 10, 50], [50, "many", 100]],
        [[0, 10, 50], [50, float("inf"), 100]],
        [[0, 10, 50], [50, float("nan"), 100]],
        [[0, 10, 50], None],
    ],
    ids=str,
)
def test_impossible_segment_record_is_ignored(path: Path, segments: Any) -> None:
    in_two_segments(path)  # the file has 55 bytes
    recorded(path, segments=segments)
    assert bytes_downloaded(path, SIZE) == 0
    assert positions(PartialFile(path, SIZE)) == [(0, 0, SIZE)]


@pytest.mark.parametrize("size", [99, "100", None, [100]])
def test_segment_record_of_another_size_is_ignored(path: Path, size: Any) -> None:
    in_two_segments(path)
    recorded(path, size=size)
    assert PartialFile(path, SIZE).done == 0


def test_segment_record_without_its_file_is_removed(path: Path) -> None:
    in_two_segments(path)
    path.unlink()
    assert bytes_downloaded(path, SIZE) == 0
    assert PartialFile(path, SIZE).done == 0
    assert not path.with_name(path.name + RECORD_SUFFIX).exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="POSIX links")
def test_partial_refuses_link_and_keeps_its_target(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "private"
    target.write_bytes(b"secret")
    path.symlink_to(target)
    with pytest.raises(DiskError, match="is not a regular file"):
        PartialFile(path, SIZE)
    path.unlink()
    partial = PartialFile(path, SIZE)
    path.symlink_to(target)  # planted a moment later
    with pytest.raises(OSError, match="symbolic"):
        partial.open()
    assert target.read_bytes() == b"secret"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="POSIX links")
def test_partial_does_not_use_link_as_record(path: Path, tmp_path: Path) -> None:
    in_two_segments(path)
    notes, target = path.with_name(path.name + RECORD_SUFFIX), tmp_path / "private"
    os.rename(notes, target)
    content = target.read_bytes()
    notes.symlink_to(target)
    assert PartialFile(path, SIZE).done == 0
    partial = PartialFile(path, SIZE)
    notes.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        partial.split()
    assert target.read_bytes() == content


def test_folder_instead_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DiskError, match="is not a regular file"):
        PartialFile(path, SIZE)


def test_bytes_downloaded_is_read_only(path: Path) -> None:
    assert bytes_downloaded(path, SIZE) == 0
    in_two_segments(path)
    for content in (None, b"{", b""):
        if content is not None:
            path.with_name(path.name + RECORD_SUFFIX).write_bytes(content)
        before = listing(path.parent)
        bytes_downloaded(path, SIZE)
        bytes_downloaded(path, SIZE - 60)
        assert listing(path.parent) == before


def test_discard_deletes_file_and_record(path: Path) -> None:
    partial = in_two_segments(path)
    partial.discard()
    assert (partial.done, list(path.parent.glob("sha*"))) == (0, [])


class Download(RuleBasedStateMachine):
    """Connections write, splits are made, and the process is killed at any moment, as often as it likes."""

    @initialize()
    def begin(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + RECORD_SUFFIX).unlink(missing_ok=True)
        self.partial = PartialFile(self.path, SIZE)

    path: Path

    @rule(which=st.integers(0, 7), n_bytes=st.integers(1, 40))
    def a_connection_writes(self, which: int, n_bytes: int) -> None:
        write(self.partial, self.partial.segments[which % len(self.partial.segments)], n_bytes)

    @rule()
    def another_connection_is_tried(self) -> None:
        self.partial.split()

    @rule()
    def the_positions_are_written_down(self) -> None:
        self.partial.record()

    @rule()
    def the_process_is_killed(self) -> None:
        self.partial = PartialFile(self.path, SIZE)

    @rule(which=st.integers(0, 7), n_bytes=st.integers(1, 40))
    def the_process_is_killed_after_a_write(self, which: int, n_bytes: int) -> None:
        write(self.partial, self.partial.segments[which % len(self.partial.segments)], n_bytes)
        self.partial = PartialFile(self.path, SIZE)

    @precondition(lambda self: self.path.with_name(self.path.name + RECORD_SUFFIX).exists())
    @rule(keep=st.integers(1, 60))
    def the_note_is_torn(self, keep: int) -> None:
        notes = self.path.with_name(self.path.name + RECORD_SUFFIX)
        notes.write_bytes(notes.read_bytes()[:keep])
        self.partial = PartialFile(self.path, SIZE)

    @invariant()
    def no_byte_is_claimed_that_was_not_written(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        for segment in self.partial.segments:
            assert data[segment.start : segment.position] == BODY[segment.start : segment.position]
        assert data[: self.partial.frontier] == BODY[: self.partial.frontier]

    @invariant()
    def the_segments_cover_the_file(self) -> None:
        edges = [0, *(segment.end for segment in self.partial.segments)]
        assert [segment.start for segment in self.partial.segments] == edges[:-1]
        assert edges[-1] == SIZE
        assert bytes_downloaded(self.path, SIZE) <= self.partial.done


@pytest.mark.slow
def test_any_history_of_a_partial_file_stays_consistent(path: Path) -> None:
    class Here(Download):
        def __init__(self) -> None:
            self.path = path
            super().__init__()

    run_state_machine_as_test(Here, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))
