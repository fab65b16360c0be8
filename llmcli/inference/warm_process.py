"""The program of a warm process, which keeps a model loaded: `python -m llmcli.inference.warm_process`."""

import os
import secrets
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from llmcli.errors import LlmcliError
from llmcli.files import cache_dir, data_dir, decode_json, write_json
from llmcli.inference import engine_messages as messages
from llmcli.inference import warm, warm_socket
from llmcli.inference.engine_host import EngineHost
from llmcli.inference.resolved_model import ResolvedModel, resolve_model
from llmcli.models.locations import ModelLocations
from llmcli.params.settings import Settings, parse_data

_LOOK = 0.5  # seconds between two looks at what ends it
_LINGER = 2.0  # seconds after a load that failed, for those who ask why
_PATIENCE = 10.0  # seconds for another process that begins


class WarmProcess:
    """Listens for commands, until it was not used for some time, is told to stop, or its model file changes."""

    def __init__(self, host: EngineHost, description: warm.WarmModel) -> None:
        self._host, self._one = host, description
        self._is_ending = threading.Event()
        if sys.platform != "win32":
            Path(description.address).unlink(missing_ok=True)  # of one that was killed
        self._listener = Listener(description.address, backlog=64)
        if sys.platform != "win32":
            os.chmod(description.address, 0o600)
        write_json(warm.info_path(description.key), warm.data_of(description))

    def describe(self, placement: str) -> None:
        """Say which devices have the model."""
        if placement:
            self._one = replace(self._one, placement=placement)
            write_json(warm.info_path(self._one.key), warm.data_of(self._one))

    def run(self) -> None:
        """Serve until the end."""
        threading.Thread(target=self._watch, daemon=True).start()
        while not self._is_ending.is_set():
            try:
                connection = self._listener.accept()
            except OSError:
                break
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        self.end()

    def end(self, *_signal: object) -> None:
        """Forget it, and end."""
        self._is_ending.set()
        warm.forget(self._one)
        os._exit(0)  # the system frees all at once, and no thread that computes is waited for

    def _serve(self, connection: "Connection[Any, Any]") -> None:
        try:
            first = warm_socket.check(connection, bytes.fromhex(self._one.secret), _PATIENCE)
        except Exception:  # whatever it is, it is nobody who may use the model
            connection.close()
            return
        if first == warm.STOP:
            self.end()
        elif first == warm.STATUS:
            with suppress(OSError), connection:
                idle = 0.0 if self._host.n_sessions else monotonic() - self._host.used_at
                messages.send(connection, {"sessions": self._host.n_sessions, "idle": idle, **self._host.counts()})
        elif first == warm.FORGET:
            with suppress(OSError, EOFError), connection:
                session = connection.recv_bytes().decode("utf-8", "surrogateescape")
                if self._host.contexts:
                    self._host.contexts.forget(session)
                connection.send_bytes(b"")
        elif first == warm.USE:
            self._host.serve(connection)
        else:
            connection.close()

    def _watch(self) -> None:
        path = Path(self._one.path)
        state = warm.state_of(path)
        while True:
            self._is_ending.wait(_LOOK)
            self._host.tend()
            is_idle = self._host.is_idle
            is_over = monotonic() - self._host.used_at > self._one.seconds
            if is_idle and (is_over or warm.state_of(path) != state or not warm.info_path(self._one.key).exists()):
                warm.forget(self._one)  # so that no command comes now
                if is_over and self._host.contexts and self._host.is_idle:
                    self._host.contexts.close()  # which stores what later processes can use
                if self._host.is_idle:
                    self.end()


def _is_first(key: str, target: ResolvedModel, settings: Settings) -> bool:
    """Whether this process is to load the model; if not, another one does, and it can be found."""
    deadline = monotonic() + _PATIENCE
    while not warm.lock(key):
        if warm.find(target.file.parts, settings) or monotonic() > deadline:
            return False
        sleep(_LOOK / 50)  # it begins, or ends
    return True


def main() -> None:
    given = decode_json(sys.stdin.buffer.read())
    values: dict[str, Any] = parse_data(given["settings"], "the settings of a command")
    settings = Settings(**values)
    target = resolve_model(given["model"], ModelLocations(cache_dir(), data_dir()))
    target.file = replace(target.file, **given["file"])
    if not _is_first(given["key"], target, settings):
        return
    host = EngineHost(target, on_abandoned=lambda: process.end())
    description = warm.describe(given["key"], target.file, given["seconds"], secrets.token_hex(16))
    process = WarmProcess(host, description)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the command that started it
    signal.signal(signal.SIGTERM, process.end)

    def load() -> None:
        try:
            host.load(settings)
            process.describe(host.placement)
        except LlmcliError:
            threading.Timer(_LINGER, process.end).start()

    threading.Thread(target=load, daemon=True).start()
    process.run()


if __name__ == "__main__":
    main()
