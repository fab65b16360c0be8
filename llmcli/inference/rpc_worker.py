"""The program of a process that runs a model over RPC servers.

It belongs to one command. A server that ends or sends nonsense makes ggml end the process that uses it. So it is this
process that ends, and the command keeps what it has.
"""

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection, Listener
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.errors import DiskError, ExitStatus, LlmcliError, error_text
from llmcli.inference import rpc_devices
from llmcli.inference.engine_host import EngineHost
from llmcli.inference.engine_messages import read_settings
from llmcli.inference.resolved_model import resolve_model
from llmcli.models.locations import model_locations


def run() -> None:
    """As `main`; an error goes to stderr, where the command finds it.

    It ends the process at once: Python's own end would stop at stdin, which a thread reads, with an error of its own.
    """
    try:
        main()
    except LlmcliError as error:
        bindings.end_process(str(error), error.hint, error.status)
    except Exception as error:
        traceback.print_exc()
        bindings.end_process(f"{type(error).__name__}: {error}", "this is a bug; report it", ExitStatus.FAILED)


def main() -> None:
    """Serve the command that has started this process, until it ends.

    The first line of stdin says what to do. Its end, also that by a kill, is the end of the command.
    """
    for name in ("SIGINT", "SIGHUP"):  # a Ctrl-C, and the end of the terminal, are for the command
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    given = json.loads(sys.stdin.buffer.readline())  # with infinity, which settings may have
    threading.Thread(target=_wait_for_end, args=(given["folder"],), daemon=True).start()
    if given["has_log"]:
        bindings.subscribe_log(lambda line: print(line, file=sys.stderr, flush=True))
    settings = read_settings(given["settings"])
    host = EngineHost(resolve_model(settings.model, model_locations(settings), for_text=True))
    with _listen(given["address"], bytes.fromhex(given["secret"])) as listener:
        sys.stdout.write(json.dumps({"pid": os.getpid()}) + "\n")
        sys.stdout.flush()

        def load() -> None:
            try:
                host.load(settings)
            except LlmcliError:
                return  # the command asks, and gets it

        threading.Thread(target=load, daemon=True).start()
        while True:
            connection = _CommandConnection(listener.accept())
            threading.Thread(target=host.serve, args=(connection,), daemon=True).start()


def _listen(address: str, secret: bytes) -> Listener:
    try:
        return Listener(address, authkey=secret)
    except OSError as error:  # systems limit the path of a socket, and it is in the folder for temporary files
        reason = f"cannot listen on {address}: {error_text(error)}"
        raise DiskError(reason, "let TMPDIR be a folder with a short path that you can write to") from None


class _CommandConnection:
    """A connection on which a cancellation is seen at once: llama.cpp cannot be stopped while it waits for a server."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self.send_bytes, self.poll, self.close = connection.send_bytes, connection.poll, connection.close
        self._receive = connection.recv_bytes

    def recv_bytes(self) -> bytes:
        data = self._receive()
        if data[2:].startswith((b"cancel", b"leave")):  # msgpack: the first key of a map, after two bytes
            rpc_devices.hurry()
        return data


def _wait_for_end(folder: str) -> None:
    while sys.stdin.buffer.read(1):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # a command that was killed has left it
    rpc_devices.disconnect()
    os._exit(0)  # the system frees all at once, and no call that waits for a server is waited for
