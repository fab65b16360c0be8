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

from benchmarks import bare_loop, chat
from benchmarks.measure import HEAD, compare, contest, llmcli, row
from llmcli.engine.events import Prompt, Request
from llmcli.engine.generation import Generation
from llmcli.engine.llama import hardware
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import generate
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.settings import Settings

PROMPT = "The capital of France is"
THREADS = hardware.usable_cores()
COMPLETION = os.environ.get("LLAMA_COMPLETION", "")


def engine(path: Path, rounds: int) -> None:
    """Speed of the engine against the bare loop, each from an empty memory on its own context."""
    n_ctx, n_predict = 1024, 128
    raw = bare_loop.load(str(path))
    bare = bare_loop.make_context(raw, n_ctx, THREADS)
    model = Model.load([path], 0)
    prompt = model.vocab.tokenize("The quick brown fox jumps over the lazy dog. " * 60)[:512]
    context = Context(model, Settings(n_ctx=n_ctx, n_threads=THREADS))
    settings = Settings(seed=1, max_tokens=n_predict + 1, ignore_eos=True)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []

    def run_ours() -> None:
        context.prefill(0, [0])  # forgets all but one token, so that the whole prompt runs
        generation = Generation(model.vocab, Request(Prompt.of_tokens("", prompt), settings))
        for _record in generate(context, [generation]):
            pass
        ours.append((generation.timings.prompt_per_second, generation.timings.predicted_per_second))

    def run_theirs() -> None:
        theirs.append(bare_loop.timed(raw, bare, prompt, n_predict))

    for number in range(rounds + 1):
        for run in (run_ours, run_theirs) if number % 2 else (run_theirs, run_ours):
            run()
    for index, name in enumerate(("prompt", "generation")):
        a, b = ([run[index] for run in runs[1:]] for runs in (ours, theirs))
        ratio = median(x / y for x, y in zip(a, b, strict=True))
        row(
            f"engine, {name}, tokens/s",
            f"{median(a):.1f}",
            f"bare loop {median(b):.1f}",
            ratio,
            ">= 0.97",
            ratio >= 0.97,
        )


def completion(path: Path, *arguments: str) -> list[str]:
    fixed = ["-m", str(path), "-p", PROMPT, "-n", "16", "--temp", "0", "-no-cnv", "--no-warmup", "--no-display-prompt"]
    return [COMPLETION, *fixed, "-t", str(THREADS), *arguments]


def whole_process(path: Path, rounds: int) -> None:
    """16 greedy tokens from the command line, and the memory for it on the same context."""
    ours = llmcli("generate", "--raw", "-n", "16", "--temp", "0", PROMPT)
    bare = [sys.executable, "-m", "benchmarks.bare_loop", str(path), PROMPT]
    commands = {"llmcli": ours, "bare": [*bare, "0", str(THREADS)]}
    same = {"llmcli, 2048": [*ours, "-c", "2048"], "bare, 2048": [*bare, "2048", str(THREADS)]}
    if COMPLETION:
        commands["completion"] = completion(path)
        same["completion, 2048"] = completion(path, "-c", "2048")
    done = contest(commands | same, rounds)
    for index, what in enumerate(("to the end", "to the first byte")):
        compare(f"16 tokens, {what}, ms", done, "llmcli", "bare", index, 0.95)
        compare(f"16 tokens, {what}, ms", done, "llmcli", "completion", index, 1.05)
        bare_goal, completion_goal = (0.88, 1.02) if what == "to the end" else (None, None)
        compare(f"the same, context 2048, {what}, ms", done, "llmcli, 2048", "bare, 2048", index, bare_goal)
        compare(f"the same, context 2048, {what}, ms", done, "llmcli, 2048", "completion, 2048", index, completion_goal)
    if COMPLETION:
        a, b = (median(run[2] for run in done[name]) for name in ("llmcli, 2048", "completion, 2048"))
        row("resident memory, context 2048, MiB", f"{a:.0f}", f"completion {b:.0f}", a / b, "<= +40 MiB", a - b <= 40)


def start_up(rounds: int) -> None:
    """`--help` against the import of Typer alone."""
    done = contest({"help": llmcli("--help"), "typer": [sys.executable, "-c", "import typer; print()"]}, rounds)
    compare("llmcli --help, ms", done, "help", "typer", 0, 1.8)


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
        lambda: engine(path, rounds),
        lambda: whole_process(path, rounds),
        lambda: start_up(rounds),
        lambda: chat.figures(path, rounds),
    ]
    for part in parts:
        part()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
