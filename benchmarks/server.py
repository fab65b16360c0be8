"""How fast is `llmcli serve`, beside llama-server and beside the same answers without HTTP?

    python -m benchmarks.server speed LLAMA_SERVER [ROUNDS]
    python -m benchmarks.server overhead [ROUNDS]
    python -m benchmarks.server memory [REQUESTS]
    python -m benchmarks.server crowd

`speed` lets 8 clients at once ask for 64 tokens each, and then one client alone, of both servers in turn (goals: all
tokens per second at least 0.95 of llama-server's with as many slots; alone, the time to the first token and the tokens
per second at least 0.97). `overhead` compares one client with the engine in the same process, without HTTP (at most
3 ms to the first token). `memory` prints the resident memory after some requests and after all of them. `crowd` opens
500 connections, of which 490 are slow or silent, and compares the answers of the other 10 with those without a crowd.
All use the starter, a raw prompt and greedy answers.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median
from time import perf_counter, sleep

from benchmarks.measure import HEAD, llmcli, row
from benchmarks.policies import open_starter
from llmcli.engine.events import Prompt, Request
from llmcli.engine.llama import hardware
from llmcli.files import cache_dir
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

_CLIENTS, _TOKENS, _N_CTX = 8, 64, 512
_THREADS = hardware.usable_cores()
_PROMPT = "In the north of the country, there is a lake that nobody has ever"


@dataclass(frozen=True)
class Timing:
    """Of one streamed answer: seconds to its first token and to its end, and its number of tokens."""

    first: float
    total: float
    n_tokens: int

    @property
    def speed(self) -> float:
        """Tokens per second after the first one."""
        return (self.n_tokens - 1) / (self.total - self.first)


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "speed":
        speed(arguments[0], *map(int, arguments[1:]))
    elif command == "overhead":
        overhead(*map(int, arguments))
    elif command == "memory":
        memory(*map(int, arguments))
    else:
        crowd()


def speed(tool: str, rounds: int = 5) -> None:
    with ExitStack() as stack:
        ports = {"llmcli": stack.enter_context(_our_server()), "llama-server": stack.enter_context(_their_server(tool))}
        rates: dict[str, list[float]] = {name: [] for name in ports}
        alone: dict[str, list[Timing]] = {name: [] for name in ports}
        for number in range(rounds + 1):  # the first one only warms up
            for name, port in ports.items():
                begin = perf_counter()
                with ThreadPoolExecutor(_CLIENTS) as pool:
                    done = list(pool.map(lambda n, port=port: _ask(port, f"{n} {_PROMPT}"), range(_CLIENTS)))
                rate = sum(one.n_tokens for one in done) / (perf_counter() - begin)
                one = _ask(port, f"{number} alone {_PROMPT}")
                if number:
                    rates[name].append(rate)
                    alone[name].append(one)
    print(HEAD)
    a, b = (median(rates[name]) for name in ports)
    row(f"{_CLIENTS} clients at once: tokens/s", f"{a:.0f}", f"llama-server {b:.0f}", a / b, ">= 0.95", a / b >= 0.95)
    firsts = {name: median(1e3 * one.first for one in done) for name, done in alone.items()}
    a, b = firsts.values()
    row("one client: first token, ms", f"{a:.1f}", f"llama-server {b:.1f}", b / a, ">= 0.97", b / a >= 0.97)
    a, b = (median(one.speed for one in done) for done in alone.values())
    row("one client: tokens/s", f"{a:.1f}", f"llama-server {b:.1f}", a / b, ">= 0.97", a / b >= 0.97)


def overhead(rounds: int = 15) -> None:
    """The same answers over HTTP and in this process, in turn."""
    settings = Settings(max_tokens=_TOKENS, ignore_eos=True, seed=1, temperature=Fixed(0.0), n_threads=_THREADS)
    served, bare = list[Timing](), list[Timing]()
    with _our_server("--parallel", "1") as port, closing(open_starter(_N_CTX)) as local:
        for number in range(rounds + 1):
            text = f"{number} {_PROMPT}"
            served.append(_ask(port, text))
            prompt = Prompt.of_tokens(text, local.tokenizer.tokenize(text))
            begin, times = perf_counter(), list[float]()
            for event in local.generate([Request(prompt, settings)]):
                if event.id is not None:
                    times.append(perf_counter() - begin)
            bare.append(Timing(times[0], times[-1], len(times)))
    added = median(1e3 * (a.first - b.first) for a, b in zip(served[1:], bare[1:], strict=True))
    ratio = median(a.speed / b.speed for a, b in zip(served[1:], bare[1:], strict=True))
    print(HEAD)
    row("first token over HTTP: ms more", f"{added:.1f}", "in process", added, "<= 3", added <= 3)
    row("tokens/s over HTTP", "", "in process", ratio, ">= 0.97", ratio >= 0.97)


def memory(n_requests: int = 200) -> None:
    with _our_server() as port:
        process = _servers[port]
        for number in range(n_requests + 1):
            _ask(port, f"{number} {_PROMPT}", 16)
            if number in (20, n_requests // 2, n_requests):
                print(f"after {number} requests: {_resident_mib(process.pid):.1f} MiB", flush=True)


def crowd() -> None:
    """Half of the crowd sends nothing, half a byte of a request each second."""
    with _our_server() as port, ExitStack() as stack:
        quiet = [_ask(port, f"{number} {_PROMPT}", 16).total for number in range(10)]
        sockets = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=10))) for _ in range(490)
        ]
        for one in sockets[::2]:
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        busy = []
        for number in range(10):
            for one in sockets[::2]:
                with suppress(OSError):  # the server has cut it
                    one.sendall(b"a")
            busy.append(_ask(port, f"{number} {_PROMPT}", 16).total)
    ratio = median(busy) / median(quiet)
    print(HEAD)
    row("an answer beside 490 slow connections", f"{median(busy):.3f}", f"alone {median(quiet):.3f}", ratio, "", True)


_servers: dict[int, "subprocess.Popen[bytes]"] = {}  # by port


@contextmanager
def _our_server(*options: str) -> Iterator[int]:
    arguments = ["serve", "-c", str(_N_CTX), "-t", str(_THREADS), "--quiet", *(options or ["--parallel", "8"])]
    with _server(llmcli(*arguments)) as port:
        yield port


@contextmanager
def _their_server(tool: str) -> Iterator[int]:
    model, n_ctx = str(ensure_starter(cache_dir())), str(_N_CTX * _CLIENTS)
    arguments = [tool, "-m", model, "-np", str(_CLIENTS), "-c", n_ctx, "-t", str(_THREADS), "--no-webui"]
    with _server(arguments) as port:
        yield port


@contextmanager
def _server(command: list[str]) -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _servers[port] = process
    try:
        while not _is_ready(port):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with status {process.returncode}")
            sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _is_ready(port: int) -> bool:
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except OSError:
        return False


def _ask(port: int, prompt: str, n_tokens: int = _TOKENS) -> Timing:
    """The times of a streamed completion."""
    body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True, "seed": 1}
    with closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        begin, first, count = perf_counter(), 0.0, 0
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        while line := response.readline():
            if line.startswith(b"data: {") and b'"text":""' not in line:
                count += 1
                first = first or perf_counter() - begin
        return Timing(first, perf_counter() - begin, count)


def _resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    main()
