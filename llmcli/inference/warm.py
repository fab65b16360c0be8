"""Warm models: each in a process of its own, which the commands of this user find in a private folder."""

import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli import __version__
from llmcli.engine.llama import bindings
from llmcli.errors import DiskError, LlmcliError
from llmcli.files import convert, encode, make_private, read_json, runtime_dir
from llmcli.inference import engine_messages as messages
from llmcli.inference import warm_socket
from llmcli.params.model import PlacementParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Settings, to_data

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation
    from llmcli.inference.remote_embedding import RemoteEmbeddingModel
    from llmcli.inference.remote_engine import EngineGoneError, RemoteEngine
    from llmcli.models.locations import ModelFile

# What a connection begins with.
USE, STATUS, STOP, FORGET = b"use", b"status", b"stop", b"forget"
FOREVER = 1e10  # seconds; JSON has no infinity
_MOST_PATH = 100  # bytes of the path of a socket
_PATIENCE = 5.0  # seconds for the first answer of a process that lives, on a busy machine too
_START = 20.0  # seconds until a new process listens
_locks: list[object] = []  # that this process holds: one that is collected is released
_OF_LOAD = (*fields_of(PlacementParams), "override_kv", "n_gpu_layers")


@dataclass(frozen=True)
class WarmModel:
    """A warm process, as its file in the folder describes it."""

    key: str  # of the model file and of how it is loaded
    model: str  # its name
    path: str
    size: int  # bytes
    pid: int
    address: str
    secret: str  # both sides prove that they know it
    seconds: float  # that it stays after its last use
    started_at: float  # seconds since 1970
    version: str
    placement: str = ""  # the layers of each device, if others than the CPU have some

    def connect(self, purpose: bytes = USE) -> messages.Wire:
        """A connection to it. Raises OSError when it has ended, does not answer, or is not that of this user."""
        try:
            if sys.platform != "win32":
                _check_owner(Path(self.address))
            connection = warm_socket.connect(self.address)
            try:
                warm_socket.prove(connection, bytes.fromhex(self.secret), purpose, _PATIENCE)
            except BaseException:
                connection.close()
                raise
        except (ConnectionRefusedError, FileNotFoundError):  # it was killed, and its number may be another's by now
            forget(self)
            raise
        except (EOFError, ValueError) as error:
            raise ConnectionError(str(error) or "it ends") from None
        return connection


def _check_owner(path: Path) -> None:
    """Raise PermissionError unless it is a socket of this user, in a folder that nobody else can write."""
    found, folder = path.lstat(), path.parent.lstat()
    is_own = found.st_uid == folder.st_uid == os.getuid()
    if not is_own or not stat.S_ISSOCK(found.st_mode) or not stat.S_ISDIR(folder.st_mode) or folder.st_mode & 0o022:
        raise PermissionError(f"{path} is not a socket of this user")


def key_of(parts: Sequence[Path], settings: Settings) -> str:
    """What a process must agree in, so that its answers are those of a model that is loaded now. Raises OSError."""
    files = [[str(part.resolve()), *state_of(part)] for part in parts]
    values = to_data(settings)
    how = [[key, values[key]] for key in _OF_LOAD]
    return hashlib.sha256(encode([files, how, __version__, bindings.bindings_version()])).hexdigest()[:16]


