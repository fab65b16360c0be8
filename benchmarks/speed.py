"""All figures of speed, each beside its goal and its peer, in one run.

    python -m benchmarks.speed [--only PART] [--quick] [--large FILE.gguf] [--questions FILE] [--llama-cpp FOLDER]
                               [--llm PROGRAM]

The parts are start (a cold answer, `--help`), generation (at a depth, with everything on), bench (`llmcli bench`),
contexts (taken up, and stored), warm, speculation and peers (the table of the README). FILE.gguf is a model of 400 MB
or more beside the starter, FILE `question.jsonl` of Spec-Bench, FOLDER the programs of the same llama.cpp
(llama-completion, llama-cli, llama-bench), PROGRAM `llm` of an environment with llm-gguf. What is not given is left
out, with a line that says so. Nothing else may run on the machine.
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

from benchmarks import generation, kv_cache, llama_bench, peers, run, speculation, warm
from benchmarks.measure import HEAD
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_ROUNDS, _QUICK = 9, 2


class Speed:
    """The parts, by their names; each prints its tables."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._starter, self._given = ensure_starter(cache_dir()), given
        self._rounds = _QUICK if given.quick else _ROUNDS
        self._models = [self._starter, *([given.large] if given.large else [])]
        if not given.large:
            print("left out: a larger model (--large FILE.gguf)")

    def start(self) -> None:
        """A cold answer of 16 tokens beside llama-completion, and help beside the import of Typer."""
        print(HEAD)
        run.whole_process(self._starter, self._rounds, self._program("llama-completion"))
        run.start_up(self._rounds)

    def generation(self) -> None:
        """Generation beside the bare loop and llama-bench."""
        program = self._program("llama-bench")
        print(HEAD)
        generation.figures(self._starter, self._rounds, program)

    def bench(self) -> None:
        """`llmcli bench` beside llama-bench."""
        program = self._program("llama-bench")
        if program:
            print(HEAD)
            llama_bench.figures(program, str(self._starter), min(self._rounds, 3))

    def contexts(self) -> None:
        """Stored contexts beside an evaluation."""
        for model in self._models:
            print(f"{model.stem}\n\n{kv_cache.HEAD_OF_CONTEXTS}")
            kv_cache.figures(model, min(self._rounds, 3))

    def warm(self) -> None:
        """A warm model beside a load."""
        print(HEAD)
        for model in self._models:
            warm.figures(self._rounds, str(model))

    def speculation(self) -> None:
        """Drafts beside none."""
        limit = "2" if self._given.quick else "8"
        questions = ["--questions", str(self._given.questions)] if self._given.questions else []
        if not questions:
            print("left out: Spec-Bench (--questions question.jsonl)")
        for model in self._models:
            print(f"{model.stem}\n\n{HEAD}")
            speculation.figures(speculation.options("--model", str(model), "--limit", limit, *questions))

    def peers(self) -> None:
        """The table of the README."""
        for name in ("llama-cli", "llama-completion"):
            self._program(name)
        if not self._given.llm:
            print("left out: llm with llm-gguf (--llm PROGRAM)")
        peers.figures(self._starter, self._given.llama_cpp, self._given.llm, min(self._rounds, 5))

    def _program(self, name: str) -> str:
        """The path of a program of llama.cpp; "" without it."""
        path = self._given.llama_cpp / name if self._given.llama_cpp else None
        if path and path.exists():
            return str(path)
        print(f"left out: {name} (--llama-cpp FOLDER)")
        return ""


_PARTS: dict[str, Callable[[Speed], None]] = {
    "start": Speed.start,
    "generation": Speed.generation,
    "bench": Speed.bench,
    "contexts": Speed.contexts,
    "warm": Speed.warm,
    "speculation": Speed.speculation,
    "peers": Speed.peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(_PARTS), help="this part; can be repeated")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that all of it runs")
    parser.add_argument("--large", type=Path, help="a model of 400 MB or more")
    parser.add_argument("--questions", type=Path, help="question.jsonl of Spec-Bench")
    parser.add_argument("--llama-cpp", type=Path, help="folder with llama-completion, llama-cli and llama-bench")
    parser.add_argument("--llm", type=Path, help="the program llm, of an environment with llm-gguf")
    given = parser.parse_args()
    machine = f"{hardware.usable_cores()} cores of {run.processor()}, {platform.system()}"
    print(f"{machine}, Python {platform.python_version()}; medians; ms, s and MiB: lower is better")
    speed = Speed(given)
    for name in given.only or _PARTS:
        print(f"\n## {name}\n", flush=True)
        _PARTS[name](speed)


if __name__ == "__main__":
    main()
