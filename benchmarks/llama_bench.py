"""Is `llmcli bench` as fast as llama-bench? Processor time of a token in both, on one thread.

`python -m benchmarks.llama_bench LLAMA_BENCH MODEL.gguf [ROUNDS]`, where LLAMA_BENCH is the program of the same build.
The time of a token is the difference of two runs, one with more samples: load and warm-up count in neither. Processor
time depends little on what else the machine does. Goal: at least 0.97 times as fast.
"""

import os
import subprocess
import sys
from statistics import median

from benchmarks.measure import HEAD, llmcli, row

_SAMPLES = 5
_GOAL = 0.97
_TESTS = {
    "tg32": ("-p", "0", "-n", "32"),
    "pp128": ("-p", "128", "-n", "0"),
    "tg32 @ d256": ("-p", "0", "-n", "32", "-d", "256"),
}


def processor_seconds(command: list[str]) -> float:
    """What one run takes of the processors."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def sample_seconds(command: list[str]) -> float:
    """Processor time of one sample."""
    many, one = (processor_seconds([*command, "-r", str(n)]) for n in (_SAMPLES + 1, 1))
    return (many - one) / _SAMPLES


def figures(program: str, model: str, rounds: int) -> None:
    """Print a row for each test."""
    for name, lengths in _TESTS.items():
        commands = [*llmcli("bench", model), "-t", "1", *lengths], [program, "-m", model, "-t", "1", *lengths]
        ours, theirs = zip(*([sample_seconds(one) * 1e3 for one in commands] for _ in range(rounds)), strict=True)
        ratio = median(their / our for our, their in zip(ours, theirs, strict=True))
        what = f"llmcli bench, {name}, processor, ms for a sample"
        row(what, f"{median(ours):.0f}", f"llama-bench {median(theirs):.0f}", ratio, f">= {_GOAL}", ratio >= _GOAL)


if __name__ == "__main__":
    print(HEAD)
    figures(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
