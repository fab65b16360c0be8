"""What tests share: a home of their own, the starter model, and the program as a user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from llmcli.models.starter import ensure_starter

ROOT = Path(__file__).parent.parent

# Tests that run side by side get a core each: llama.cpp's threads wait by spinning, and would starve each other.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})


_OUTSIDE = (
    "LLMCLI_",
    "COLUMNS",
    "LINES",
    "HF_",
    "HUGGING",
    "OLLAMA_",
    "TRANSFORMERS_",
    "XDG_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private LLMCLI_HOME and home folder, and no setting from the outside."""
    for name in [name for name in os.environ if name.upper().startswith(_OUTSIDE)]:
        monkeypatch.delenv(name)
    folder = tmp_path / "llmcli home"  # with a space, as on many users' machines
    monkeypatch.setenv("LLMCLI_HOME", str(folder))
    for name in ("HOME", "USERPROFILE"):  # no model of the user's may be found
        monkeypatch.setenv(name, str(tmp_path / "user"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody there: no test reaches the real hub
    return folder


@pytest.fixture(scope="session")
def starter() -> Path:
    """The starter model, fetched once per checkout; the only thing tests take from the network."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with FileLock(cache / "fetching.lock"):  # tests may run side by side
        return ensure_starter(cache)


@dataclass
class Ran:
    """How a run of the program ended."""

    stdout: bytes
    stderr: str
    status: int

    @property
    def text(self) -> str:
        return self.stdout.decode()


Run = Callable[..., Ran]


@pytest.fixture
def run() -> Run:
    """Runs the real program: `run("generate", "hi", stdin="...", env={...})`."""

    def call(
        *args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None, timeout: float = 60
    ) -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, "-m", "llmcli", *args],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=os.environ | (env or {}),
            timeout=timeout,
        )
        return Ran(done.stdout, done.stderr.decode("utf-8", "replace"), done.returncode)

    return call


@pytest.fixture
def with_starter(home: Path, starter: Path) -> Path:
    """The starter under this test's home, as `llmcli` itself would have put it there."""
    folder = home / "cache" / "starter"
    folder.mkdir(parents=True)
    (home / "data").mkdir()
    (home / "data" / "welcomed").touch()  # the first run is over
    try:
        os.link(starter, folder / starter.name)
    except OSError:  # another file system
        shutil.copy(starter, folder / starter.name)
    return folder / starter.name
