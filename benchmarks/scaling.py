"""How much faster are two servers, or two actors of Ray, than one, and does the memory of a batch over them stay flat?

    python -m benchmarks.scaling servers [LINES] [ROUNDS]
    python -m benchmarks.scaling ray [LINES] [ROUNDS]
    python -m benchmarks.scaling memory [LINES]
    python -m benchmarks.scaling ray-memory [LINES]

Each server and each actor has one thread and the starter; each answer has 32 tokens. `servers` compares the whole
command (goal: two are at least 1.8 times as fast as one). `ray` compares the lines per second after a quarter of the
lines, without the start of the cluster and of the actors (at least 1.5). `memory` prints the peak memory of a batch of
a tenth of the lines and of all, on two servers without a model. `ray-memory` does it for two actors of a local cluster,
and for three times as many lines: that of the batch, of its driver and of the larger actor (at most 1.1 x that of a
tenth).
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import HEAD, llmcli, row
from tests.inference.fake_engine import FakeEngine

_TOKENS = 32
_CACHED = 5000  # texts that fill the cache of an engine, which has a limit: it does not grow with the lines


def main() -> None:
    command, *numbers = sys.argv[1:]
    if command == "servers":
        servers(*map(int, numbers))
    elif command == "ray":
        ray(*map(int, numbers))
    elif command == "ray-memory":
        ray_memory(*map(int, numbers))
    else:
        memory(*map(int, numbers))


def servers(n_lines: int = 200, rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as folder, _server() as first, _server() as second:
        source = _source(folder, n_lines)
        times: dict[str, list[float]] = {first: [], f"{first},{second}": []}
        for _ in range(rounds + 1):  # the first one only warms up
            for urls, seconds in times.items():
                begin = time.perf_counter()
                _run(_batch(source, Path(folder, "out.jsonl"), "--endpoint", urls))
                seconds.append(time.perf_counter() - begin)
    one, two = ([n_lines * _TOKENS / one for one in seconds[1:]] for seconds in times.values())
    _row("two servers beside one", one, two, 1.8)


def ray(n_lines: int = 400, rounds: int = 3) -> None:
    rates: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as folder:
        source = _source(folder, n_lines)
        for _ in range(rounds):
            for n_actors, found in rates.items():
                output = Path(folder, "out.jsonl")
                command = _batch(source, output, "--ray", "--ray-actors", n_actors, "-t", "1")
                found.append(_TOKENS * _lines_per_second(command, output, n_lines // 4))
    _row("two actors of Ray beside one", rates["1"], rates["2"], 1.5)


def _row(what: str, one: list[float], two: list[float], goal: float) -> None:
    ratio = median(b / a for a, b in zip(one, two, strict=True))
    print(HEAD)
    row(f"{what}: tokens/s", f"{median(two):.0f}", f"one {median(one):.0f}", ratio, f">= {goal}", ratio >= goal)


def _source(folder: str, n_lines: int) -> Path:
    path = Path(folder, "in.txt")
    path.write_text("".join(f"What is {number} times {number + 3}?\n" for number in range(n_lines)))
    return path


def _batch(source: Path, output: Path, *more: str) -> list[str]:
    flags = ("--force", "-q", "-n", str(_TOKENS), "--ignore-eos", "--seed", "1", "--temp", "0")
    return llmcli("batch", str(source), "-o", str(output), *flags, *more)


def _run(command: list[str]) -> None:
    if status := subprocess.run(command).returncode:
        raise SystemExit(f"the batch ended with status {status}")


@contextmanager
def _server() -> Iterator[str]:
    """The URL of a server with one thread."""
    process = subprocess.Popen(llmcli("serve", "-t", "1", "--port", "0"), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        found = next(filter(None, (re.search(r"http://[\d.]+:\d+", line) for line in process.stderr)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # its log
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def _lines_per_second(command: list[str], output: Path, n_begin: int) -> float:
    """The speed after so many lines: the first block of each actor, which load the model before, is not counted."""
    output.unlink(missing_ok=True)
    process = subprocess.Popen(command)
    counts: list[tuple[float, int]] = []
    while process.poll() is None:
        time.sleep(0.01)
        count = output.read_bytes().count(b"\n") if output.exists() else 0
        if count >= n_begin and (not counts or counts[-1][1] != count):
            counts.append((time.perf_counter(), count))
    if process.returncode:
        raise SystemExit(f"the batch ended with status {process.returncode}")
    (begin, n_first), (end, n_last) = counts[0], counts[-1]
    return (n_last - n_first) / (end - begin)


def memory(n_lines: int = 10_000) -> None:
    for count in (n_lines // 10, n_lines):
        subprocess.run(_lines_command("servers", count), check=True)


def _lines_command(kind: str, count: int) -> list[str]:
    return [sys.executable, "-c", f"from benchmarks.scaling import run_lines; run_lines({kind!r}, {count})"]


def ray_memory(n_lines: int = 10_000) -> None:
    """Reads /proc: the memory of processes that share nothing is their anonymous one."""
    least = _peaks(n_lines // 10)
    print(HEAD)
    for count in (n_lines, 3 * n_lines):
        for name, peak in _peaks(count).items():
            ratio, what = peak / least[name], f"{name}, {count} lines beside {n_lines // 10}: MiB"
            row(what, f"{peak:.1f}", f"{least[name]:.1f}", ratio, "<= 1.1", ratio <= 1.1)


def _peaks(count: int) -> dict[str, float]:
    """The peak memory of the processes of a batch of so many lines on a local cluster, in MiB."""
    peaks = {"the batch": 0.0, "its driver": 0.0, "an actor": 0.0}
    batch = subprocess.Popen(_lines_command("ray", count))
    while batch.poll() is None:
        for name, process in _processes(batch.pid):
            peaks[name] = max(peaks[name], _anonymous_mib(process))
        time.sleep(0.2)
    if batch.returncode:
        raise SystemExit(f"the batch ended with status {batch.returncode}")
    return peaks


def _processes(batch: int) -> Iterator[tuple[str, int]]:
    yield "the batch", batch
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [(int(pid), int(parent), words) for pid, parent, words in (x.split(None, 2) for x in table.splitlines())]
    for driver in (pid for pid, parent, words in rows if parent == batch and "spawn_main" in words):
        yield "its driver", driver
        raylets = {pid for pid, parent, _ in rows if parent == driver}
        for pid in (pid for pid, parent, words in rows if parent in raylets and words.startswith("ray::MapWorker")):
            yield "an actor", pid


def _anonymous_mib(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)
    return int(found[1]) / 1024 if found else 0.0


def _same(engine: FakeEngine) -> FakeEngine:
    return engine


def run_lines(kind: str, count: int) -> None:
    """Answer so many lines on two engines without a model, and print the peak memory of this process."""
    import io
    import resource

    from benchmarks.batch import EndlessFile, LineCount
    from llmcli.engine.events import Cancellation
    from llmcli.inference.request import build_prompt
    from llmcli.params.settings import Layer, Settings
    from llmcli.pipelines.batch import Backend, Batch
    from llmcli.pipelines.batch_input import BatchReader, LineSource
    from llmcli.pipelines.line_worker import BatchOptions, LineWorker
    from llmcli.pipelines.ray_actor import ActorPlan
    from llmcli.pipelines.ray_cluster import RayCluster
    from llmcli.pipelines.ray_driver import LOCAL, DriverPlan
    from llmcli.pipelines.ray_placement import ActorNeed
    from llmcli.pipelines.server_pool import PoolServer, ServerPool
    from tests.pipelines.ray_drivers import fake_engine

    layers, options, cancellation = [Layer("flag", {"seed": 1, "max_tokens": 4})], BatchOptions(), Cancellation()
    backend: Backend
    if kind == "servers":
        worker = partial(LineWorker, layers=layers, options=options, cancellation=Cancellation())
        engines = [FakeEngine(["some", " ", "text"]) for _ in range(2)]
        for engine in engines:
            for n in range(_CACHED):
                build_prompt(engine, Settings(), f"cached {n}", None, cancellation)
        members = [PoolServer(str(n), partial(_same, one), worker) for n, one in enumerate(engines)]
        backend = ServerPool(members, 4, cancellation)
    else:
        plan = DriverPlan(LOCAL, ActorPlan(layers, options, fake_engine), ActorNeed(1, n_bytes=1 << 20), 2, count)
        backend = RayCluster(plan, cancellation)
    reader, output = BatchReader(io.BufferedReader(EndlessFile(count)), "in.jsonl"), LineCount()
    begin = time.perf_counter()
    Batch(backend, LineSource(reader, False, cancellation), reader, output, options, cancellation).run()
    seconds = time.perf_counter() - begin
    assert output.n_lines == count
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{kind}: {count} lines, {peak:.1f} MiB at most, {1e6 * seconds / count:.0f} us a line", flush=True)


if __name__ == "__main__":
    main()
