"""llmcli beside other programs that answer on the command line with llama.cpp: whole processes, as a user starts them.

`python -m benchmarks.peers [--model FILE.gguf] [--llama-cpp FOLDER] [--llm PROGRAM] [--rounds 5]` prints a Markdown
table. FOLDER has `llama-cli` and `llama-completion` of the same llama.cpp; PROGRAM is `llm` of an environment with
llm-gguf and the same llama-cpp-python. The high-level API of llama-cpp-python is that of the Python that runs this.
Who is not there has no row.

All get the same file, question, number of threads and greedy sampling, through the chat template of the model, and
take turns; figures are medians. llm-gguf has options for none of these: it is ended at its first byte, for which it
has half of the cores. Speed is that of the 48 tokens between two answers of 16
and 64 tokens. For the second question about a file, each uses what it has to remember the first one: llmcli its
stored contexts, llama-completion --prompt-cache (which works with a raw prompt).
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.kv_cache import text_of
from benchmarks.measure import llmcli, one_run, own_home
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.settings import Settings

_QUESTION = "Tell me a long story about a river and an old bridge."  # the answer is longer than 64 tokens
_ABOUT_FILE = ("Who walks?", "What do they carry?")
_PROMPT_TOKENS, _FILE_TOKENS = 512, 4000
_N_CTX, _LARGE_CTX = 2048, 8192
_THREADS = str(hardware.usable_cores())
_HEAD = (
    "first byte, ms",
    "16 tokens, ms",
    "64 tokens, ms",
    "tokens/s",
    f"first byte after {_PROMPT_TOKENS} tokens, ms",
    f"second question, {_FILE_TOKENS} tokens, ms",
    "memory, MiB",
)
# The program for llama-cpp-python: file, question, tokens, context, threads.
_HIGH_LEVEL = """
import sys
from llama_cpp import Llama
path, question, n, n_ctx, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
llama = Llama(path, n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False)
messages = [{"role": "user", "content": question}]
for part in llama.create_chat_completion(messages, max_tokens=n, temperature=0, stream=True):
    print(part["choices"][0]["delta"].get("content", ""), end="", flush=True)
