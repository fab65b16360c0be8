"""How much sooner does a command begin whose model is kept loaded?

    python -m benchmarks.warm [ROUNDS] [MODEL]

The same command without and with a warm model, in turn: time of the whole process to the first byte (at most 0.5 of the
cold one with the starter, 0.25 with a model of 400 MB or more), and to its end. A prompt that was asked before, and one
that shares only the beginning of the chat template with those before it. Without a MODEL it is the starter.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import HEAD, Runs, compare, llmcli, one_run
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_LARGE = 400 << 20  # bytes
_REST = 1.5  # seconds until the process has found out how it may begin a prompt
_THINGS = ("rivers", "lakes", "seas", "towns", "hills", "birds", "trees", "fish", "tools", "games", "songs", "books")


def main(rounds: str = "15", model: str = "") -> None:
    path = model or str(ensure_starter(cache_dir()))
    settings = ("-m", path, "-n", "16", "-c", "2048", "--no-stdin", "--seed", "1", "-t", str(hardware.usable_cores()))

    def ask(number: int) -> list[str]:
        return llmcli("generate", f"Name {number + 3} {_THINGS[number % len(_THINGS)]}.", *settings)

    runs: Runs = {"same": [], "other": [], "cold, same": [], "cold, other": []}
    with TemporaryDirectory() as folder:
        cold, warm = Path(folder) / "cold", Path(folder) / "warm"  # the homes: in the first one nothing is kept

        def one(home: Path, number: int) -> tuple[float, float, float]:
            os.environ["LLMCLI_HOME"] = str(home)
            return one_run(ask(number))

        one(cold, 0)
        one(warm, 0)
        subprocess.run(llmcli("warm", path), check=True, stderr=subprocess.DEVNULL)
        try:
            for number in (1, 2):
                time.sleep(_REST)
                one(warm, number)
            time.sleep(_REST)
            for number in range(3, 3 + int(rounds)):
                runs["cold, other"].append(one(cold, number))
                runs["other"].append(one(warm, number))
                runs["cold, same"].append(one(cold, number))
                runs["same"].append(one(warm, number))
        finally:
            os.environ["LLMCLI_HOME"] = str(warm)
            subprocess.run(llmcli("stop", "--all"), check=True, stderr=subprocess.DEVNULL)
    limit = 0.25 if os.path.getsize(path) >= _LARGE else 0.5
    print(HEAD)
    for which, what in (("same", "a prompt again"), ("other", "another prompt")):
        compare(f"first byte with a warm model, {what}, ms", runs, which, f"cold, {which}", 1, limit)
        compare(f"whole command with a warm model, {what}, ms", runs, which, f"cold, {which}", 0, None)


if __name__ == "__main__":
    main(*sys.argv[1:])
