"""How fast is a batch, does its memory stay flat, and does it survive kills?

    python -m benchmarks.batch speed [LLAMA_BATCHED_BENCH] [PROMPTS] [ROUNDS]
    python -m benchmarks.batch memory [LINES] [LINES_OF_THE_STARTER]
    python -m benchmarks.batch kills [KILLS]
    python -m benchmarks.batch profile [PROMPTS]

`speed` answers 64 short prompts with a common beginning of 200 tokens, 64 tokens each, on the starter: side by side,
and one after the other in the same process (goal: at least 1.9 times as fast). With the path of llama.cpp's
llama-batched-bench, it takes part with the width that the batch has chosen and the same lengths (at least 0.9).
`memory` prints the peak memory of batches of 10,000 and of 100,000 lines on an engine without a model, and of 100 and
2,000 lines on the starter. `kills` kills a batch 30 times at random moments, resumes it, and compares the output with
the input. `profile` prints where the time of a batch goes.
"""

import cProfile
import io
import json
import os
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import HEAD, llmcli, row
from benchmarks.policies import open_starter
from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.inference.continuous_batching import ContinuousBatch
from llmcli.inference.local import LocalEngine
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Layer, Settings
from llmcli.pipelines.batch import Batch, OneEngine
from llmcli.pipelines.batch_input import BatchReader, LineSource
from llmcli.pipelines.batch_output import WrittenLine
from llmcli.pipelines.line_worker import BatchOptions, LineWorker

_COMMON, _TOKENS = 200, 64  # of the beginning, and of an answer
_THREADS = hardware.usable_cores()
_SETTINGS = Settings(max_tokens=_TOKENS, ignore_eos=True, seed=1, temperature=Fixed(0.0), n_threads=_THREADS)


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "speed":
        tool = arguments.pop(0) if arguments and not arguments[0].isdigit() else ""
        speed(tool, *map(int, arguments))
    elif command == "memory":
        memory(*map(int, arguments))
    elif command == "kills":
        kills(*map(int, arguments))
    else:
        profile(*map(int, arguments))


def _requests(local: LocalEngine, count: int) -> list[Request]:
    text = "The quick brown fox jumps over the lazy dog. " * 60
    common = local.tokenizer.tokenize(text)[:_COMMON]
    tails = [
        local.tokenizer.tokenize(f"Question {number}: what is {number} times {number + 3}?") for number in range(count)
    ]
    return [Request(Prompt.of_tokens("", [*common, *tail]), _SETTINGS) for tail in tails]


def speed(tool: str = "", n_prompts: int = 64, rounds: int = 3) -> None:
    ratios, ours, widths = [], [], []
    with closing(open_starter(1024)) as local:
        for _ in range(rounds + 1):  # the first one only warms up
            requests = _requests(local, n_prompts)
            local.close_context()
            begin = time.perf_counter()
            for request in requests:
                assert sum(event.id is not None for event in local.generate([request])) == _TOKENS
            alone = time.perf_counter() - begin
            seconds, width = _run_batch(local, requests)
            ratios.append(alone / seconds)
            ours.append(seconds)
            widths.append(width)
    n_tokens = n_prompts * _TOKENS
    print(HEAD)
    ratio, seconds = median(ratios[1:]), median(ours[1:])
    what = f"{n_prompts} prompts side by side, width {widths[-1]}: tokens/s"
    row(
        what, f"{n_tokens / seconds:.0f}", f"one by one {n_tokens / seconds / ratio:.0f}", ratio, ">= 1.9", ratio >= 1.9
    )
    if tool:
        n_own = sum(len(request.prompt.tokens) - _COMMON for request in requests)
        theirs, gain = _their_seconds(tool, widths[-1], n_prompts, n_own)
        ratio = theirs / seconds
        row(
            what,
            f"{n_tokens / seconds:.0f}",
            f"llama-batched-bench {n_tokens / theirs:.0f}",
            ratio,
            ">= 0.9",
            ratio >= 0.9,
        )
        print(f"llama-batched-bench is {gain:.2f} x as fast with this width as with a width of 1")


def _run_batch(local: LocalEngine, requests: Sequence[Request], n_parallel: int = 0) -> tuple[float, int]:
    """The seconds of a batch, and its width at the end."""
    left, count = iter(requests), 0
    begin = time.perf_counter()
    batch = ContinuousBatch(local.model, local.shape, local.start, lambda _idle: next(left, None), n_parallel)
    for event in batch.events():
        count += event.id is not None
    assert count == len(requests) * _TOKENS
    return time.perf_counter() - begin, batch._width.now


