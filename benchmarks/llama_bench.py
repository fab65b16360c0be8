"""Is `llmcli bench` as fast as llama-bench? Processor time of a token in both, on one thread.

`python -m benchmarks.llama_bench LLAMA_BENCH MODEL.gguf [ROUNDS]`, where LLAMA_BENCH is the program of the same build.
The time of a token is the difference of two runs, one with more samples: load and warm-up count in neither. Processor
time depends little on what else the machine does. Goal: at least 0.97 times as fast.
"""

import os
import subprocess
import sys
from statistics import median

from benchmarks.measure import llmcli

_SAMPLES = 5
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


def main(program: str, model: str, rounds: int) -> None:
    for name, lengths in _TESTS.items():
        commands = [program, "-m", model, "-t", "1", *lengths], [*llmcli("bench", model), "-t", "1", *lengths]
        pairs = [[sample_seconds(command) for command in commands] for _ in range(rounds)]
        print(f"{name}: {median(theirs / ours for theirs, ours in pairs):.2f} times as fast as llama-bench", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
