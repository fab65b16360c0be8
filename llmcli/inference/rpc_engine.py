"""The engine of a model over RPC servers: it runs in a process of its own, which a lost server may end."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError, connection
from threading import RLock
from time import perf_counter
from typing import Any

from llmcli.engine.events import Cancellation, Request, TokenEvent
from llmcli.errors import DiskError, ExitStatus, UsageError
from llmcli.inference import engine_messages as messages
from llmcli.inference.engine import RequestSource
from llmcli.inference.remote_engine import EngineGoneError, RemoteEngine
from llmcli.inference.rpc_devices import end_child
from llmcli.inference.rpc_protocol import RpcServerError, ServerNotReachedError, ask_server
from llmcli.params.model import read_rpc
from llmcli.params.settings import Settings

# The process gets sys.path of this one: by itself it would import modules from the current folder.
_CHILD = """
import sys
sys.path[:] = sys.argv.pop(1).splitlines()
from llmcli.inference.rpc_worker import run
run()
"""
_ERROR = re.compile(r"^error: (.+)(?:\n  hint: (.+))?", re.MULTILINE)
_ANY, _WAITED = "an RPC server", re.compile("sign of life|has not stopped")  # in errors because of a server
_ANEW = "a new try loads the model again"
_ASK = 3.0  # seconds for a server that has perhaps ended
_END = 2.0  # seconds until a process that has closed its connections has ended
_LONGEST_FOLDER = 90  # bytes: the path of a socket has at most 104 on macOS, 108 on Linux


class RpcGoneError(EngineGoneError, status=ExitStatus.NETWORK):
    """The process of the model has ended: a server has, or sent nonsense."""


class RpcEngine(RemoteEngine):
    """A model whose layers are on other machines too."""

    def __init__(
        self,
        settings: Settings,
        notes: list[str],
        cancellation: Cancellation | None = None,
        progress: Callable[[float], object] | None = None,
        *,
        has_log: bool = False,
        is_restarted: bool = False,
    ) -> None:
        """Load the model of the settings. With `has_log` llama.cpp's log goes to stderr.

        If it `is_restarted`, a call after its end loads it again. Raises RpcServerError for a server that cannot be
        used, RpcGoneError for one that ends meanwhile, and what the load of a model raises.
        """
        if not messages.can_be_sent(settings):
            hint = "use a built-in policy, or a model without --rpc"
            raise UsageError("a temperature policy of yours cannot be used with --rpc", hint)

        def loading(share: float) -> None:
            if cancellation and cancellation.is_set():  # ggml cannot be stopped while it waits for a server
                raise KeyboardInterrupt
            if progress:
                progress(share)

        self._has_log, self._is_restarted, self._restarting = has_log, is_restarted, RLock()
        self._process = self._start(settings, cancellation)
        begin = perf_counter()
        super().__init__(self._connect_process, settings, notes, cancellation, loading, self._failure)
        self.load_ms = self.waited_ms = (perf_counter() - begin) * 1e3

    def _start(self, settings: Settings, cancellation: Cancellation | None) -> "RpcProcess":
        try:
            return RpcProcess(settings, self._has_log)
        except RpcGoneError:
            if cancellation and cancellation.is_set():  # a terminal sends Ctrl-C to it too, before it ignores that
                raise KeyboardInterrupt from None
            raise

    def _connect_process(self) -> messages.Wire:
        return self._process.connect()

    def _failure(self) -> EngineGoneError:
        return self._process.failure()

    def _open(self) -> None:
        try:
            super()._open()
        except BaseException:
            self._process.end()
            raise

    @property
    def has_ended(self) -> bool:
        return super().has_ended or not self._process.is_running

    def close(self) -> None:
        super().close()
        self._process.end()

    def _ask(self, name: str, *arguments: object, **watched: Any) -> Any:
        self._restart()
        return super()._ask(name, *arguments, **watched)

    def _restart(self) -> None:
        """Load the model again, if its process has ended."""
        with self._restarting:
            if self._is_restarted and self.has_ended:
                self.close()
                self._process = self._start(self._settings, self._cancellation)
                self._open()

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        self._restart()

        def source(is_idle: bool) -> Request | None:  # the next batch loads the model again, and answers what waits
            return None if self._is_restarted and self.has_ended else requests(is_idle)

        return super().generate_batch(source, n_parallel)


class RpcProcess:
    """The process; it ends with the one that has started it."""

    def __init__(self, settings: Settings, has_log: bool) -> None:
        """Start it, and wait until it listens. Raises LlmcliError."""
        self._names: Sequence[str] = settings.rpc
        self._failure: EngineGoneError | None = None
        self._folder, self._address = _new_address()
        self._secret = secrets.token_bytes(32)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with this object
        given = {
            "settings": messages.settings_data(settings),
            "folder": self._folder,
            "address": self._address,
            "secret": self._secret.hex(),
            "has_log": has_log,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, "\n".join(sys.path), "rpc_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if has_log else self._errors,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise DiskError(f"cannot start a process for the model: {error.strerror}") from None
        assert self._process.stdin
        assert self._process.stdout
        with suppress(OSError):  # it has ended
            self._process.stdin.write(json.dumps(given).encode() + b"\n")
            self._process.stdin.flush()
        if not self._process.stdout.readline():
            failure = self.failure()
            self.end()
            raise failure

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def connect(self) -> messages.Wire:
        """A connection to it. Raises OSError when it has ended."""
        try:
            return connection.Client(self._address, authkey=self._secret)
        except (EOFError, AuthenticationError) as error:
            raise ConnectionError(str(error)) from None

    def failure(self) -> EngineGoneError:
        """The error after its end: the server that has gone, where one has, else what the process wrote last."""
        if self._failure is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END)
            self._failure = self._find_failure()
        return self._failure

    def _find_failure(self) -> EngineGoneError:
        written = b""
        if not self._errors.closed:
            self._errors.seek(0)
            written = self._errors.read()
        ended = f"the process of the model {_end_of(self._process.returncode)}"
        return error_of(written.decode("utf-8", "replace"), self._names) or RpcGoneError(ended, _ANEW)

    def end(self) -> None:
        """End it, and with it the tunnels; a second call has no effect."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()
        end_child(self._process)
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def error_of(written: str, names: Sequence[str]) -> RpcGoneError | None:
    """The error that a process with these servers has written last, and which of them has gone."""
    found = _ERROR.findall(written)
    if not found:
        return None
    message, hint = found[-1]
    has_waited = bool(_WAITED.search(message))
    for name, error in _lost_servers(names) if _ANY in message and not (has_waited and len(names) == 1) else ():
        if not has_waited:
            return RpcGoneError(
                f"a part of the model is lost: {error}", f"start it again with `llmcli rpc serve`; {_ANEW}"
            )
        message = message.replace(_ANY, f"the RPC server {name}")
    if len(names) == 1:
        message = message.replace(_ANY, f"the RPC server {names[0]}")
    return RpcGoneError(message, "; ".join(filter(None, [hint, _ANEW])))


def _lost_servers(names: Sequence[str]) -> Sequence[tuple[str, RpcServerError]]:
    """Those that do not answer now, with the reason; whoever is behind a tunnel is not asked.

    One that is not reached comes first: another one may only be slow to see that its last client has gone.
    """
    found = []
    for name in names:
        address = read_rpc(name)
        if not address.is_ssh:
            try:
                ask_server(name, address.host, address.port, _ASK)
            except RpcServerError as error:
                found.append((name, error))
    return sorted(found, key=lambda one: not isinstance(one[1], ServerNotReachedError))


def _new_address() -> tuple[str, str]:
    """A folder of this user alone for the socket of a process, and the address; on Windows a pipe, in no folder."""
    folder = tempfile.mkdtemp(prefix="llmcli-rpc-")
    if len(os.fsencode(folder)) > _LONGEST_FOLDER and os.path.isdir("/tmp"):
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="llmcli-rpc-", dir="/tmp")
    if sys.platform == "win32":
        return folder, str(connection.arbitrary_address("AF_PIPE"))
    return folder, os.path.join(folder, "socket")


def _end_of(status: int | None) -> str:
    """How a process has ended, which wrote nothing about it."""
    if status is None:
        return "ended the connection"
    if status >= 0:
        return f"has ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