def _their_seconds(tool: str, width: int, n_prompts: int, n_own: int) -> tuple[float, float]:
    """What llama-batched-bench takes for as many answers: one shared prompt, and one round for each `width` of them.

    It cannot read a text of its own for each answer, as we do: `n_own` tokens in all, which count at its speed for
    prompts. The second number is how many times as fast it is with this width as with a width of 1.
    """
    n_ctx = _COMMON + width * (_TOKENS + 16)
    command = [tool, "-m", str(ensure_starter(cache_dir())), "-npp", str(_COMMON), "-ntg", str(_TOKENS), "-pps"]
    command += ["-npl", f"1,{width}", "-c", str(n_ctx), "-kvu", "-t", str(_THREADS), "--output-format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    alone, line = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    seconds = line["t_pp"] + n_own / line["speed_pp"] + line["t_tg"] * n_prompts / width
    return float(seconds), float(line["speed_tg"] / alone["speed_tg"])


def profile(n_prompts: int = 64) -> None:
    with closing(open_starter(1024)) as local:
        requests, profiler = _requests(local, n_prompts), cProfile.Profile()
        profiler.enable()
        seconds, width = _run_batch(local, requests, 16)
        profiler.disable()
    print(f"{n_prompts * _TOKENS / seconds:.0f} tokens/s at a width of {width}")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


@dataclass
class LineCount:
    """An output that counts its lines."""

    n_lines: int = 0
    is_rewritten = False

    def earlier(self) -> Generator[WrittenLine, None, None]:
        yield from ()

    def write(self, _line: bytes) -> None:
        self.n_lines += 1

    def finish(self) -> None: ...


class EndlessFile(io.RawIOBase):
    """A file of so many lines, each with an id, that is made while it is read."""

    def __init__(self, n_lines: int) -> None:
        self._lines = (f'{{"id": "line {n}", "prompt": "prompt {n}"}}\n'.encode() for n in range(n_lines))
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = self._rest or next(self._lines, b"")
        n = min(len(data), len(buffer))
        buffer[:n], self._rest = data[:n], data[n:]
        return n


def memory(n_lines: int = 100_000, n_of_starter: int = 2000) -> None:
    for count in (n_lines // 10, n_lines):
        _in_a_process("fake", count)
    for count in (n_of_starter // 20, n_of_starter):
        _in_a_process("starter", count)


def _in_a_process(kind: str, count: int) -> None:
    code = f"from benchmarks.batch import run_lines; run_lines({kind!r}, {count})"
    subprocess.run([sys.executable, "-c", code], check=True)


def run_lines(kind: str, count: int) -> None:
    """Answer so many lines and print the peak memory of this process."""
    from tests.inference.fake_engine import FakeEngine

    engine = FakeEngine(["some", " ", "text"]) if kind == "fake" else open_starter(512)
    cancellation, output = Cancellation(), LineCount()
    reader = BatchReader(io.BufferedReader(EndlessFile(count)), "in.jsonl")
    layers = [Layer("flag", {"seed": 1, "max_tokens": 4})]
    source = LineSource(reader, False, cancellation)
    begin = time.perf_counter()
    with closing(engine):
        worker = LineWorker(engine, layers, BatchOptions(), cancellation)
        Batch(OneEngine(worker, 8, cancellation), source, reader, output, BatchOptions(), cancellation).run()
    seconds = time.perf_counter() - begin
    assert output.n_lines == count
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f"{kind}: {count} lines, {peak:.1f} MiB at most, {1e6 * seconds / count:.0f} us a line", flush=True)


def kills(n_kills: int = 30) -> None:
    """Kill a batch at random moments until that has been done so often; then let it end, and compare."""
    source, moments = [f"prompt {number}" for number in range(20 * n_kills)], random.Random()
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        path.write_text("".join(json.dumps({"id": n, "prompt": text}) + "\n" for n, text in enumerate(source)))
        command = llmcli("batch", str(path), "-o", str(output), "--resume", "--full", "-n", "24", "--ignore-eos", "-q")
        done = 0
        while done < n_kills:
            process, size = subprocess.Popen(command), _size_of(output)
            if done % 3:  # else also while it starts
                while process.poll() is None and _size_of(output) == size:
                    time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 2.0))
            if process.poll() is not None:
                raise SystemExit(
                    f"the batch ended with status {process.returncode} after {done} kills: give it more lines"
                )
            process.kill()
            process.wait()
            done += 1
            print(f"kill {done}: {_size_of(output)} bytes", flush=True)
        if status := subprocess.run(command).returncode:
            raise SystemExit(f"the batch ended with status {status}")
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == [*range(len(source))]
    assert [line["messages"][-1]["content"] for line in lines] == source
    print(f"{n_kills} kills: each of {len(lines)} lines once, in order")


def _size_of(path: Path) -> int:
    return os.path.getsize(path) if path.exists() else 0


if __name__ == "__main__":
    main()
