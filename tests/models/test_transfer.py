"""Downloads that are killed or interrupted, with several connections, or redirected by the Hub."""

import hashlib
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.errors import DiskError, ModelInvalidError, NetworkError
from llmcli.models.download import http, partial_file, transfer
from tests.cli_result import shell_status
from tests.hub.server import Fault
from tests.models.pulls import FILE, MIB, REPO, Pulls, pulling, sha256, some_bytes
from tests.waiting import wait_until

SIZE = 4 * MIB + 123
DATA = some_bytes(SIZE)
DIGEST = hashlib.sha256(DATA).hexdigest()
# For a process of its own: several connections as soon as possible.
EARLY_SPLIT = """
from llmcli.models.download import partial_file, transfer
transfer.WINDOW, transfer.MIN_GAIN, transfer.RECORD_INTERVAL, partial_file.MIN_SPLIT = 0.1, 0.0, 1 << 13, 1 << 18
"""


deletes_open_files = pytest.mark.skipif(os.name == "nt", reason="Windows does not delete a file that is open")


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    with pulling(DATA, tmp_path, monkeypatch) as made:
        yield made


def early_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WINDOW", 0.1)
    monkeypatch.setattr(partial_file, "MIN_SPLIT", 1 << 18)
    monkeypatch.setattr(transfer, "RECORD_INTERVAL", 1 << 15)


def test_kill_9_at_twenty_places_downloads_no_byte_twice(pulls: Pulls, starter: Path) -> None:
    """Its figure is at most size + 20 x 1 MiB: what was on its way when the process died."""
    pulls.hub.repos[REPO].commit({FILE: starter})
    size, chosen = starter.stat().st_size, random.Random(3)
    for place in sorted(chosen.randrange(size) for _ in range(20)):
        pulls.hub.hold_at = place
        with pulls.process() as running:
            wait_until(lambda: pulls.partial_bytes() >= place - (256 << 10))  # noqa: B023 (it ends before the next)
            running.send_signal(signal.SIGKILL)
        assert len(pulls.partials()) == 1
        assert pulls.published() == []
    pulls.hub.hold_at = None
    assert sha256(pulls.pull()) == pulls.hub.repos[REPO].files[FILE].sha256
    assert pulls.partials() == []
    assert size <= pulls.hub.served <= size + 20 * MIB


