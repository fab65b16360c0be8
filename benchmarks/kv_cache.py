"""Stored contexts beside reading again: a chat that is taken up, a second question about a file, the time to store.

`python -m benchmarks.kv_cache [--model FILE.gguf] [--rounds 5] [--threads N]`. Each run is a whole process with a home
of its own; what the fresh ones lack is only the stored state. With others on the machine, the seconds of the processor
say more than those of the clock.
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from benchmarks.measure import HEAD, llmcli, own_home, row
from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.files import cache_dir
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile, starter_path
from llmcli.params.settings import Settings

# fmt: off
_WORDS = [
    "the", "river", "a", "bridge", "old", "people", "walk", "slowly", "near", "house", "green", "window",
    "morning", "they", "carry", "bread", "to", "market", "while", "rain", "falls", "on", "roofs", "and",
    "children", "count", "boats", "from", "the", "wall", "of", "stone",
]
# fmt: on
_SESSION_TOKENS, _FILE_TOKENS = 2000, 4000
_GOAL, _GOAL_STORE_MS = 0.08, 60
HEAD_OF_CONTEXTS = HEAD.replace("llmcli", "restored").replace("against", "evaluated again")


def text_of(engine: LocalEngine, n_tokens: int) -> str:
    """English words, of about so many tokens."""
    source, text = random.Random(1), ""
    while engine.count_tokens(text) < n_tokens:
        text += " ".join(source.choices(_WORDS, k=12)).capitalize() + ". "
    return text


def timed(command: list[str], home: Path, stdin: str = "") -> tuple[float, float]:
    """Seconds to the first byte of stdout, and seconds of the processor to the end."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LLMCLI_HOME": str(home)},
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(stdin.encode())
        process.stdin.close()
        process.stdout.read(1)
        first = perf_counter() - begin
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return first, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def contest(what: str, command: list[str], home: Path, stdin: str, rounds: int) -> None:
    """Time a command with what `home` has stored, and the same without; each begins with the same home."""
    restored, fresh = list[tuple[float, float]](), list[tuple[float, float]]()
    for number in range(rounds + 1):  # the first one warms up
        for runs, off in ((restored, []), (fresh, ["--no-kv-cache"])):
            with tempfile.TemporaryDirectory() as folder:
                copy = shutil.copytree(home, Path(folder) / "home")
                taken = timed([*command, *off], copy, stdin)
            runs += [taken] if number else []
    for index, (unit, goal) in enumerate((("first byte", f"<= {_GOAL}"), ("processor", ""))):
        ours, theirs = ([run[index] for run in runs] for runs in (restored, fresh))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        row(f"{what}, {unit} (s)", f"{median(ours):.2f}", f"{median(theirs):.2f}", ratio, goal, ratio <= _GOAL)


def time_to_store(engine: LocalEngine, text: str, rounds: int) -> None:
    """Time what the end of a chat adds."""
    settings = Settings(n_ctx=8192, max_tokens=1, seed=1, kv_cache_min=64)
    tokens, wall, processor = engine.tokenizer.tokenize(text), list[float](), list[float]()
    engine.open_context(settings)
    for _ in engine.generate([Request(Prompt.of_tokens("", tokens), settings)]):
        pass
    for number in range(rounds):
        begin, processor_begin = perf_counter(), process_time()
        engine.keep_context(f"session {number}")
        wall.append((perf_counter() - begin) * 1e3)
        processor.append((process_time() - processor_begin) * 1e3)
    what = f"store {len(tokens)} tokens at the end of a chat"
    for clock, times, goal in (("", wall, f"<= {_GOAL_STORE_MS} ms"), (", processor", processor, "")):
        ratio = median(times) / _GOAL_STORE_MS
        row(f"{what}{clock} (ms)", f"{median(times):.0f}", f"{_GOAL_STORE_MS}", ratio, goal, ratio <= 1 or not goal)


def figures(model: Path, rounds: int, threads: int = 0) -> None:
    """Print the rows of one model file."""
    common = ["-m", str(model), "-t", str(threads), "-n", "8", "--temp", "0"]
    with tempfile.TemporaryDirectory() as folder, own_home(Path(folder) / "home"):
        home = Path(folder) / "home"
        target = ResolvedModel(ModelFile(model, (model,), model.stem, trusted=True))
        with closing(LocalEngine(target, Settings(n_threads=threads), Cancellation())) as engine:
            session, document = text_of(engine, _SESSION_TOKENS), text_of(engine, _FILE_TOKENS)
            time_to_store(engine, session, rounds)
        shutil.rmtree(home)
        file = Path(folder) / "document.txt"
        file.write_text(document)
        chat = llmcli("chat", "-S", "novel", *common)
        timed(chat, home, f"{session}\n")
        contest(f"take up a session of {_SESSION_TOKENS} tokens", chat, home, "And what now?\n", rounds)
        timed(llmcli("generate", "-f", str(file), "Who walks?", *common), home)
        question = llmcli("generate", "-f", str(file), "What do they carry?", *common)
        contest(f"second question about a file of {_FILE_TOKENS} tokens", question, home, "", rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=starter_path(cache_dir()))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print(HEAD_OF_CONTEXTS)
    figures(options.model, options.rounds, options.threads)


if __name__ == "__main__":
    main()
