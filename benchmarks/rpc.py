"""What a token costs when the model is on RPC servers.

    python -m benchmarks.rpc [LLAMA_COMPLETION] [ROUNDS] [MODEL]

On this machine alone, over one and over two servers on the loopback interface, each with one thread: milliseconds for
each token, in turn with `llama-completion --rpc` and the same servers (goal: at least 0.95 of its speed). Both are
timed from outside, as the time that a longer answer takes more than a shorter one: the times that llama-completion
prints leave out sampling and output. Both read the same raw prompt, and neither drafts.

Then 12 settings, whose texts over two servers must be those of this machine alone. Without a MODEL it is the starter,
without LLAMA_COMPLETION (or with "") only the cost over the network is shown.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from statistics import median
from time import perf_counter

from benchmarks.measure import HEAD, llmcli, row
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter

_PROMPT = "Tell a long story about a river."
_SHORT, _LONG = 32, 224  # tokens of two answers
_GOAL = 0.95
_LOADS = ((), ("-ub", "32", "-ctk", "q8_0", "-ctv", "q8_0"), ("-fa", "off", "-ctk", "f32", "-ctv", "f32"))
_DRAWS = (
    ("--temp", "0"),
    ("--temp", "0", "--repeat-penalty", "1.3"),
    ("--temp", "0.8", "--seed", "5", "--dry-multiplier", "0.8"),
    ("--temp", "0.3..1.3", "--seed", "7"),
)


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with one thread."""
    command = llmcli("rpc", "serve", "--port", "0", "-t", "1")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        found = (re.search(r"offered at (\S+),", line) for line in process.stderr)
        try:
            yield next(match[1] for match in found if match)
        finally:
            process.terminate()


def ours(model: str, servers: Sequence[str]) -> float:
    """Milliseconds for each token."""
    where = [word for one in servers for word in ("--rpc", one)]
    fixed = ("--raw", "-m", model, "--temp", "0", "-t", "1", "-c", "512", "--ignore-eos", "--no-stdin")
    return _each_ms([*llmcli("generate", _PROMPT, *fixed, "--speculative", "off"), *where])


def theirs(program: str, model: str, servers: Sequence[str]) -> float:
    """Milliseconds for each token of llama-completion."""
    where = ["--rpc", ",".join(servers), "-ngl", "99"] if servers else []
    fixed = ["-m", model, "-p", _PROMPT, "--temp", "0", "-t", "1", "-c", "512", "--ignore-eos"]
    return _each_ms([program, *fixed, "-no-cnv", "--no-warmup", *where])


def _each_ms(command: Sequence[str]) -> float:
    def seconds(n_tokens: int) -> float:
        begin = perf_counter()
        subprocess.run([*command, "-n", str(n_tokens)], stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return perf_counter() - begin

    return (seconds(_LONG) - seconds(_SHORT)) / (_LONG - _SHORT) * 1e3


def text_of(model: str, flags: Sequence[str]) -> str:
    """An answer."""
    fixed = ("-m", model, "-n", "48", "-t", "1", "-c", "512", "--no-stdin", "--quiet")
    command = llmcli("generate", "Name three rivers of Asia.", *fixed, *flags)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(program: str = "", rounds: str = "5", model: str = "") -> None:
    path = model or str(ensure_starter(cache_dir()))
    with ExitStack() as stack:
        addresses = [stack.enter_context(served()) for _ in range(2)]
        print(HEAD)
        alone = median(ours(path, ()) for _ in range(int(rounds)))
        for count in (1, 2):
            servers, pairs = addresses[:count], []
            for _ in range(int(rounds)):
                pairs.append((ours(path, servers), theirs(program, path, servers) if program else 0.0))
            a, b = median(x for x, _ in pairs), median(y for _, y in pairs)
            what = f"a token over {count} RPC server{'s' * (count > 1)}, ms"
            row(what, f"{a:.2f}", f"alone {alone:.2f}", a / alone, "", True)
            if program:
                ratio = median(y / x for x, y in pairs)  # of the speeds
                row(f"{what}: speed", f"{a:.2f}", f"llama-completion {b:.2f}", ratio, f">= {_GOAL}", ratio >= _GOAL)
        split = [word for one in addresses for word in ("--rpc", one)]
        settings = [[*load, *draw] for load, draw in product(_LOADS, _DRAWS)]
        n_same = sum(text_of(path, one) == text_of(path, [*one, *split]) for one in settings)
        row(
            "texts over 2 RPC servers as alone",
            str(n_same),
            str(len(settings)),
            n_same / len(settings),
            "= 1",
            n_same == 12,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
