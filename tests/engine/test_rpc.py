"""What a process knows of RPC servers: shares of a model in the log, calls that last, memory that a device tells."""

import ctypes
import socket
import sys
import threading
from itertools import count
from time import monotonic

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


Stalls = list[tuple[float, bool]]  # the seconds of each, and whether nobody wanted the result


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign of life."""
    monkeypatch.setattr(rpc_watch, "connections", list)
    monkeypatch.setattr(rpc_watch, "process_time", lambda: 0.0)
    monkeypatch.setattr(rpc_watch, "thread_time", lambda: 0.0)


@pytest.fixture
def stalls() -> Stalls:
    return []


@pytest.fixture
def watch(quiet: None, stalls: Stalls) -> Watch:
    """A watch of half a second, which looks when the test lets it."""
    return Watch(0.5, lambda waited, is_unwanted: stalls.append((waited, is_unwanted)))


def look(watch: Watch, times: int) -> bool:
    """Ten times in a second, until it has told of a stall."""
    return any(watch.look(0.1) for _ in range(times))


@pytest.mark.usefixtures("quiet")
def test_a_call_of_llama_cpp_that_waits_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stalled, api, ggml = threading.Event(), bindings.load(), bindings.ggml()
    for name in rpc_watch._REMOTE:
        monkeypatch.setattr(api, name, stalled.wait, raising=False)
    for name in rpc_watch._REMOTE_OF_GGML:
        monkeypatch.setattr(ggml, name, getattr(ggml, name))
    monkeypatch.setattr(rpc_watch, "_TICK", 0.05)
    Watch(0.5, lambda _waited, _is_unwanted: stalled.set()).start()
    begin = monotonic()
    assert api.llama_decode(60)
    assert monotonic() - begin > 0.45


def test_short_calls_one_after_the_other_are_no_stall(watch: Watch, stalls: Stalls) -> None:
    for _ in range(20):
        with watch.call():
            assert not look(watch, 3)
    with watch.call():
        assert look(watch, 7)
    ((waited, is_unwanted),) = stalls
    assert (abs(waited - 0.5) < 0.15, is_unwanted) == (True, False)


def test_a_call_that_nobody_wants_may_wait_for_a_short_time_only(quiet: None, stalls: Stalls) -> None:
    watch = Watch(60, lambda waited, is_unwanted: stalls.append((waited, is_unwanted)))
    with watch.call():
        assert not look(watch, 50)
        watch.hurry()
        assert not look(watch, 40)
        assert look(watch, 15)
    ((waited, is_unwanted),) = stalls
    assert (abs(waited - rpc_watch.HURRY) < 0.15, is_unwanted) == (True, True)


@pytest.mark.parametrize("sign", ["bytes", "work"])
def test_a_call_with_signs_of_life_is_no_stall(watch: Watch, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, worked = count(), count(0.0, 0.01)
    with watch.call():
        with monkeypatch.context() as signs:
            if sign == "bytes":
                signs.setattr(rpc_watch, "connections", lambda: [(("127.0.0.1", 50052), next(moved))])
            else:
                signs.setattr(rpc_watch, "process_time", worked.__next__)
            assert not look(watch, 100)
        assert look(watch, 10)


def test_a_call_that_nobody_wants_ends_although_bytes_arrive(
    watch: Watch, stalls: Stalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server can send a byte now and then without an end."""
    moved = count()
    monkeypatch.setattr(rpc_watch, "connections", lambda: [(("127.0.0.1", 50052), next(moved))])
    monkeypatch.setattr(rpc_watch, "HURRY", 0.2)
    with watch.call():
        assert not look(watch, 100)
        watch.hurry()
        assert not look(watch, 4)
        assert look(watch, 3)
    ((waited, is_unwanted),) = stalls
    assert (abs(waited - 0.5) < 0.15, is_unwanted) == (True, True)


def test_time_between_calls_does_not_count(watch: Watch) -> None:
    with watch.call():
        assert not look(watch, 2)
    assert not look(watch, 100)


def test_time_in_which_the_process_is_stopped_does_not_count(quiet: None, stalls: Stalls) -> None:
    watch = Watch(60, lambda waited, is_unwanted: stalls.append((waited, is_unwanted)))
    with watch.call():
        assert not any(watch.look(3600.0) for _ in range(9))
    assert stalls == []


def test_ggml_is_the_library_that_llama_uses() -> None:
    """A copy under another name has a registry of its own, in which a device of a server would be lost."""
    used = ctypes.CDLL(bindings.load()._lib._name)
    if not hasattr(used, "ggml_backend_dev_count"):
        pytest.skip("this system does not tell")
    addresses = {ctypes.cast(one.ggml_backend_dev_count, ctypes.c_void_p).value for one in (used, bindings.ggml())}
    assert len(addresses) == 1
