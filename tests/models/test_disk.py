"""A disk that is full, read-only or faulty: one clear error, and only verified files."""

import errno
import hashlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import DiskError, LlmcliError
from llmcli.models.download import partial_file, transfer
from tests.models.pulls import FILE, MIB, REPO, Pulls, pulling, sha256, some_bytes

DATA = some_bytes(3 * MIB)
DIGEST = hashlib.sha256(DATA).hexdigest()
LARGE = 30 * MIB  # more than the small disk takes
DiskUsage = shutil._ntuple_diskusage


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    with pulling(DATA, tmp_path, monkeypatch) as made:
        yield made


Mount = Callable[[str], None]


@pytest.fixture
def small_disk(pulls: Pulls) -> Iterator[Mount]:
    """A disk of 20 MiB under the hub's cache; called with options it is mounted anew with them."""
    place = pulls.locations.hub
    place.mkdir(parents=True)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True, capture_output=True)

    try:
        mount("size=20m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a disk")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def seem_empty(monkeypatch: pytest.MonkeyPatch, free: int = 1 << 40) -> None:
    """As a disk that others fill up while a download runs: at its begin there was room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: DiskUsage(free, 0, free))


def test_full_disk_is_an_error_before_the_first_byte(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    seem_empty(monkeypatch, free=50_000_000)
    with pytest.raises(DiskError, match=r"needs 3 MB, and 67 MB must stay free: .* has 50 MB, 20 MB too little"):
        pulls.pull()
    assert pulls.hub.requests("cdn") == []
    assert not pulls.folder.exists()


@pytest.mark.parametrize(
    ("free", "says"),
    [
        (87_108_863, "has 87 MB, 1 kB too little"),
        (86_108_864, "has 86 MB, 1 MB too little"),
        (0, "has 0 kB, 87 MB too little"),
    ],
)
def test_the_figures_of_a_full_disk_explain_the_error(
    free: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem_empty(monkeypatch, free)
    expected = f"the download needs 20 MB, and 67 MB must stay free: .* {says}$"
    with pytest.raises(DiskError, match=expected), partial_file.writing(tmp_path, 20_000_000, ""):
        pytest.fail("it started")


@pytest.mark.slow
def test_full_disk_keeps_the_partial_download(pulls: Pulls, small_disk: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.hub.repos[REPO].commit({FILE: some_bytes(LARGE)})
    seem_empty(monkeypatch)
    monkeypatch.setattr(transfer, "WINDOW", 600.0)  # one connection
    starts = [0]
    for _ in range(2):
        with pytest.raises(DiskError, match="the disk is full"):
            pulls.pull()
        assert pulls.published() == []
        assert 16 * MIB < pulls.partial_bytes() <= 20 * MIB
        starts.append(pulls.partial_bytes())
    small_disk("size=60m")
    assert sha256(pulls.pull()) == pulls.hub.repos[REPO].files[FILE].sha256
    assert [one.range for one in pulls.hub.requests("cdn")] == [f"bytes={start}-{LARGE - 1}" for start in starts]


def test_read_only_cache_is_an_error(pulls: Pulls, small_disk: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    seem_empty(monkeypatch)
    small_disk("ro")
    with pytest.raises(DiskError, match="Read-only file system") as caught:
        pulls.pull()
    assert "HF_HUB_CACHE" in caught.value.hint


def test_read_only_cache_serves_downloaded_files(
    pulls: Pulls, small_disk: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem_empty(monkeypatch)
    path = pulls.pull()
    small_disk("ro")
    assert pulls.pull() == path
    assert pulls.hub.served == len(DATA)


def test_partial_file_on_read_only_disk_is_an_error(
    pulls: Pulls, small_disk: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem_empty(monkeypatch)
    pulls.begin(DATA[:MIB], DATA)
    small_disk("ro")
    with pytest.raises(DiskError, match="Read-only file system"):
        pulls.pull()


@pytest.mark.usefixtures("ordinary_user")
def test_cache_of_another_user_is_an_error(pulls: Pulls) -> None:
    pulls.locations.hub.mkdir(parents=True)
    pulls.locations.hub.chmod(0o500)
    with pytest.raises(DiskError, match="Permission denied"):
        pulls.pull()
    pulls.locations.hub.chmod(0o700)


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300])
def test_cache_path_that_is_a_file_is_an_error(pulls: Pulls, name: str) -> None:
    (pulls.root / "file").write_bytes(b"mine")
    pulls.locations = pulls.locations.__class__(pulls.root / "own", pulls.root / "own", pulls.root / name)
    with pytest.raises(LlmcliError):
        pulls.pull()
    assert (pulls.root / "file").read_bytes() == b"mine"


def test_pull_without_home_writes_nothing_to_current_folder(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry among the system's users, as in many containers: `~` stays as it is."""
    pwd = pytest.importorskip("pwd")

    def nobody(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(pulls.root)
    with pytest.raises(DiskError, match="home") as caught:
        Pulls(pulls.hub, pulls.root, own_hub=False).pull()
    assert "HF_HOME" in caught.value.hint
    assert not (pulls.root / "~").exists()


@pytest.mark.slow
def test_cache_variables_work_without_a_home(pulls: Pulls) -> None:
    gone = ("HOME", "USERPROFILE", "HF_HOME")
    named = {"HF_HUB_CACHE": str(pulls.locations.hub), "LLMCLI_HOME": str(pulls.root / "own")}
    pulls.changes = dict.fromkeys(gone) | named
    with pulls.process() as running:
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stderr
    assert sha256(Path(stdout.strip())) == DIGEST
    assert pulls.outside() == []


def test_file_is_synced_before_it_is_published(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not leave a blob with a right name and without its bytes."""
    events, fsync, replace = [], os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        events.append((os.fstat(descriptor).st_ino, "fsync"))
        fsync(descriptor)

    def noting_replace(old: Path, new: Path) -> None:
        events.append((os.lstat(old).st_ino, "replace"))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    file = pulls.pull().stat().st_ino
    folder = (pulls.folder / "blobs").stat().st_ino
    assert [event for event in events if event[0] in (file, folder)] == [
        (file, "fsync"),
        (file, "replace"),
        (folder, "fsync"),
    ]


class Failing:
    """Lets the n-th change of a disk fail, wherever that is, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = str(root)
        self.calls, self.fatal, self.error = 0, 0, 0
        count = self.count

        class Counting(FileIO):
            def write(self, data: Any) -> int:
                count("")
                return super().write(data)

        monkeypatch.setattr(partial_file, "FileIO", Counting)
        monkeypatch.setattr(os, "fsync", self._counted(os.fsync, everywhere=True))
        for name in ("replace", "symlink", "mkdir", "open", "unlink"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(pathlib.Path, "write_text", self._counted(pathlib.Path.write_text))

    def count(self, place: str) -> None:
        self.calls += 1
        if self.calls == self.fatal:
            raise OSError(self.error, os.strerror(self.error), place or None)

    def _counted(self, call: Callable[..., Any], everywhere: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if everywhere or any(str(arg).startswith(self._root) for arg in args[:2]):
                self.count(str(args[0]) if not everywhere else "")
            return call(*args, **options)

        return counted


@pytest.mark.slow
@pytest.mark.parametrize(("error", "started"), [(errno.ENOSPC, 0), (errno.EIO, 100_000)])
def test_failed_write_publishes_nothing_wrong(
    pulls: Pulls, monkeypatch: pytest.MonkeyPatch, error: int, started: int
) -> None:
    data = some_bytes(250_000)
    digest = hashlib.sha256(data).hexdigest()
    pulls.hub.repos[REPO].commit({FILE: data})
    failing = Failing(monkeypatch, pulls.root)
    failing.error = error
    for fatal in range(1, 500):
        shutil.rmtree(pulls.root / "hf", ignore_errors=True)
        shutil.rmtree(pulls.root / "own", ignore_errors=True)
        pulls.begin(data[:started], data)
        failing.calls, failing.fatal = 0, fatal
        said = ""
        try:
            pulls.pull()
        except DiskError as fault:
            said = str(fault)
        check_all_is_sound(pulls, digest)
        assert "None" not in said
        if failing.calls < fatal:
            break
        failing.fatal = 0
        assert sha256(pulls.pull()) == digest
        check_all_is_sound(pulls, digest)
    assert fatal > 15
    assert pulls.outside() == []


def check_all_is_sound(pulls: Pulls, digest: str) -> None:
    """Each name that another program may look at is one it can believe."""
    for path in pulls.folder.glob("blobs/*"):
        if ".llmcli." not in path.name:
            assert sha256(path) == path.name == digest
    for path in pulls.folder.glob("refs/*"):
        assert path.name == "main"
        assert path.read_text() == pulls.hub.repos[REPO].head
    for path in pulls.folder.glob("snapshots/*/*"):
        assert path.name == FILE
        assert sha256(path) == digest
