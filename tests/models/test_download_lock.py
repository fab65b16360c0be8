"""Several processes that pull one file: one downloads it, and another resumes when that one dies."""

import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.models.installed import find_interrupted
from tests.cli_result import shell_status
from tests.hub.server import FakeHub
from tests.models.pulls import FILE, MIB, REPO, Pulls, be_quick, end_session, sha256, some_bytes
from tests.waiting import wait_until

fcntl = pytest.importorskip("fcntl")

DATA = some_bytes(4 * MIB + 7)
SIZE, DIGEST = len(DATA), hashlib.sha256(DATA).hexdigest()
# For a process whose download is held while others start.
PATIENT = "from llmcli.models.download import http; http.STALL_SECONDS = 600.0"


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    with FakeHub() as hub:
        hub.add(REPO, {FILE: DATA, "mmproj-f16.gguf": DATA[::-1]})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        be_quick(monkeypatch)
        yield Pulls(hub, tmp_path)
        end_session()


@pytest.mark.slow
def test_three_processes_download_the_file_once(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2
    with pulls.process(PATIENT) as first, pulls.process(PATIENT) as second, pulls.process(PATIENT) as third:
        wait_until(lambda: pulls.partial_bytes() == SIZE // 2)
        all_of_them = (first, second, third)
        said = dict.fromkeys(all_of_them, "")

        def two_wait() -> bool:
            for running in all_of_them:
                assert running.stderr
                os.set_blocking(running.stderr.fileno(), False)
                with contextlib.suppress(BlockingIOError):
                    said[running] += os.read(running.stderr.fileno(), 4096).decode()
            return sum(f"waiting for another program to download {FILE}\n" in text for text in said.values()) == 2

        wait_until(two_wait)
        pulls.hub.hold_at = None
        places = [running.communicate(timeout=60)[0] for running in all_of_them]
    assert [running.returncode for running in all_of_them] == [0, 0, 0]
    assert len(set(places)) == 1
    assert sha256(Path(places[0].strip())) == DIGEST
    assert len(pulls.hub.requests("cdn", "GET")) == 1
    assert pulls.hub.served == SIZE


def wait_for_line_about_waiting(running: "subprocess.Popen[str]") -> None:
    """A process says that it met one that downloads."""
    assert running.stderr
    while "waiting for another program" not in (line := running.stderr.readline()):
        assert line, "it did not wait"


@pytest.mark.slow
def test_waiting_process_resumes_download_of_killed_process(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2
    with pulls.process(PATIENT) as first:
        wait_until(lambda: pulls.partial_bytes() == SIZE // 2)
        with pulls.process(PATIENT) as second:
            wait_for_line_about_waiting(second)
            first.send_signal(signal.SIGKILL)
            first.wait(timeout=60)
            pulls.hub.hold_at = None
            stdout = second.communicate(timeout=60)[0]
    assert second.returncode == 0
    assert sha256(Path(stdout.strip())) == DIGEST
    assert [request.range for request in pulls.hub.requests("cdn")][1] == f"bytes={SIZE // 2}-{SIZE - 1}"
    assert pulls.hub.served < SIZE + MIB


@pytest.mark.slow
def test_ctrl_c_ends_waiting_process_at_once(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2
    with pulls.process(PATIENT) as first:
        wait_until(lambda: pulls.partial_bytes() == SIZE // 2)
        with pulls.process(PATIENT) as second:
            wait_for_line_about_waiting(second)
            second.send_signal(signal.SIGINT)
            assert shell_status(second.wait(timeout=60)) == 130
        pulls.hub.hold_at = None
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert pulls.hub.served == SIZE


def test_downloads_of_two_files_do_not_wait_for_each_other(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(pulls, hashlib.sha256(DATA[::-1]).hexdigest()):
        assert sha256(pulls.pull()) == DIGEST
    assert pulls.said == []


@pytest.mark.parametrize("right", [True, False])
def test_file_of_another_program_is_verified(pulls: Pulls, right: bool) -> None:
    """The hub's own tools take the same lock, and look at the size alone."""
    blob = pulls.folder / "blobs" / DIGEST
    with held(pulls, DIGEST) as release:

        def say(text: str) -> None:
            pulls.said.append(text)
            if "waiting for another program" in text:
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(DATA if right else bytes(SIZE))
                release.close()

        pulls.say = say  # type: ignore[method-assign]
        path = pulls.pull()
    assert f"waiting for another program to download {FILE}" in pulls.said
    assert sha256(path) == DIGEST
    assert pulls.hub.served == (0 if right else SIZE)


@contextlib.contextmanager
def held(pulls: Pulls, digest: str) -> Iterator[contextlib.ExitStack]:
    """The lock of a file, in the hands of another program; the stack's `close` lets it go before the end."""
    lock = pulls.lock(digest)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(lock.open("w"))
        fcntl.flock(file, fcntl.LOCK_EX)
        yield stack


def test_partial_file_is_removed_if_another_program_was_faster(pulls: Pulls) -> None:
    pulls.begin(DATA[: SIZE // 2], DATA)
    blob = pulls.folder / "blobs" / DIGEST
    blob.write_bytes(DATA)
    assert sha256(pulls.pull()) == DIGEST
    assert pulls.partials() == []
    assert pulls.hub.served == 0


@pytest.mark.slow
def test_active_download_is_not_removed(pulls: Pulls) -> None:
    pulls.hub.hold_at = SIZE // 2
    with pulls.process(PATIENT) as running:
        wait_until(lambda: pulls.partial_bytes() == SIZE // 2)
        (one,) = find_interrupted(pulls.locations)
        assert not one.remove(pulls.locations.data_dir)
        pulls.hub.hold_at = None
        stdout = running.communicate(timeout=60)[0]
    assert sha256(Path(stdout.strip())) == DIGEST


def test_partial_download_of_killed_process_can_be_removed(pulls: Pulls) -> None:
    pulls.begin(DATA[: SIZE // 2], DATA)
    (one,) = find_interrupted(pulls.locations)
    assert one.remove(pulls.locations.data_dir)
    assert pulls.partials() == []
