"""What a process knows of RPC servers: shares of a model in the log, calls that last, memory that a device tells."""

import ctypes
import socket
import sys
import threading
from itertools import count
from time import monotonic, sleep

import pytest

from llmcli.engine.llama import bindings, hardware, rpc_watch
from llmcli.engine.llama.layer_split import read_split
from llmcli.engine.llama.rpc_watch import Watch, connections

LOG = """\
load_tensors: layer   0 assigned to device CPU, is_swa = 0
load_tensors: layer   1 assigned to device RPC0, is_swa = 0
load_tensors: layer   2 assigned to device RPC1, is_swa = 1
load_tensors: layer   3 assigned to device RPC2, is_swa = 0
load_tensors: layer   4 assigned to device RPC2, is_swa = 0
load_tensors:   CPU_Mapped model buffer size =    10.00 MiB
load_tensors:   CPU_REPACK model buffer size =     2.00 MiB
load_tensors: RPC0[10.0.0.2:50052] model buffer size =    20.50 MiB
load_tensors: RPC1[10.0.0.2:50052] model buffer size =    30.00 MiB
load_tensors: RPC0[10.0.0.3:50052] model buffer size =    40.00 MiB
""".splitlines()
DEVICES = {
    1: ("CPU", "A processor"),
    2: ("RPC0", "10.0.0.2:50052"),
    3: ("RPC1", "10.0.0.2:50052"),
    4: ("RPC2", "10.0.0.3:50052"),
}


@pytest.fixture
def with_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "device_handles", lambda: [*DEVICES])
    monkeypatch.setattr(hardware, "device_texts", DEVICES.__getitem__)


@pytest.mark.usefixtures("with_servers")
def test_the_log_of_a_load_says_what_each_device_has() -> None:
    assert [str(share) for share in read_split(LOG)] == [
        "CPU: 1 layer, 12 MiB",
        "RPC0 (10.0.0.2:50052): 1 layer, 20 MiB",
        "RPC1 (10.0.0.2:50052): 1 layer, 30 MiB",
        "RPC2 (10.0.0.3:50052): 2 layers, 40 MiB",
    ]


@pytest.mark.usefixtures("with_servers")
def test_a_model_of_the_processor_alone_has_no_shares() -> None:
    assert read_split([LOG[0], LOG[5]]) == ()
    assert read_split([]) == ()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the connections of a process")
def test_connections_are_those_of_tcp_with_their_bytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            one.sendall(b"x" * 1000)
            other.recv(2000)
            found = dict(connections())
            assert {one.getsockname(), listener.getsockname()} <= found.keys()
            if sys.platform.startswith("linux"):
                assert found[listener.getsockname()] >= 1000


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a watch of half a second finds that a call hangs; the call is `llama_decode` with seconds."""
    stalled, api = threading.Event(), bindings.load()
    for name in rpc_watch._REMOTE:
        monkeypatch.setattr(api, name, sleep, raising=False)
    for name in rpc_watch._REMOTE_OF_GGML:
        monkeypatch.setattr(bindings.ggml(), name, getattr(bindings.ggml(), name))
    monkeypatch.setattr(rpc_watch, "_TICK", 0.05)
    # The process of the tests has threads of other tests, and watches that never end; a sleep takes no time at all.
    monkeypatch.setattr(rpc_watch, "_LEAST_CPU", 0.5)
    monkeypatch.setattr(rpc_watch, "connections", list)
    Watch(0.5, lambda _waited, _is_unwanted: stalled.set())
    return stalled


def test_a_call_that_waits_too_long_is_found(watched: threading.Event) -> None:
    assert not watched.is_set()
    thread = threading.Thread(target=bindings.load().llama_decode, args=(2.0,))
    begin = monotonic()
    thread.start()
    assert watched.wait(20)
    assert monotonic() - begin > 0.45
    thread.join()


def test_short_calls_one_after_the_other_are_no_stall(watched: threading.Event) -> None:
    for _ in range(20):
        bindings.load().llama_decode(0.04)
    assert not watched.is_set()


def test_a_call_that_nobody_wants_may_wait_for_a_short_time_only(
    watched: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_watch, "HURRY", 0.2)
    stalled = threading.Event()
    watch = Watch(60, lambda _waited, _is_unwanted: stalled.set())
    thread = threading.Thread(target=bindings.load().llama_decode, args=(3.0,))
    thread.start()
    while not watch._calls:  # a busy machine starts the thread late
        sleep(0.01)
    assert not stalled.is_set()
    watch.hurry()
    assert stalled.wait(20)
    thread.join()


def test_a_call_during_which_bytes_arrive_is_no_stall(
    watched: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = count()
    monkeypatch.setattr(rpc_watch, "connections", lambda: [(("127.0.0.1", 50052), next(moved))])
    bindings.load().llama_decode(1.5)
    assert not watched.is_set()


def test_a_call_that_nobody_wants_ends_although_bytes_arrive(
    watched: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server can send a byte now and then without an end."""
    moved = count()
    monkeypatch.setattr(rpc_watch, "connections", lambda: [(("127.0.0.1", 50052), next(moved))])
    monkeypatch.setattr(rpc_watch, "HURRY", 0.2)
    found: list[bool] = []
    stalled = threading.Event()

    def stall(_waited: float, is_unwanted: bool) -> None:
        found.append(is_unwanted)
        stalled.set()

    watch = Watch(0.5, stall)
    thread = threading.Thread(target=bindings.load().llama_decode, args=(3.0,))
    thread.start()
    while not watch._calls:
        sleep(0.01)
    assert not stalled.wait(1.0)
    watch.hurry()
    assert stalled.wait(20)
    assert found == [True]
    thread.join()


def test_time_between_calls_does_not_count(watched: threading.Event) -> None:
    bindings.load().llama_decode(0.1)
    assert not watched.wait(0.8)


def test_ggml_is_the_library_that_llama_uses() -> None:
    """A copy under another name has a registry of its own, in which a device of a server would be lost."""
    used = ctypes.CDLL(bindings.load()._lib._name)
    if not hasattr(used, "ggml_backend_dev_count"):
        pytest.skip("this system does not tell")
    addresses = {ctypes.cast(one.ggml_backend_dev_count, ctypes.c_void_p).value for one in (used, bindings.ggml())}
    assert len(addresses) == 1
