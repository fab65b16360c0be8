"""Shared by the tests of downloads: a folder to pull into, the pull itself, and its results."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import pytest

from llmcli.models.download import http
from llmcli.models.hub import environment
from llmcli.models.hub.repo_download import PullPlan, plan_pull
from llmcli.models.locations import ModelLocations, Progress
from llmcli.models.reference import HubReference
from tests.hub.server import FakeHub
from tests.models.gguf_writer import gguf_bytes

REPO, FILE = "o/m-GGUF", "m-Q4_K_M.gguf"
MIB = 1 << 20


def some_bytes(count: int, seed: int = 0) -> bytes:
    """Random bytes that begin with the header of a model, if they are enough: `pull` reads it before a download."""
    head = gguf_bytes() if count > MIB else b""
    return head + random.Random(seed).randbytes(count - len(head))


@lru_cache(8)
def digest_of(data: bytes) -> str:
    """Its SHA-256 in hex; the data of a test file are asked for some hundred times."""
    return hashlib.sha256(data).hexdigest()


def no_progress(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass
class Pulls:
    """A shelf below `root` and pulls into it from a hub; `said` is what they told the user."""

    hub: FakeHub
    root: Path
    reference: HubReference = HubReference(REPO)  # noqa: RUF009 (it is frozen)
    said: list[str] = field(default_factory=list)
    changes: dict[str, str | None] = field(default_factory=dict)  # of the environment; None takes a variable out
    own_hub: bool = True  # else the cache of the hub is where the environment has it

    @cached_property
    def locations(self) -> ModelLocations:
        own, hub = self.root / "own", self.root / "hf" / "hub"
        return ModelLocations(own / "cache", own / "data", hub if self.own_hub else environment.hub_cache())

    @property
    def folder(self) -> Path:
        """Of the repository, in the cache."""
        return self.locations.hub / f"models--{self.reference.repo.replace('/', '--')}"

    def say(self, text: str) -> None:
        self.said.append(text)

    def plan(self) -> PullPlan:
        return plan_pull(self.reference, self.locations, 0, self.say)

    def pull(self, progress: Progress = no_progress) -> Path:
        """Plan and pull in this process; the place of the model."""
        return self.plan().download(lambda _name: progress, self.say).path

    def begin(self, data: bytes, whole: bytes) -> Path:
        """Put the first bytes of a file where an earlier pull would have left them."""
        path = self.folder / "blobs" / f"{digest_of(whole)}.llmcli.incomplete"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def lock(self, digest: str) -> Path:
        """The lock of a file, which all tools of the hub share."""
        return self.locations.hub / ".locks" / self.folder.name / f"{digest}.lock"

    def partials(self) -> list[Path]:
        return sorted(self.folder.glob("blobs/*.incomplete"))

    def partial_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.partials())

    def published(self) -> list[str]:
        """Blobs, links and refs: all that another program would take for a model."""
        found = [path for path in self.folder.rglob("*") if path.is_symlink() or path.is_file()]
        return sorted(str(path.relative_to(self.folder)) for path in found if ".llmcli." not in path.name)

    def outside(self) -> list[Path]:
        """What lies below the root, and neither in the hub's cache nor in folders of ours."""
        own = (self.locations.hub, self.root / "own", self.root / "llmcli home")
        paths = [path for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir()]
        return [path for path in paths if not any(path.is_relative_to(place) for place in own)]

    def environment(self) -> dict[str, str]:
        """For a pull in a process of its own."""
        usual = {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.locations.hub.parent)}
        return {name: value for name, value in (os.environ | usual | self.changes).items() if value is not None}

    @contextmanager
    def process(self, script: str = "") -> Iterator["subprocess.Popen[str]"]:
        """`llmcli pull` as a user runs it, with what `script` prepares in it; it is killed at the end.

        The files of these tests are no models, so no header is read before.
        """
        start = ["-m", "llmcli"] if not script else ["-c", f"{script}\nfrom llmcli.cli.app import main; main()"]
        command = [sys.executable, *start, "pull", "--yes", str(self.reference)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        running: subprocess.Popen[str] = subprocess.Popen(command, text=True, env=self.environment(), **pipes)  # type: ignore[call-overload]
        with running:
            try:
                yield running
            finally:
                running.kill()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for; a server that is only slow has not stalled."""
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(http, "MAX_PAUSE", 0.005)
    monkeypatch.setattr(http, "STALL_SECONDS", 60.0)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)  # nothing is encrypted here: the certificates would take 30 ms


def end_session() -> None:
    """Close the connections."""
    if http.client.cache_info().currsize:
        http.client().close()
        http.client.cache_clear()


@contextmanager
def pulling(data: bytes, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    """A hub with one model of these bytes, and pulls from it into `root`."""
    with FakeHub() as hub:
        hub.add(REPO, {FILE: data})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        be_quick(monkeypatch)
        yield Pulls(hub, root)
        end_session()
