"""Times of whole processes, and rows of the table that the benchmarks print."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

HEAD = "| what | llmcli | against | ratio | goal | met |\n|---|---|---|---|---|---|"
Runs = dict[str, list[tuple[float, float, float]]]  # by name: seconds to the end, to the first byte, peak MiB


def one_run(
    command: list[str], begins: str = "", env: dict[str, str] | None = None, is_cut: bool = False
) -> tuple[float, float, float]:
    """Seconds to the end, seconds to the first byte of the answer, and peak resident MiB of one process.

    The answer begins behind the text on stdout that matches `begins`. With `is_cut`, the process is ended then.
    """
    start = re.compile(f"{begins}.".encode(), re.S)
    begin, first, seen = perf_counter(), 0.0, b""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env={**os.environ, **(env or {})}
    ) as process:
        assert process.stdout
        while data := os.read(process.stdout.fileno(), 1 << 16):
            seen += data
            first = first or (perf_counter() - begin if start.search(seen) else 0.0)
            if first and is_cut:
                process.kill()
                break
        _, status, usage = os.wait4(process.pid, 0)
        total = perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if not first or (process.returncode and not is_cut):
        raise SystemExit(f"{' '.join(command)[:200]} ended with status {process.returncode}, and this: {seen[-200:]!r}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return total, first, usage.ru_maxrss / unit


def contest(commands: dict[str, list[str]], rounds: int) -> Runs:
    """The runs of each command, all taking turns; the first round only warms up."""
    runs: Runs = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            runs[name].append(one_run(command))
    return {name: done[1:] for name, done in runs.items()}


@contextmanager
def own_home(folder: str | Path) -> Iterator[None]:
    """Let llmcli, also in other processes, use this folder: it finds no warm model and no stored context there."""
    before = os.environ.get("LLMCLI_HOME")
    os.environ["LLMCLI_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["LLMCLI_HOME"]
        if before is not None:
            os.environ["LLMCLI_HOME"] = before


def llmcli(*arguments: str) -> list[str]:
    """The command line of the program beside this Python."""
    script = Path(sys.executable).with_name("llmcli")
    return [*([str(script)] if script.exists() else [sys.executable, "-m", "llmcli"]), *arguments]


def compare(what: str, done: Runs, ours: str, theirs: str, index: int, limit: float | None) -> None:
    """Print a row of milliseconds, unless the other program did not run; `index` as in `Runs`."""
    if theirs not in done:
        return
    a, b = ([run[index] * 1e3 for run in done[name]] for name in (ours, theirs))
    ratio = median(x / y for x, y in zip(a, b, strict=True))
    target, met = ("", True) if limit is None else (f"<= {limit}", ratio <= limit)
    row(what, f"{median(a):.0f}", f"{theirs.split(',')[0]} {median(b):.0f}", ratio, target, met)


def row(what: str, ours: str, theirs: str, ratio: float, target: str, met: bool) -> None:
    """Print one row of the table below `HEAD`."""
    mark = "" if not target else ("yes" if met else "NO")
    print(f"| {what} | {ours} | {theirs} | {ratio:.2f} | {target} | {mark} |", flush=True)
