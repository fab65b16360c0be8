"""Speed of generation at a depth: the engine alone and with everything on, the bare loop, and llama-bench.

`python -m benchmarks.generation [--model FILE.gguf] [--llama-bench PROGRAM] [--rounds 9]`. Everything on is a
temperature for each sentence, penalties, stop strings, a trace in a file, and streaming Markdown for a terminal. They
take turns, so that a busy moment of the machine hits all of them; a ratio is the median of the ratios of the rounds.
"""

import argparse
import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import bare_loop
from benchmarks.measure import HEAD, row
from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.engine.generation import Generation
from llmcli.engine.llama import hardware
from llmcli.engine.scheduler import generate
from llmcli.files import cache_dir
from llmcli.inference.answer import Answer
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.trace_file import TraceWriter
from llmcli.models.locations import ModelFile
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.policies.policy import parse_policy
from llmcli.params.settings import Settings
from llmcli.ui.markdown.view import AnswerView

_DEPTH, _TOKENS, _N_CTX = 512, 128, 1024
_GOAL = 0.98
_THREADS = hardware.usable_cores()
_TEXT = "The quick brown fox jumps over the lazy dog. " * 60
_PLAIN = Settings(
    n_ctx=_N_CTX, n_threads=_THREADS, seed=1, max_tokens=_TOKENS + 1, ignore_eos=True, raw=True, speculative="off"
)
_PENALTIES = {"repeat_penalty": 1.1, "frequency_penalty": 0.1}
_EVERYTHING = _PENALTIES | {
    "temperature": parse_policy("sentence:1.1,0.7,0.4"),
    "stop": ("never said in this answer", "nor this"),
}
Speeds = tuple[float, float]  # tokens per second: of the prompt, of the generation


class Contestants:
    """What takes turns, on one model file."""

    def __init__(self, model: Path, folder: Path, llama_bench: str) -> None:
        self._path, self._folder, self._llama_bench = model, folder, llama_bench
        target = ResolvedModel(ModelFile(model, (model,), model.stem, trusted=True))
        self.engine = LocalEngine(target, _PLAIN, Cancellation())
        self.engine.open_context(_PLAIN)
        self._prompt = self.engine.tokenizer.tokenize(_TEXT)[:_DEPTH]
        self._bare = bare_loop.load(str(model))
        self._bare_context = bare_loop.make_context(self._bare, _N_CTX, _THREADS)

    def plain(self) -> Speeds:
        """The engine alone."""
        self.engine.context.prefill(0, [0])  # forgets all but one token, so that the whole prompt runs
        request = Request(Prompt.of_tokens("", self._prompt), _PLAIN)
        generation = Generation(self.engine.tokenizer, request)
        for _ in generate(self.engine.context, [generation]):
            pass
        return generation.timings.prompt_per_second, generation.timings.predicted_per_second

    def everything(self) -> Speeds:
        """An answer with its policy, penalties, stop strings, trace and Markdown."""
        self.engine.context.prefill(0, [0])
        settings = Settings(**{**vars(_PLAIN), **_EVERYTHING})
        request = Request(Prompt.of_tokens("", self._prompt), settings, trace=0)
        answer = Answer(self.engine, request)
        with closing(TraceWriter(self._folder / "trace.jsonl")) as trace, open(self._folder / "screen", "w") as screen:
            view = AnswerView(partial(print, end="", file=screen), lambda: (100, 40), "dark", True, perf_counter)
            answer.on_token = trace.write
            for _kind, text in answer.parts():
                view.push(text)
            view.finish()
        timings = answer.timings()
        return timings["prompt_per_second"], timings["predicted_per_second"]

    def bare(self) -> Speeds:
        """The shortest loop on the C API."""
        return bare_loop.timed(self._bare, self._bare_context, self._prompt, _TOKENS)

    def bare_with_penalties(self) -> Speeds:
        """The same with llama.cpp's penalties, which look at the whole vocabulary."""
        return bare_loop.timed(self._bare, self._bare_context, self._prompt, _TOKENS, **_PENALTIES)

    def llama_bench(self) -> Speeds:
        """llama.cpp's own benchmark; it has no chain of samplers, and no text."""
        lengths = ("-p", str(_DEPTH), "-n", str(_TOKENS), "-d", f"0,{_DEPTH}", "-r", "1", "-t", str(_THREADS))
        command = [self._llama_bench, "-m", str(self._path), *lengths, "-o", "json"]
        tests = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        speed = {(one["n_prompt"], one["n_depth"]): one["avg_ts"] for one in tests}
        return speed[(_DEPTH, 0)], speed[(0, _DEPTH)]


def figures(model: Path, rounds: int, llama_bench: str = "") -> None:
    """Print a row for each pair."""
    with TemporaryDirectory() as folder:
        all_of = Contestants(model, Path(folder), llama_bench)
        runs: dict[str, Callable[[], Speeds]] = {
            "engine": all_of.plain,
            "everything on": all_of.everything,
            "bare loop": all_of.bare,
            "bare loop with penalties": all_of.bare_with_penalties,
        }
        runs |= {"llama-bench": all_of.llama_bench} if llama_bench else {}
        taken: dict[str, list[Speeds]] = {name: [] for name in runs}
        with closing(all_of.engine):
            for number in range(rounds + 1):  # the first round warms up
                for name in list(runs)[:: -1 if number % 2 else 1]:
                    taken[name] += [runs[name]()][: bool(number)] or []
    pairs = [("engine", "bare loop", 0), ("engine", "bare loop", 1), ("everything on", "bare loop with penalties", 1)]
    pairs += [("engine", "llama-bench", 1), ("everything on", "llama-bench", 1)] if llama_bench else []
    for ours, theirs, index in pairs:
        a, b = ([one[index] for one in taken[name]] for name in (ours, theirs))
        ratio = median(x / y for x, y in zip(a, b, strict=True))
        what = f"{ours}, {'generation' if index else 'prompt'}, tokens/s at depth {_DEPTH if index else 0}"
        row(what, f"{median(a):.1f}", f"{theirs} {median(b):.1f}", ratio, f">= {_GOAL}", ratio >= _GOAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--llama-bench", default="")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(HEAD)
    figures(given.model or ensure_starter(cache_dir()), given.rounds, given.llama_bench)


if __name__ == "__main__":
    main()