"""
Command = list[str]


class Peer:
    """A program: its command for a question, where its answer begins, and how it asks about a file."""

    can_limit = True  # the number of tokens; else it is ended at its first byte

    def __init__(
        self,
        command: Callable[[str, int, int], Command],
        begins: str = "",
        about_file: Callable[[Path, str, Path], Command] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.command, self.begins, self.env = command, begins, env
        self.about_file = about_file or self._with_text

    def _with_text(self, file: Path, question: str, _folder: Path) -> Command:
        return self.command(f"{file.read_text()} {question}", 8, _LARGE_CTX)

    def run(self, command: Command) -> tuple[float, float, float]:
        """As `one_run`."""
        return one_run(command, self.begins, self.env, is_cut=not self.can_limit)


def peers_of(model: Path, llama_cpp: Path | None, llm: Path | None, folder: Path) -> dict[str, Peer]:
    """The programs that are there, by name."""
    found = {"llmcli": _llmcli(model)}
    for name, make in (("llama-cli", _llama_cli), ("llama-completion", _llama_completion)):
        program = llama_cpp and llama_cpp / name
        if program and program.exists():
            found[name] = make(str(program), model)
    found["llama-cpp-python"] = Peer(
        lambda text, n, n_ctx: [sys.executable, "-c", _HIGH_LEVEL, str(model), text, str(n), str(n_ctx), _THREADS]
    )
    if llm:
        found["llm, llm-gguf"] = _llm(llm, model, folder)
    return found


def _llmcli(model: Path) -> Peer:
    fixed = ("--temp", "0", "-t", _THREADS, "--no-stdin", "-q", "-m", str(model))

    def about_file(file: Path, question: str, _folder: Path) -> Command:
        return llmcli("generate", "-f", str(file), question, "-n", "8", "-c", str(_LARGE_CTX), *fixed)

    return Peer(
        lambda text, n, n_ctx: llmcli("generate", text, "-n", str(n), "-c", str(n_ctx), *fixed), about_file=about_file
    )


def _llama_cli(program: str, model: Path) -> Peer:
    fixed = ("-st", "--temp", "0", "--no-warmup", "-t", _THREADS, "-m", str(model))
    return Peer(  # a banner, and the question behind `>`, come before the answer
        lambda text, n, n_ctx: [program, "-p", text, "-n", str(n), "-c", str(n_ctx), *fixed], r"\n> [^\n]*\n\n?"
    )


def _llama_completion(program: str, model: Path) -> Peer:
    fixed = ("--temp", "0", "--no-warmup", "--no-display-prompt", "-t", _THREADS, "-m", str(model))
    chat = ("-st", "-cnv", "--jinja")

    def about_file(file: Path, question: str, folder: Path) -> Command:
        text = f"{file.read_text()} {question}"
        kept = ("--prompt-cache", str(folder / "prompt.bin"), "-no-cnv")
        return [program, "-p", text, "-n", "8", "-c", str(_LARGE_CTX), *fixed, *kept]

    return Peer(
        lambda text, n, n_ctx: [program, "-p", text, "-n", str(n), "-c", str(n_ctx), *fixed, *chat],
        about_file=about_file,
    )


def _llm(program: Path, model: Path, folder: Path) -> Peer:
    registered = folder / "gguf"
    registered.mkdir()
    sizes = {"short": _N_CTX, "long": _LARGE_CTX}
    models = {name: {"path": str(model), "aliases": [], "n_ctx": n_ctx} for name, n_ctx in sizes.items()}
    (registered / "models.json").write_text(json.dumps(models))

    def command(text: str, _n: int, n_ctx: int) -> Command:
        return [str(program), "-m", f"gguf/{'short' if n_ctx == _N_CTX else 'long'}", "--no-log", text]

    peer = Peer(command, env={"LLM_USER_PATH": str(folder)})
    peer.can_limit = False
    return peer


def figures(model: Path, llama_cpp: Path | None, llm: Path | None, rounds: int) -> None:
    """Print the table."""
    with TemporaryDirectory() as folder, own_home(Path(folder) / "home"):
        peers = peers_of(model, llama_cpp, llm, Path(folder))
        target = ResolvedModel(ModelFile(model, (model,), model.stem, trusted=True))
        with closing(LocalEngine(target, Settings(), Cancellation())) as engine:
            long_text, document = text_of(engine, _PROMPT_TOKENS), text_of(engine, _FILE_TOKENS)
        file = Path(folder) / "document.txt"
        file.write_text(document.strip())
        taken: dict[str, list[list[float]]] = {name: [] for name in peers}
        for number in range(rounds + 1):  # the first round warms up
            for name, peer in list(peers.items())[:: -1 if number % 2 else 1]:
                state = Path(folder) / f"state {number}"
                state.mkdir(exist_ok=True)
                with own_home(state / "home"):
                    taken[name] += [_round(peer, long_text, file, state)][: bool(number)] or []
    print("| program | " + " | ".join(_HEAD) + " |\n|---|" + "---|" * len(_HEAD))
    for name, rows in taken.items():
        shown = [f"{median(column):.0f}" for column in zip(*rows, strict=True)]
        if not peers[name].can_limit:
            shown[1:4] = "-", "-", "-"
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


def _round(peer: Peer, long_text: str, file: Path, state: Path) -> list[float]:
    """The figures of the columns, in their order."""
    peer.run(peer.command("Hi", 1, _N_CTX))  # llmcli checks a file of a new home once, in a process
    short = peer.run(peer.command(_QUESTION, 16, _N_CTX))
    longer = peer.run(peer.command(_QUESTION, 64, _N_CTX)) if peer.can_limit else short
    after_prompt = peer.run(peer.command(long_text, 1, _N_CTX))
    peer.run(peer.about_file(file, _ABOUT_FILE[0], state))
    again = peer.run(peer.about_file(file, _ABOUT_FILE[1], state))
    speed = (64 - 16) / max(longer[0] - short[0], 1e-3)
    seconds = [short[1], short[0], longer[0]]
    return [*(one * 1e3 for one in seconds), speed, after_prompt[1] * 1e3, again[1] * 1e3, longer[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--llama-cpp", type=Path, help="folder with llama-cli and llama-completion")
    parser.add_argument("--llm", type=Path, help="the program llm, of an environment with llm-gguf")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    figures(given.model or ensure_starter(cache_dir()), given.llama_cpp, given.llm, given.rounds)


if __name__ == "__main__":
    main()
