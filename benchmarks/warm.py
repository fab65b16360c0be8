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


def figures(rounds: int, model: str) -> None:
    """Print the rows of one model file."""
    settings = ("-m", model, "-n", "16", "-c", "2048", "--no-stdin", "--seed", "1", "-t", str(hardware.usable_cores()))
    runs: Runs = {"same": [], "other": [], "cold, same": [], "cold, other": []}

    def one(home: Path, number: int) -> tuple[float, float, float]:
        os.environ["LLMCLI_HOME"] = str(home)
        return one_run(llmcli("generate", f"Name {number + 3} {_THINGS[number % len(_THINGS)]}.", *settings))

    before = os.environ.get("LLMCLI_HOME")
    with TemporaryDirectory() as folder:
        cold, warm = Path(folder) / "cold", Path(folder) / "warm"  # the homes: in the first one nothing is kept
        try:
            one(cold, 0)
            one(warm, 0)
            subprocess.run(llmcli("warm", model), check=True, stderr=subprocess.DEVNULL)
            for number in (1, 2):
                time.sleep(_REST)
                one(warm, number)
            time.sleep(_REST)
            for number in range(3, 3 + rounds):
                runs["cold, other"].append(one(cold, number))
                runs["other"].append(one(warm, number))
                runs["cold, same"].append(one(cold, number))
                runs["same"].append(one(warm, number))
        finally:
            os.environ["LLMCLI_HOME"] = str(warm)
            subprocess.run(llmcli("stop", "--all"), check=False, stderr=subprocess.DEVNULL)
            os.environ.pop("LLMCLI_HOME")
            os.environ |= {"LLMCLI_HOME": before} if before else {}
    limit, name = 0.25 if os.path.getsize(model) >= _LARGE else 0.5, Path(model).stem
    for which, what in (("same", "a prompt again"), ("other", "another prompt")):
        compare(f"first byte with a warm {name}, {what}, ms", runs, which, f"cold, {which}", 1, limit)
        compare(f"whole command with a warm {name}, {what}, ms", runs, which, f"cold, {which}", 0, None)


def main(rounds: str = "15", model: str = "") -> None:
    print(HEAD)
    figures(int(rounds), model or str(ensure_starter(cache_dir())))


if __name__ == "__main__":
    main(*sys.argv[1:])
