"""How fast an answer is while other programs use the processors too.

    python -m benchmarks.busy [LLAMA_COMPLETION] [ROUNDS]

Tokens a second of the starter with as many threads as there are cores: alone; beside as many programs as cores that
compute without an end; and two such commands at once (of each one). In turn: llmcli; llmcli with threads that wait as
libgomp has it without us (GOMP_SPINCOUNT is set, so that llmcli changes nothing); `llama-completion`, if it is given.
All are timed as they time themselves: the tokens after the first one.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

from benchmarks.measure import HEAD, llmcli, row
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_PROMPT = "Once upon a time"
_N_TOKENS = 128
_LONGEST = 180  # seconds for one command
_LIBGOMP = {"GOMP_SPINCOUNT": "300000"}  # its default, where OMP_WAIT_POLICY is not set


@contextmanager
def beside(n_programs: int) -> Iterator[None]:
    """So many programs that compute; they end by themselves if this one is killed."""
    code = f"import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range({10**6}))"
    programs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(n_programs)]
    try:
        yield
    finally:
        for one in programs:
            one.kill()
            one.wait()


class Command:
    """A program that answers, and how it tells its speed."""

    def __init__(self, arguments: Sequence[str], speed: str, variables: Mapping[str, str] | None = None) -> None:
        self._arguments, self._speed, self._variables = arguments, speed, {**os.environ, **(variables or {})}

    def speeds(self, n_at_once: int) -> list[float]:
        """Tokens a second of so many of it at once; of one that takes too long, the most that it can be."""
        pipe = subprocess.PIPE
        running = [
            subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=self._variables
            )
            for _ in range(n_at_once)
        ]
        return [self._speed_of(one) for one in running]

    def _speed_of(self, process: "subprocess.Popen[str]") -> float:
        try:
            stdout, stderr = process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return _N_TOKENS / _LONGEST
        if self._speed == "json":
            return (_N_TOKENS - 1) * 1e3 / float(json.loads(stdout)["timings"]["predicted_ms"])
        found = re.findall(self._speed, stdout + stderr)
        return float(found[-1])


def main(program: str = "", rounds: str = "5") -> None:
    model, n_cores = str(ensure_starter(cache_dir())), hardware.usable_cores()
    fixed = ("-m", model, "-t", str(n_cores), "-c", "512", "--temp", "0", "--ignore-eos", "-n", str(_N_TOKENS))
    ours = llmcli("generate", "--raw", _PROMPT, *fixed, "--json", "--no-stdin", "--speculative", "off")
    commands = {"llmcli": Command(ours, "json"), "llmcli as libgomp waits": Command(ours, "json", _LIBGOMP)}
    if program:
        theirs = [program, *fixed, "-p", _PROMPT, "-no-cnv", "--no-warmup"]
        commands["llama-completion"] = Command(theirs, r"[^p] eval time.*?([\d.]+) tokens per second")
    print(HEAD)
    for what, n_beside, n_at_once in (
        ("tokens/s alone", 0, 1),
        (f"tokens/s beside {n_cores} programs that compute", n_cores, 1),
        ("tokens/s of each of two at once", 0, 2),
    ):
        found: dict[str, list[float]] = {name: [] for name in commands}
        with beside(n_beside):
            for _ in range(int(rounds)):
                for name, command in commands.items():
                    found[name] += command.speeds(n_at_once)
        medians = {name: median(speeds) for name, speeds in found.items()}
        mine = medians.pop("llmcli")
        for name, other in medians.items():
            goal = ">= 0.98" if not n_beside and n_at_once == 1 else ""
            row(what, f"{mine:.1f}", f"{name} {other:.1f}", mine / other, goal, not goal or mine / other >= 0.98)


if __name__ == "__main__":
    main(*sys.argv[1:])
