"""RPC servers as processes, a proxy that counts bytes, and a program `ssh` that stays on this machine."""

import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

# What `ssh -L PORT:HOST:THERE ... HOST COMMAND` does, without another machine.
FAKE_SSH = """#!{python}
import os, socket, subprocess, sys, threading
words = sys.argv[1:]
place, command = words[words.index("-L") + 1].split(":"), words[-1].split()
if "refused" in words:
    sys.stderr.write("me@refused: Permission denied (publickey).\\n")
    sys.exit(255)
try:
    listener = socket.create_server((place[0], int(place[1])))
except OSError:
    sys.stderr.write("channel_setup_fwd_listener_tcpip: cannot listen to port: " + place[1] + "\\n")
    sys.exit(255)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def forward():
    while True:
        client, _ = listener.accept()
        try:
            there = socket.create_connection((place[2], int(place[3])))
        except OSError:
            client.close()
            continue
        for pair in ((client, there), (there, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
threading.Thread(target=forward, daemon=True).start()
os._exit(subprocess.run([sys.executable, "-m", *command]).returncode)
"""


def quiet_port() -> int:
    """A free port that no program gets by chance, so that it is free again for the next server."""
    while True:
        port = random.randrange(20_000, 32_000)  # systems take others where none is named
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def fake_ssh(folder: Path) -> dict[str, str]:
    """The environment in which `ssh` is that program."""
    folder.mkdir(exist_ok=True)
    program = folder / "ssh"
    program.write_text(FAKE_SSH.replace("{python}", sys.executable))
    program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


class RpcServe:
    """`llmcli rpc serve` on a free port; `address` is where it listens, and `log` what it has written so far."""

    def __init__(self, *arguments: str, home: Path, before: Sequence[str] = ()) -> None:
        """`before` is what starts the command, if another program does."""
        command = [*before, sys.executable, "-m", "llmcli", "rpc", "serve", "--port", "0", "-t", "1", *arguments]
        environment = {**os.environ, "LLMCLI_HOME": str(home)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[str] = []
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"offered at (\S+),", line):
                self.address = found[1]
                break
        else:
            raise AssertionError("".join(self.log))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> "RpcServe":
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _where: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()


class CountingProxy:
    """Forwards connections to a server, and counts the bytes that clients send it.

    After `most` bytes it says `last_words` to its client, and ends the connection.
    """

    def __init__(self, address: str, most: float = math.inf, last_words: bytes = b"") -> None:
        host, _, port = address.partition(":")
        self._there, self._most, self._last_words = (host, int(port)), most, last_words
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.n_sent = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._there) as there:
            back = threading.Thread(target=self._pump, args=(there, client, False), daemon=True)
            back.start()
            self._pump(client, there, True)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.n_sent += len(data) if is_counted else 0
                if self.n_sent > self._most:
                    (source if is_counted else sink).sendall(self._last_words)
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


class SilentProxy(CountingProxy):
    """Forwards the first connection, which is the check, and of the later ones so many answers. Then it is silent."""

    def __init__(self, address: str, n_answers: int) -> None:
        self._n_left, self._is_checked = n_answers, False
        super().__init__(address)

    def _forward(self, client: socket.socket) -> None:
        if not self._is_checked:
            self._is_checked = True
            super()._forward(client)
            return
        with client, socket.create_connection(self._there) as there, suppress(OSError):
            while command := client.recv(1):  # | command | size | data | -> | size | answer |
                if not self._n_left:
                    break
                self._n_left -= 1
                there.sendall(command + self._sized(client))
                client.sendall(self._sized(there))
            while client.recv(1 << 16):
                pass

    def _sized(self, source: socket.socket) -> bytes:
        head = source.recv(8, socket.MSG_WAITALL)
        n_bytes = int.from_bytes(head, "little")
        return head + (source.recv(n_bytes, socket.MSG_WAITALL) if n_bytes else b"")
