"""How much sooner does a command begin whose model is kept loaded?

    python -m benchmarks.warm [ROUNDS] [MODEL]

The same command without and with a warm model, in turn: time of the whole process to the first byte (at most 0.5 of the
cold one with the starter, 0.25 with a model of 400 MB or more), and to its end. Without a MODEL it is the starter.
"""

import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from benchmarks.measure import HEAD, Runs, compare, llmcli, one_run
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_LARGE = 400 << 20  # bytes


def main(rounds: str = "15", model: str = "") -> None:
    path = model or str(ensure_starter(cache_dir()))
    ask = llmcli(
        *("generate", "Name three rivers.", "-m", path, "-n", "16", "-c", "2048", "--no-stdin", "--seed", "1"),
        *("-t", str(hardware.usable_cores())),
    )
    runs: Runs = {"warm": [], "cold": []}
    with TemporaryDirectory() as folder:
        os.environ["LLMCLI_HOME"] = folder  # so that no other process is found
        one_run(ask)
        for _ in range(int(rounds)):
            runs["cold"].append(one_run(ask))
            subprocess.run(llmcli("warm", path), check=True, stderr=subprocess.DEVNULL)
            one_run(ask)
            runs["warm"].append(one_run(ask))
            subprocess.run(llmcli("stop", "--all"), check=True, stderr=subprocess.DEVNULL)
    limit = 0.25 if os.path.getsize(path) >= _LARGE else 0.5
    print(HEAD)
    compare("first byte with a warm model, ms", runs, "warm", "cold", 1, limit)
    compare("whole command with a warm model, ms", runs, "warm", "cold", 0, None)


if __name__ == "__main__":
    main(*sys.argv[1:])
