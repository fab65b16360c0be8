"""Prints the figures of the README: `make bench`, or `python -m benchmarks.run [ROUNDS]`.

The contestants take turns, so that a busy moment of the machine hits all of them; figures are medians, and a
ratio is the median of the ratios of the rounds. With LLAMA_COMPLETION naming llama.cpp's llama-completion
program, it takes part.
"""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import chat, generation
from benchmarks.measure import HEAD, compare, contest, llmcli, row
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

PROMPT = "The capital of France is"
THREADS = hardware.usable_cores()


def completion(program: str, path: Path, *arguments: str) -> list[str]:
    fixed = ["-m", str(path), "-p", PROMPT, "-n", "16", "--temp", "0", "-no-cnv", "--no-warmup", "--no-display-prompt"]
    return [program, *fixed, "-t", str(THREADS), *arguments]


def whole_process(path: Path, rounds: int, llama_completion: str = "") -> None:
    """16 greedy tokens from the command line, and the memory for it on the same context."""
    ours = llmcli("generate", "--raw", "-n", "16", "--temp", "0", PROMPT)
    bare = [sys.executable, "-m", "benchmarks.bare_loop", str(path), PROMPT]
    commands = {"llmcli": ours, "bare": [*bare, "0", str(THREADS)]}
    same = {"llmcli, 2048": [*ours, "-c", "2048"], "bare, 2048": [*bare, "2048", str(THREADS)]}
    if llama_completion:
        commands["completion"] = completion(llama_completion, path)
        same["completion, 2048"] = completion(llama_completion, path, "-c", "2048")
    done = contest(commands | same, rounds)
    for index, what in enumerate(("to the end", "to the first byte")):
        compare(f"16 tokens, {what}, ms", done, "llmcli", "bare", index, 0.95)
        compare(f"16 tokens, {what}, ms", done, "llmcli", "completion", index, 1.05)
        bare_goal, completion_goal = (0.88, 1.0) if what == "to the end" else (None, None)
        compare(f"the same, context 2048, {what}, ms", done, "llmcli, 2048", "bare, 2048", index, bare_goal)
        compare(f"the same, context 2048, {what}, ms", done, "llmcli, 2048", "completion, 2048", index, completion_goal)
    if llama_completion:
        a, b = (median(run[2] for run in done[name]) for name in ("llmcli, 2048", "completion, 2048"))
        row("resident memory, context 2048, MiB", f"{a:.0f}", f"completion {b:.0f}", a / b, "<= +40 MiB", a - b <= 40)


def start_up(rounds: int) -> None:
    """`--help`, also of one command, against the import of Typer alone."""
    typer = [sys.executable, "-c", "import typer; print()"]
    commands = {"help": llmcli("--help"), "help of generate": llmcli("generate", "--help"), "typer": typer}
    done = contest(commands, rounds)
    compare("llmcli --help, ms", done, "help", "typer", 0, 1.5)
    compare("llmcli generate --help, ms", done, "help of generate", "typer", 0, 1.5)


def processor() -> str:
    """The name of the processor, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main(rounds: int) -> None:
    path = ensure_starter(cache_dir())
    print(
        f"{THREADS} cores of {processor()}, {platform.system()}, Python {platform.python_version()}, the starter model,"
    )
    print(f"medians of {rounds} rounds; ms and MiB: lower is better, tokens/s: higher is better\n")
    print(HEAD)
    parts: list[Callable[[], None]] = [
        lambda: generation.figures(path, rounds),
        lambda: whole_process(path, rounds, os.environ.get("LLAMA_COMPLETION", "")),
        lambda: start_up(rounds),
        lambda: chat.figures(path, rounds),
    ]
    for part in parts:
        part()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