def state_of(path: Path) -> tuple[int, int, int]:
    """What changes when another file takes its place; zeros for a file that is gone."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ino


def info_path(key: str) -> Path:
    """The file that describes a process."""
    return runtime_dir() / f"{key}.json"


def _log_path(key: str) -> Path:
    """What it writes to stderr."""
    return runtime_dir() / f"{key}.log"


def address_of(key: str) -> str:
    """Where a process listens: a socket in its folder, or a named pipe."""
    if sys.platform == "win32":
        return rf"\\.\pipe\llmcli-{key}-{hashlib.sha256(str(runtime_dir()).encode()).hexdigest()[:16]}"
    path = runtime_dir() / f"{key}.sock"
    if len(os.fsencode(path)) > _MOST_PATH:  # systems limit the path of a socket
        import tempfile

        name = hashlib.sha256(os.fsencode(runtime_dir())).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"llmcli-{os.getuid()}-{name}" / path.name
    make_private(path.parent)
    return str(path)


def find(parts: Sequence[Path], settings: Settings) -> WarmModel | None:
    """The process that has this model loaded as these settings say; None without one."""
    with suppress(OSError, ValueError, LlmcliError):
        found = _read(info_path(key_of(parts, settings)))
        return found if found and is_running(found.pid) else None
    return None


def _read(path: Path) -> WarmModel | None:
    if sys.platform != "win32":
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return None
    return convert(read_json(path), WarmModel) if path.exists() else None


def all_warm() -> Iterator[WarmModel]:
    """All that are described, the oldest first; the descriptions of those that have ended are removed."""
    found = list[WarmModel]()
    for path in sorted(runtime_dir().glob("*.json")):
        with suppress(OSError, ValueError):
            if one := _read(path):
                found.append(one)
    for one in sorted(found, key=lambda one: one.started_at):
        if is_running(one.pid):
            yield one
        else:
            forget(one)


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    if sys.platform == "win32":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def forget(one: WarmModel) -> None:
    """Remove what is left of a process that has ended."""
    with suppress(OSError):
        info_path(one.key).unlink()
    if sys.platform != "win32":
        with suppress(OSError):
            os.unlink(one.address)


def start(file: "ModelFile", settings: Settings, seconds: float) -> WarmModel:
    """Start a process that loads the model, and wait until it listens. Raises LlmcliError."""
    if (found := find(file.parts, settings)) and status(found):
        return found
    import subprocess  # takes 6 ms, and most commands start none

    key, folder = key_of(file.parts, settings), make_private(runtime_dir())
    log = _log_path(key)
    given = {"settings": to_data(settings), "model": str(file.path), "key": key, "seconds": min(seconds, FOREVER)}
    # What the reference of the command says of the file, and its path does not.
    given["file"] = {key: getattr(file, key) for key in ("name", "ollama_template", "ollama_parameters")}
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        log.unlink(missing_ok=True)  # whatever it is
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.warm_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                **detached,
            )
        assert process.stdin
        with process.stdin:
            process.stdin.write(encode(given))
    except OSError as error:
        raise DiskError(f"cannot start a process for the model: {error.strerror}") from None
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        if found := find(file.parts, settings):
            if found.pid != process.pid and sys.platform != "win32":  # where a launcher has another number
                process.terminate()  # that of another command was first
            process.returncode = 0  # it outlives this process: Python need not wait for it, or warn
            return found
        if process.poll() is not None:
            break
        time.sleep(0.01)
    if found := find(file.parts, settings):
        return found
    text = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    if process.poll() is None:  # nobody waits for it any more
        process.kill()
        process.wait()
        reason = f"its process does not listen after {_START:.0f} seconds"
    else:
        reason = text[-1] if text else "its process has ended, and does not say why"
    raise LlmcliError(f"cannot keep the model loaded: {reason}", f"see {log}")


def open_engine(
    one: WarmModel,
    settings: Settings,
    notes: list[str],
    cancellation: "Cancellation | None" = None,
    progress: Callable[[float], object] | None = None,
) -> "RemoteEngine":
    """Its model as an engine. Raises OSError or EngineGoneError when it has ended, and what the start of one raises."""
    from llmcli.inference.remote_engine import RemoteEngine

    return RemoteEngine(one.connect, settings, notes, cancellation, progress, partial(_error_of_end, one, settings))


def _error_of_end(one: WarmModel, settings: Settings) -> "EngineGoneError":
    """What a command gets when it ends: which RPC server has gone, where one has."""
    from llmcli.inference.remote_channel import EngineGoneError

    if settings.rpc:
        from llmcli.inference.rpc_engine import error_of

        with suppress(OSError):
            if found := error_of(_log_path(one.key).read_text("utf-8", "replace"), settings.rpc):
                return found
    return EngineGoneError()


def open_vectors(
    one: WarmModel,
    settings: Settings,
    pooling: str,
    notes: list[str],
    cancellation: "Cancellation | None" = None,
    progress: Callable[[float], object] | None = None,
) -> "RemoteEmbeddingModel":
    """Its model as one for vectors. Raises as `open_engine`, and as `EmbeddingModel`."""
    from llmcli.inference.remote_embedding import RemoteEmbeddingModel

    return RemoteEmbeddingModel(one.connect, settings, pooling, notes, cancellation, progress)


def wait(one: WarmModel, progress: Callable[[float], object]) -> None:
    """Until its model is loaded. Raises OSError or EngineGoneError when it has ended, and what the load raises."""
    from llmcli.inference.remote_channel import Channel

    with closing(one.connect()) as connection:
        Channel(connection).call("wait", progress=progress)


def forget_tokens(session: str = "") -> None:
    """Let all processes overwrite what they keep of a session, or of everything."""
    for one in all_warm() if runtime_dir().exists() else ():
        with suppress(OSError), closing(one.connect(FORGET)) as connection:
            connection.send_bytes(session.encode("utf-8", "surrogateescape"))
            connection.poll(_PATIENCE)  # it is done


def status(one: WarmModel) -> dict[str, float] | None:
    """The number of commands that use it (`sessions`), and the seconds since its last use (`idle`).

    With the number of the contexts that it keeps (`contexts`), and their `tokens` and `bytes`. None if it does not
    answer.
    """
    try:
        with closing(one.connect(STATUS)) as connection:
            return convert(messages.receive(connection), dict[str, float])
    except (OSError, EOFError, ValueError):
        return None


def stop(one: WarmModel) -> None:
    """End it, and the answers that it generates. Raises LlmcliError if it does not end."""
    try:
        one.connect(STOP).close()
    except (ConnectionRefusedError, FileNotFoundError):  # it has ended: its number may be that of another process
        return
    except OSError:
        pass
    deadline = time.monotonic() + 2 * _PATIENCE  # a busy machine may need some of it
    while is_running(one.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    if is_running(one.pid):
        raise LlmcliError(f"{one.model} does not end", f"end the process {one.pid}")
    forget(one)


def describe(key: str, file: "ModelFile", seconds: float, secret: str) -> WarmModel:
    """What this process writes of itself."""
    size = sum(part.stat().st_size for part in file.parts)
    now, address = time.time(), address_of(key)
    return WarmModel(key, file.name, str(file.path), size, os.getpid(), address, secret, seconds, now, __version__)


def lock(key: str) -> bool:
    """Whether this process is the only one for its key, until it ends."""
    from filelock import FileLock, Timeout

    held = FileLock(make_private(runtime_dir()) / f"{key}.lock", mode=0o600)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return False
    _locks.append(held)
    return True


def data_of(one: WarmModel) -> dict[str, object]:
    """The description as JSON data."""
    return asdict(one)