def test_slow_connections_get_more_connections(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    early_split(monkeypatch)
    pulls.hub.throttle = MIB
    first: list[int] = []

    def is_first_waiting() -> bool:
        """The first connection gets its last bytes when another one has some."""
        first.append(threading.get_ident())
        others = pulls.hub.requests("cdn")[1:]
        return first[0] == first[-1] and pulls.hub.served > SIZE // 4 and not any(one.sent for one in others)

    pulls.hub.hold_if = is_first_waiting
    assert sha256(pulls.pull()) == DIGEST
    assert len(pulls.hub.requests("cdn")) > 1
    assert pulls.published()[0] == f"blobs/{DIGEST}"
    assert pulls.partials() == []


def test_transfer_uses_one_connection_if_second_does_not_pay(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "MIN_SPLIT", SIZE)
    monkeypatch.setattr(transfer, "WINDOW", 0.02)
    pulls.hub.throttle = 16 * MIB
    pulls.pull()
    assert len(pulls.hub.requests("cdn")) == 1


@pytest.mark.slow
def test_parallel_download_resumes_in_all_gaps_after_kill_9(pulls: Pulls) -> None:
    pulls.hub.throttle = MIB
    partial, kills, lost = pulls.plan().files[0].partial, 4, 0

    def missing() -> int:
        """Bytes that were sent, and are not recorded."""
        return pulls.hub.served - partial_file.bytes_downloaded(partial, SIZE)

    for number in range(kills):
        with pulls.process(EARLY_SPLIT) as running:
            seen, goal = len(pulls.hub.requests("cdn")), pulls.hub.served + SIZE // 6

            def is_far_enough(seen: int = seen, goal: int = goal) -> bool:
                return len(pulls.hub.requests("cdn")) > seen + 1 and pulls.hub.served > goal

            pulls.hub.hold_if = is_far_enough  # a late kill must not meet a complete file
            wait_until(is_far_enough)
            wait_until(lambda: missing() - lost <= 12 * (1 << 13))  # noqa: B023 (each connection has so many of them)
            running.send_signal(signal.SIGKILL)
        wait_until(lambda: not pulls.hub.is_serving)
        pulls.hub.hold_if, lost = (lambda: False), missing()
        assert pulls.published() == [], number
    assert partial_file.bytes_downloaded(partial, SIZE) > SIZE // 3
    pulls.hub.throttle = None
    assert sha256(pulls.pull()) == DIGEST
    assert [path.name for path in pulls.folder.glob("blobs/*")] == [DIGEST]
    assert pulls.hub.served <= SIZE + kills * MIB
    assert pulls.said == []


def test_an_interrupt_of_a_parallel_download_loses_nothing(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    early_split(monkeypatch)
    pulls.hub.throttle = 2 * MIB

    def interrupt(done: int, total: int) -> None:
        if done > total // 2 and len(pulls.hub.requests("cdn")) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulls.pull(interrupt)
    assert partial_file.bytes_downloaded(pulls.plan().files[0].partial, SIZE) > SIZE // 2
    pulls.hub.throttle = None
    assert sha256(pulls.pull()) == DIGEST
    assert pulls.hub.served <= SIZE + MIB


def test_very_long_segment_record_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "MIN_SPLIT", 1)
    path, size = tmp_path / "p", 1 << 38
    path.write_bytes(b"-")
    for number in range(1, 301):
        part = partial_file.PartialFile(path, size)
        assert part.split()
        for segment in part.segments:
            segment.position += 1
        part.record()
        os.truncate(path, size)
        assert partial_file.bytes_downloaded(path, size) == part.done >= number


def test_range_of_remote_file_is_read_with_as_few_bytes_as_possible(pulls: Pulls) -> None:
    pulls.hub.faults.append(Fault("close", at=5000))
    remote = http.RemoteFile(f"{pulls.hub.endpoint}/{REPO}/resolve/main/{FILE}", {}, SIZE, "")
    assert remote.read(1000, 9000) == DATA[1000:9000]
    assert [request.range for request in pulls.hub.requests("cdn")] == ["bytes=1000-8999", "bytes=5000-8999"]


def test_refusal_of_any_server_names_its_host(pulls: Pulls) -> None:
    pulls.hub.faults.append(Fault("status:403", origin="hub"))
    remote = http.RemoteFile(f"{pulls.hub.endpoint}/{REPO}/resolve/main/{FILE}", {}, SIZE, "")
    with pytest.raises(NetworkError, match=r"^127\.0\.0\.1:\d+ returned status 403$"), remote.open(0, SIZE):
        pass


def test_server_without_ranges_restarts_and_completes(pulls: Pulls) -> None:
    pulls.hub.faults += [Fault("close", at=SIZE // 2), Fault("full", times=None)]
    assert sha256(pulls.pull()) == DIGEST
    assert [request.status for request in pulls.hub.requests("cdn")] == [206, 200]
    assert pulls.hub.served == SIZE // 2 + SIZE


def test_second_checksum_mismatch_is_an_error(pulls: Pulls) -> None:
    pulls.hub.faults.append(Fault("corrupt", at=SIZE // 2, times=None))
    wrong = hashlib.sha256(DATA[: SIZE // 2] + bytes([DATA[SIZE // 2] ^ 0xFF]) + DATA[SIZE // 2 + 1 :]).hexdigest()
    with pytest.raises(ModelInvalidError, match="after two attempts") as caught:
        pulls.pull()
    assert DIGEST in str(caught.value)
    assert wrong in str(caught.value)
    assert "downloading it again" in pulls.said[0]
    assert list(pulls.folder.glob("blobs/*")) == []


@pytest.mark.parametrize("api", [True, False])
def test_long_retry_after_of_server_is_an_error(pulls: Pulls, api: bool) -> None:
    pulls.hub.faults.append(Fault("status:429", times=None, retry_after=3600, api=api))
    with pytest.raises(NetworkError, match="3600 s") as caught:
        pulls.pull()
    said = re.search(r"try again at (\d\d:\d\d)", caught.value.hint)
    near = [time.strftime("%H:%M", time.localtime(time.time() + 3600 + shift)) for shift in (-60, 0)]
    assert said
    assert said[1] in near
    assert pulls.hub.faults[0].struck == 1


@pytest.mark.slow
@pytest.mark.parametrize("api", [True, False])
def test_short_retry_after_is_respected(pulls: Pulls, api: bool) -> None:
    pulls.hub.faults.append(Fault("status:429", retry_after=1, api=api))
    begin = time.monotonic()
    assert sha256(pulls.pull()) == DIGEST
    assert 1 <= time.monotonic() - begin < 60
    assert any("429" in text and "retrying in 1 s" in text for text in pulls.said)


def test_single_bytes_do_not_reset_the_attempts(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends each answer after a few bytes must not hold us for ever."""
    pulls.hub.faults += [Fault("close", at=at) for at in range(1000, 20_000, 1000)]
    with pytest.raises(NetworkError, match="8 attempts"):
        pulls.pull()
    assert len(pulls.hub.requests("cdn")) == 8
    monkeypatch.setattr(http, "MIN_PROGRESS", 1000)  # each answer is progress now
    assert sha256(pulls.pull()) == DIGEST


@pytest.mark.slow
def test_ctrl_c_keeps_partial_file_and_says_how_to_resume(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2
    with pulls.process() as running:
        wait_until(lambda: pulls.partial_bytes() == SIZE // 2)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    assert shell_status(running.returncode) == 130
    assert stdout == ""
    assert f"interrupted; run `llmcli pull {REPO}` to resume" in stderr
    assert "Traceback" not in stderr
    assert pulls.partial_bytes() == SIZE // 2
    assert pulls.published() == []
    pulls.hub.hold_at = None
    assert sha256(pulls.pull()) == DIGEST
    assert pulls.hub.requests("cdn")[1].range == f"bytes={SIZE // 2}-{SIZE - 1}"


def test_xet_file_is_downloaded_over_http(pulls: Pulls) -> None:
    pulls.hub.extra_headers = {"X-Xet-Hash": "ab" * 32, "Link": '<http://127.0.0.1:9/token>; rel="xet-auth"'}
    assert sha256(pulls.pull()) == DIGEST
    assert {request.path.split("/")[1] for request in pulls.hub.requests("hub")} == {"api", REPO.split("/")[0]}


def test_snapshot_has_the_file_if_links_are_impossible(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    path = pulls.pull()
    assert sha256(path) == DIGEST
    assert not path.is_symlink()
    served = pulls.hub.served
    assert pulls.pull() == path
    assert pulls.hub.served == served


@deletes_open_files
@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("connections", [1, 2])
def test_partial_file_that_is_pruned_is_restored_at_once(
    pulls: Pulls, monkeypatch: pytest.MonkeyPatch, whole_folder: bool, connections: int
) -> None:
    """`hf cache prune` deletes what ends in .incomplete, `hf cache rm` the folder of the repository."""
    if connections > 1:
        early_split(monkeypatch)
        monkeypatch.setattr(transfer, "MIN_GAIN", 0.0)
    pulls.hub.throttle = 2 * MIB if connections > 1 else 8 * MIB
    pruned: list[int] = []

    def prune(done: int, total: int) -> None:
        if not pruned and done > total // 2 and len(pulls.hub.requests("cdn")) >= connections:
            pruned.append(done)
            for path in [pulls.folder] if whole_folder else pulls.partials():
                shutil.rmtree(path) if whole_folder else path.unlink()

    assert sha256(pulls.pull(prune)) == DIGEST
    assert len(pruned) == 1
    assert [text for text in pulls.said if "another program deleted the partial download" in text]
    assert pulls.hub.served < SIZE + 2 * MIB
    assert pulls.partials() == []


@deletes_open_files
def test_a_folder_deleted_before_a_split_is_restored(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    early_split(monkeypatch)
    pulls.hub.throttle = 4 * MIB
    split, pruned = partial_file.PartialFile.split, list[Path]()

    def prune(partial: partial_file.PartialFile) -> partial_file.Segment | None:
        if not pruned:
            pruned.append(partial.path)
            shutil.rmtree(pulls.folder)
        return split(partial)

    monkeypatch.setattr(partial_file.PartialFile, "split", prune)
    assert sha256(pulls.pull()) == DIGEST
    assert len(pruned) == 1
    assert pulls.said == ["another program deleted the partial download; it is restored"]


@deletes_open_files
def test_an_interrupt_after_a_prune_keeps_the_bytes(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2

    def prune(done: int, _total: int) -> None:
        if done == SIZE // 2:
            pulls.partials()[0].unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulls.pull(prune)
    assert pulls.partial_bytes() == SIZE // 2
    pulls.hub.hold_at = None
    assert sha256(pulls.pull()) == DIGEST
    assert pulls.hub.requests("cdn")[1].range == f"bytes={SIZE // 2}-{SIZE - 1}"


@deletes_open_files
def test_file_that_is_deleted_again_and_again_is_an_error(pulls: Pulls) -> None:
    pulls.hub.throttle = MIB

    def prune(_done: int, _total: int) -> None:
        for path in pulls.partials():
            path.unlink()

    with pytest.raises(DiskError, match=r"another program deletes .*\.llmcli\.incomplete again and again"):
        pulls.pull(prune)
