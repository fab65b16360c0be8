"""How much sooner does a command begin whose model is kept loaded?

    python -m benchmarks.warm [ROUNDS] [MODEL]

The same command without and with a warm model, in turn: time of the whole process to the first byte (at most 0.5 of the
cold one with the starter, 0.25 with a model of 400 MB or more), and to its end. Without a MODEL it is the starter.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import HEAD, Runs, compare, llmcli, one_run, own_home
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_LARGE = 400 << 20  # bytes


def figures(rounds: int, model: str) -> None:
    """Print the rows of one model file."""
    ask = llmcli(
        *("generate", "Name three rivers.", "-m", model, "-n", "16", "-c", "2048", "--no-stdin", "--seed", "1"),
        *("-t", str(hardware.usable_cores())),
    )
    runs: Runs = {"warm": [], "cold": []}
    with TemporaryDirectory() as folder, own_home(folder):  # so that no other process is found
        one_run(ask)
        for _ in range(rounds):
            runs["cold"].append(one_run(ask))
            subprocess.run(llmcli("warm", model), check=True, stderr=subprocess.DEVNULL)
            one_run(ask)
            runs["warm"].append(one_run(ask))
            subprocess.run(llmcli("stop", "--all"), check=True, stderr=subprocess.DEVNULL)
    limit = 0.25 if os.path.getsize(model) >= _LARGE else 0.5
    name = Path(model).stem
    compare(f"first byte with a warm {name}, ms", runs, "warm", "cold", 1, limit)
    compare(f"whole command with a warm {name}, ms", runs, "warm", "cold", 0, None)


def main(rounds: str = "15", model: str = "") -> None:
    print(HEAD)
    figures(int(rounds), model or str(ensure_starter(cache_dir())))


if __name__ == "__main__":
    main(*sys.argv[1:])
