"""Times of whole processes, and rows of the table that the benchmarks print."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

HEAD = "| what | llmcli | against | ratio | goal | met |\n|---|---|---|---|---|---|"
Runs = dict[str, list[tuple[float, float, float]]]  # by name: seconds to the end, to the first byte, peak MiB


def one_run(command: list[str]) -> tuple[float, float, float]:
    """Seconds to the end, seconds to the first byte of stdout, and peak resident MiB of one process."""
    begin = perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        process.stdout.read(1)
        first = perf_counter() - begin
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return perf_counter() - begin, first, usage.ru_maxrss / unit


def contest(commands: dict[str, list[str]], rounds: int) -> Runs:
    """The runs of each command, all taking turns; the first round only warms up."""
    runs: Runs = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            runs[name].append(one_run(command))
    return {name: done[1:] for name, done in runs.items()}


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
