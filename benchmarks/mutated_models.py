"""Does a damaged or malicious model file ever crash the program? `python -m benchmarks.mutated_models --count 5000`.

Each file is one of the tiny models of the tests with random changes, and goes through `llmcli generate` in a forked
child. What must not happen: an end by a signal (a core dump), a traceback, more than 10 seconds of processor time (or a
minute by the clock), or anything on stdout but the answer. Files that break a rule are kept. It needs `fork`.
"""

import argparse
import os
import random
import re
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.models import tiny_models

LIMIT_S, CLOCK_LIMIT_S = 10.0, 60.0  # of processor time, and by the clock: other programs may use the processor
MAKERS = (
    tiny_models.full_attention,
    tiny_models.quantized,
    tiny_models.sliding_window,
    tiny_models.recurrent,
    tiny_models.hybrid,
)
EXTREMES = (0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
NOT_AN_ANSWER = re.compile(
    rb"GGML_ASSERT|ggml\.c|\[New LWP|#0 |Traceback|^error: |llama_|terminate called", re.MULTILINE
)
FAULTY_STDERR = re.compile(r"Traceback|this is a bug|^#0 |\[New LWP|core dumped", re.MULTILINE)
Mutation = Callable[[bytearray, random.Random, int], None]


def _bytes(data: bytearray, source: random.Random, n_header: int) -> None:
    """Some bytes of the header are others."""
    for _ in range(source.choice((1, 1, 2, 8, 64))):
        data[source.randrange(n_header)] = source.randrange(256)


def _bits(data: bytearray, source: random.Random, _n_header: int) -> None:
    """Some bits anywhere are flipped, as on a bad disk."""
    for _ in range(source.choice((1, 4, 64, 4096))):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _number(data: bytearray, source: random.Random, n_header: int) -> None:
    """A number is an extreme one: a count, a length, a type, an offset or a value."""
    form = source.choice("IQ")
    at = source.randrange(n_header - 8)
    struct.pack_into("<" + form, data, at, source.choice(EXTREMES) % (1 << (32 if form == "I" else 64)))


def _value(data: bytearray, source: random.Random, n_header: int) -> None:
    """The value of a known key is an extreme one."""
    keys = list(re.finditer(rb"[a-z0-9_]+(?:\.[a-z0-9_]+)+", data[:n_header]))
    at = source.choice(keys).end() + 4
    struct.pack_into("<I", data, at, source.choice(EXTREMES) % 2**32)


def _name(data: bytearray, source: random.Random, n_header: int) -> None:
    """A key, a token or the name of a tensor is another one of the same length."""
    names = list(re.finditer(rb"[A-Za-z0-9_.<>]{2,}", data[:n_header]))
    found = source.choice(names)
    data[found.start() + source.randrange(len(found[0]))] = source.choice(b"!xX0\x00\xff")


def _weights(data: bytearray, source: random.Random, n_header: int) -> None:
    """Some weights are infinite, NaN or huge."""
    for _ in range(source.choice((1, 100))):
        at = n_header + 4 * source.randrange((len(data) - n_header) // 4)
        data[at : at + 4] = struct.pack("<f", source.choice((float("nan"), float("inf"), -float("inf"), 3e38)))


def _cut(data: bytearray, source: random.Random, _n_header: int) -> None:
    """The end is missing."""
    del data[source.randrange(len(data)) :]


def _move(data: bytearray, source: random.Random, n_header: int) -> None:
    """A part of the header is missing, or is there twice."""
    at, length = source.randrange(n_header), source.choice((1, 4, 8, 100))
    data[at : at + length] = data[at : at + length] * source.choice((0, 2))


MUTATIONS: tuple[Mutation, ...] = (_bytes, _bits, _number, _value, _name, _weights, _cut, _move)


def mutated(originals: list[bytes], seed: int, number: int) -> tuple[str, bytes]:
    """A mutated file, the same for the same seed and number, and what was done."""
    source = random.Random(f"{seed} {number}")
    data = bytearray(source.choice(originals))
    n_header = len(data) - 100_000 if len(data) > 120_000 else len(data) // 2
    mutations = source.choices(MUTATIONS, k=source.choice((1, 1, 1, 2, 3)))
    for mutation in mutations:
        if len(data) > n_header + 16:
            mutation(data, source, n_header)
    return "+".join(one.__name__[1:] for one in mutations), bytes(data)


def run_generate(path: Path, home: Path) -> tuple[int, bytes, str, float]:
    """The status (negative: the signal), stdout, stderr and seconds of processor time of `llmcli generate`."""
    out, err = home / "stdout", home / "stderr"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ["LLMCLI_HOME"] = str(home)
        for number, name, mode in ((0, Path(os.devnull), os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            os.dup2(os.open(name, mode | os.O_CREAT | os.O_TRUNC, 0o600) if number else os.open(name, mode), number)
        sys.argv = ["llmcli", "generate", "A cat", "-m", str(path), "-n", "4", "-t", "1", "--seed", "1", "--no-stdin"]
        from llmcli.cli.app import main

        main()
        os._exit(99)
    done, code, usage = os.wait4(child, os.WNOHANG)
    while not done and time.monotonic() - start < CLOCK_LIMIT_S:
        time.sleep(0.01)
        done, code, usage = os.wait4(child, os.WNOHANG)
    if not done:
        os.killpg(child, signal.SIGKILL)
        _, code, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime if done else CLOCK_LIMIT_S
    return os.waitstatus_to_exitcode(code), out.read_bytes(), err.read_text("utf-8", "replace"), seconds


def fault_of(status: int, stdout: bytes, stderr: str, seconds: float) -> str:
    """The rule that a run breaks, or an empty text."""
    if seconds >= LIMIT_S:
        return "it takes longer than 10 seconds"
    if status < 0 or status >= 126:
        return f"it ends with status {status}"
    if FAULTY_STDERR.search(stderr):
        return "stderr has a traceback"
    began = "NaN (not a number)" in stderr  # damaged weights can show after some tokens: what came before stays
    if NOT_AN_ANSWER.search(stdout) or (status and stdout.strip() and not began):
        return "stdout has something else than an answer"
    return "an error without a message" if status and "error: " not in stderr else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="number of files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat one")
    parser.add_argument("--keep", type=Path, default=Path("mutated-models"), help="folder for the files with a fault")
    options = parser.parse_args()
    statuses, faults, slowest = Counter[int](), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        originals = [make(home / f"{number}.gguf").read_bytes() for number, make in enumerate(MAKERS)]
        for number in range(options.first, options.first + options.count):
            what, data = mutated(originals, options.seed, number)
            path = home / "mutated.gguf"
            path.write_bytes(data)
            status, stdout, stderr, seconds = run_generate(path, home)
            statuses[status] += 1
            slowest = max(slowest, seconds)
            if number % 50 == 49:
                print(f"{number + 1 - options.first} files, {faults} faults", file=sys.stderr, flush=True)
            if fault := fault_of(status, stdout, stderr, seconds):
                faults += 1
                options.keep.mkdir(exist_ok=True)
                (options.keep / f"{options.seed}-{number}.gguf").write_bytes(data)
                print(f"{number} ({what}): {fault}\n  stdout {stdout[:200]!r}\n  stderr {stderr[:400]!r}", flush=True)
    counts = ", ".join(f"{n} with status {status}" for status, n in sorted(statuses.items()))
    print(f"{options.count} files: {counts}; slowest {slowest:.1f} s; {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
