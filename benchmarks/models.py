"""How fast do models come and get listed? Ratios to curl with sha256sum, and to `llmcli --help`, on this machine."""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmcli.models.sources.starter import ensure_starter
from tests.hub.server import FakeHub
from tests.models.gguf_writer import write_gguf

ROOT = Path(__file__).parent.parent
LLMCLI = (sys.executable, "-m", "llmcli")
REPO = "bench/big-GGUF"


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """How long one run takes; it must succeed."""
    begin = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def medians(rounds: int, *runs: Callable[[], float]) -> list[float]:
    """The median of each, taken in turn so that noise meets all alike."""
    taken = [[run() for run in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def throughput(folder: Path, n_bytes: int, rounds: int) -> None:
    """A pull, verified and published, against curl and sha256sum of the same bytes from the same server."""
    big = folder / "big.gguf"
    with big.open("wb") as file:
        for _ in range(n_bytes >> 20):
            file.write(os.urandom(1 << 20))
    with FakeHub() as hub:
        hub.add(REPO, {"big-Q4_K_M.gguf": big})
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "LLMCLI_HOME": str(folder / "home")}
        url, plain = f"{hub.endpoint}/{REPO}/resolve/main/big-Q4_K_M.gguf", folder / "plain.gguf"
        number = iter(range(10**6))

        def pull() -> float:
            environment["HF_HOME"] = str(folder / f"hf{next(number)}")
            took = seconds([*LLMCLI, "pull", REPO], environment)
            subprocess.run(["rm", "-rf", environment["HF_HOME"]], check=True)
            return took

        def curl() -> float:
            plain.unlink(missing_ok=True)
            return seconds(["sh", "-c", f"curl -sL -o '{plain}' '{url}' && sha256sum '{plain}'"], environment)

        ours, theirs = medians(rounds, pull, curl)
    print(f"pull of {n_bytes >> 20} MiB, checked: {n_bytes / ours / 1e6:.0f} MB/s", end="; ")
    print(f"curl and sha256sum: {n_bytes / theirs / 1e6:.0f} MB/s; ratio {theirs / ours:.2f} (goal 0.5 or more)")


def listing(folder: Path, rounds: int) -> None:
    """`models list` of 50 models against --help."""
    for number in range(50):
        place = folder / "hf" / "hub" / f"models--owner--model{number}-GGUF"
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        (place / "blobs").mkdir(parents=True)
        write_gguf(place / "blobs" / digest, {"general.architecture": "llama", "llama.context_length": 4096})
        snapshot = place / "snapshots" / f"{number:040x}"
        snapshot.mkdir(parents=True)
        (snapshot / f"model{number}-Q4_K_M.gguf").symlink_to(f"../../blobs/{digest}")
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "LLMCLI_HOME": str(folder / "home")}
    listed, helped = medians(
        rounds,
        lambda: seconds([*LLMCLI, "models", "list"], environment),
        lambda: seconds([*LLMCLI, "--help"], environment),
    )
    print(f"models list with 50 models: {listed * 1e3:.0f} ms, --help: {helped * 1e3:.0f} ms", end="; ")
    print(f"ratio {listed / helped:.2f} (goal 1.5 or less)")


def header_only(folder: Path) -> None:
    """How many bytes `models show` reads of a model that is not here."""
    starter = ensure_starter(ROOT / ".cache")
    with FakeHub() as hub:
        hub.add("bench/show-GGUF", {"show-Q4_1.gguf": starter})
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "LLMCLI_HOME": str(folder / "home")}
        environment["HF_HOME"] = str(folder / "none")
        took = seconds([*LLMCLI, "models", "show", "bench/show-GGUF"], environment)
        print(f"models show of a model on the hub: {took:.2f} s, {hub.served / 2**20:.1f} MiB read (goal 32 or less)")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file that is pulled")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        throughput(Path(name), given.mib << 20, given.rounds)
        listing(Path(name), max(given.rounds, 11))
        header_only(Path(name))


if __name__ == "__main__":
    main()
