"""The process that lets a Ray cluster answer blocks of lines, in order.

Ray ends a process whose cluster goes away, and writes to its stdout and stderr: so it is not the process of the batch,
which talks to it through a pipe, and its streams are a file.
"""

import os
import pickle
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llmcli.errors import LlmcliError, NetworkError, UsageError, error_text
from llmcli.params.settings import Layer, resolve
from llmcli.pipelines.ray_actor import ActorPlan, Block
from llmcli.pipelines.ray_placement import ActorNeed, Placement, place

if TYPE_CHECKING:
    from llmcli.pipelines.ray_stream import BlockStream

LOCAL = "local"  # the address of a cluster that this process starts, and ends
_STORE = 512 << 20  # bytes of a local cluster for blocks; more of them go to the disk
_MAX_RESTARTS, _MAX_RETRIES = 20, 3  # of an actor, and of a block whose actor dies: Ray itself would try for ever
_CONNECT_SECONDS = 10.0
_FRAME_HEAD, _SETTINGS = 9, b"\4"  # HTTP/2, which a cluster speaks: bytes of a frame's head, type of the first frame
_LOST_SECONDS = 20  # without the head of the cluster, until Ray ends this process
_TOKENS, _TOKEN_FILE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"), ".ray/auth_token"  # of a cluster, as Ray has them
_SOCKET_ROOM = 32  # characters of a folder in which the paths of Ray's sockets are short enough
_KILLED_SECONDS, _END_SECONDS = 0.5, 15  # until a killed batch is seen to have ended, and for the end of its cluster
_CLEAN_UP = """
import os, shutil, signal, sys, time
driver, folder, end = int(sys.argv[1]), sys.argv[2], time.monotonic() + int(sys.argv[3])
def send(number):
    try:
        os.kill(-driver if number else driver, number)
        return True
    except OSError:
        return False
while send(0) and time.monotonic() < end:
    time.sleep(0.1)
while send(signal.SIGKILL) and time.monotonic() < end + 5:
    time.sleep(0.1)
if folder:
    shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True)
class DriverPlan:
    """What the process needs to know."""

    address: str
    actor: ActorPlan
    need: ActorNeed
    n_actors: int = 0  # 0 = as many as there is room for
    n_lines: int | None = None  # of the input, if that is known: no actor is started without a line
    folder: str = ""  # for the files of a local cluster, which are removed with it
    log: str = os.devnull  # the file for whatever Ray says


Pipe: TypeAlias = "Connection[Any, Any]"


def drive(pipe: Pipe, plan: DriverPlan) -> None:
    """Send the `Placement`, then a `BlockAnswers` for each block that comes, up to None. An error ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the batch decides
    if hasattr(os, "setsid"):
        os.setsid()  # what Ray starts is in the group of this process, by which the batch ends what is left
    descriptor = os.open(plan.log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        with suppress(OSError, EOFError):  # the batch has ended
            _report(pipe, plan)
    finally:
        import ray

        ray.shutdown()
        _clean_up_after_batch(plan.folder)


def _report(pipe: Pipe, plan: DriverPlan) -> None:
    try:
        _run(pipe, plan)
        pipe.send(None)
    except LlmcliError as error:
        pipe.send(error)
    except (BrokenPipeError, EOFError):
        raise
    except Exception as error:
        traceback.print_exc()  # into the log
        pipe.send(_stated(error, plan))


def _run(pipe: Pipe, plan: DriverPlan) -> None:
    _start(plan)
    import ray
    import ray.data

    from llmcli.pipelines.ray_stream import BlockStream, RestartingActor

    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    placement = place(machines, plan.need, plan.n_actors)
    if plan.n_lines:
        placement = replace(placement, n_actors=min(placement.n_actors, plan.n_lines))
    if ray.available_resources().get("CPU", 0) < placement.num_cpus:
        placement = replace(placement, has_to_wait=True)
    pipe.send(placement)
    stream = BlockStream()
    is_over = threading.Event()
    threading.Thread(target=_forward, args=[pipe, stream, is_over, plan.folder], daemon=True).start()
    answered = stream.dataset().map(
        RestartingActor,
        fn_constructor_args=(pickle.dumps(_with_threads(plan.actor, placement)),),
        compute=ray.data.ActorPoolStrategy(size=placement.n_actors),
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus,
        memory=placement.n_bytes,
        max_restarts=_MAX_RESTARTS,
        max_task_retries=_MAX_RETRIES,
    )
    # Without prefetching: it would keep the answers of a block back until those of the next one are there.
    for batch in answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for answers in batch["answers"]:
            pipe.send(pickle.loads(answers.as_py()))
    is_over.set()


def _forward(pipe: Pipe, stream: "BlockStream", is_over: threading.Event, folder: str) -> None:
    """Give the blocks of the batch to the cluster. When the batch ends before the last answer, so does this process."""
    with suppress(EOFError, OSError):
        while True:
            block: Block | None = pipe.recv()
            with suppress(Exception):  # the stream is broken: then the answers end with an error, which is told
                stream.put(block)
    if not is_over.is_set():
        _clean_up_after_batch(folder)
        os.kill(os.getpid(), signal.SIGTERM)


def _clean_up_after_batch(folder: str) -> None:
    """Where the batch was killed, start a process that removes what is left here: Ray may end this one before."""
    batch = parent_process()
    if not batch or not hasattr(os, "setsid"):
        return
    batch.join(_KILLED_SECONDS)
    if not batch.is_alive():
        command = [sys.executable, "-c", _CLEAN_UP, str(os.getpid()), folder, str(_END_SECONDS)]
        nothing = subprocess.DEVNULL
        subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def _with_threads(actor: ActorPlan, placement: Placement) -> ActorPlan:
    """The plan with the number of threads that the placement gives; an endpoint has its own, and takes no other."""
    last = actor.layers[-1]
    if placement.is_whole_machine or "n_threads" in last.values or resolve(actor.layers).settings.endpoint:
        return actor
    values = {**last.values, "n_threads": max(1, int(placement.num_cpus))}
    return replace(actor, layers=[*actor.layers[:-1], Layer(last.name, values, last.source, last.origins)])


def _start(plan: DriverPlan) -> None:
    """Connect to the cluster, or start one. Raises NetworkError."""
    is_local = plan.address == LOCAL
    os.environ |= {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_gcs_rpc_server_reconnect_timeout_s": str(_LOST_SECONDS)}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    details: dict[str, Any] = {}
    if is_local:
        # Nothing of it listens on the network, as on Windows and macOS, and nothing is reported to the makers of Ray.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        # Other users of this machine cannot give it work; Ray would keep the token in a file that they can read.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        details = {"include_dashboard": False, "object_store_memory": _STORE}
        details |= {"_temp_dir": plan.folder} if len(plan.folder) <= _SOCKET_ROOM else {}
    else:
        if plan.address != "auto":
            check_address(plan.address)
        if any(name in os.environ for name in _TOKENS) or (Path.home() / _TOKEN_FILE).exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    import ray.data

    try:
        ray.init(plan.address, log_to_driver=False, logging_level="ERROR", **details)
    except Exception as error:  # what it raises is not declared: ConnectionError, RuntimeError, Exception, ...
        where = "a local Ray cluster does not start" if is_local else f"no Ray cluster at {plan.address}"
        hint = "try again; -vv shows the log of Ray"
        if not is_local:
            hint = "see `ray status`, and start one with `ray start --head`; where it has a token, set RAY_AUTH_TOKEN"
        raise NetworkError(f"{where}: {_lines(error)[0]}", hint) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # byte: each row goes on at once, and is not kept until there are more


def check_address(address: str) -> None:
    """Raise NetworkError if nothing answers there, or something else: Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UsageError(f"--ray must be HOST:PORT, auto or local, got {address[:60]!r}", "as in --ray 10.0.0.1:6379")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS)
    except (OSError, OverflowError) as error:
        raise NetworkError(
            f"the Ray cluster at {address} does not answer: {error_text(error)}",
            "start it with `ray start --head`, or use --ray without an address",
        ) from None
    with connection:
        frame = b""
        with suppress(OSError):
            frame = connection.recv(_FRAME_HEAD)
    if frame[3:4] != _SETTINGS and os.environ.get("RAY_USE_TLS", "0") != "1":
        raise NetworkError(
            f"what answers at {address} is not a Ray cluster", "give the address that `ray start --head` prints"
        )


def _stated(error: Exception, plan: DriverPlan) -> LlmcliError:
    """What Ray raises, as an error for the user: the end of the traceback that it has from the other process."""
    hint = "with --output, --resume goes on; -vv shows the log of Ray"
    if "No module named 'llmcli'" in str(error):
        hint = "install the same release of llmcli on all machines"
    if plan.address != LOCAL and os.environ.get("RAY_AUTH_MODE") == "token":
        hint += "; for a cluster without a token, set RAY_AUTH_MODE=disabled"
    return NetworkError(f"the batch was ended by Ray: {_lines(error)[-1]}", hint)


def _lines(error: Exception) -> list[str]:
    """The text of an error without colors, at least one line."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return [line.strip()[:200] for line in text.splitlines() if line.strip()] or [type(error).__name__]
