"""The devices of RPC servers in a process: what is refused before llama.cpp hears of them."""

import errno
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from llmcli.engine.llama import bindings, hardware, rpc
from llmcli.errors import LlmcliError, NetworkError, UsageError
from llmcli.inference import device_server, rpc_devices
from llmcli.inference.device_server import TensorCache, address_of
from llmcli.inference.rpc_devices import connect, memory_with_servers, open_servers
from llmcli.inference.rpc_protocol import DeviceMemory, RpcServer, RpcServerError
from llmcli.params.settings import Settings


def test_a_build_without_the_backend_says_how_to_compile_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "is_supported", lambda: False)
    with pytest.raises(LlmcliError, match=r"this build of llama.cpp has no RPC backend") as caught:
        connect(Settings(rpc=("127.0.0.1:50052",)))
    assert "CMAKE_ARGS=-DGGML_RPC=ON pip install --force-reinstall --no-cache-dir" in caught.value.hint
    assert f"llama-cpp-python=={bindings.bindings_version()}" in caught.value.hint
    connect(Settings())  # needs no backend


def test_more_servers_than_llama_cpp_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "is_supported", lambda: True)
    with pytest.raises(UsageError, match=r"rpc names 17 servers, and llama.cpp has at most 16 devices"):
        connect(Settings(rpc=tuple(f"127.0.0.1:{port}" for port in range(1, 18))))


def test_without_ssh_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RpcServerError, match="cannot start ssh for ssh://me@tower") as caught:
        open_servers(Settings(rpc=("ssh://me@tower",))).__enter__()
    assert caught.value.hint == "install OpenSSH, or use HOST:PORT"


@pytest.mark.parametrize("name", ["10.0.0.2:50052", "ssh://me@tower"])
def test_offline_reaches_no_other_machine(name: str) -> None:
    with pytest.raises(RpcServerError, match="needs the network, but --offline is set"):
        open_servers(Settings(rpc=(name,), offline=True)).__enter__()


def test_the_memory_of_servers_counts_unless_one_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 100)

    def ask(name: str, *_where: object) -> RpcServer:
        if name == "gone:1":
            raise RpcServerError("gone is not reached", "start it")
        return RpcServer(name, name.replace("also-", ""), [DeviceMemory(3, 4), DeviceMemory(20, 20)])

    monkeypatch.setattr(rpc_devices, "ask_server", ask)
    warnings: list[tuple[str, str]] = []

    def warn(message: str, hint: str) -> None:
        warnings.append((message, hint))

    assert memory_with_servers(Settings(), warn) == (100, 0)
    assert memory_with_servers(Settings(rpc=("a:1", "b:2")), warn) == (146, 2)
    assert memory_with_servers(Settings(rpc=("a:1", "also-a:1")), warn) == (123, 1)
    assert warnings == []
    assert memory_with_servers(Settings(rpc=("a:1", "gone:1")), warn) == (100, 0)
    assert warnings == [("only the memory of this machine counts: gone is not reached", "start it")]


def end_server() -> None:
    """What the end of a process does with its lock."""
    while device_server._locked:
        os.close(device_server._locked.pop())


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is that of POSIX")
def test_each_server_that_runs_keeps_its_tensors_in_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = TensorCache(tmp_path / "rpc"), TensorCache(tmp_path / "rpc")
    assert [first.folder.name, second.folder.name] == ["rpc", "rpc-2"]
    cut = first.folder / "1111111111111111"
    cut.write_bytes(b"wei")
    assert second.keep() == ""  # a client of the second one leaves, and the first one is killed
    end_server()
    assert TensorCache(tmp_path / "rpc").folder == first.folder
    assert not cut.exists()
    end_server()


def kept(cache: TensorCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()} - {"complete.json", "lock"}


def test_a_tensor_that_may_be_cut_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path / "rpc")
    for name in ("0123456789abcdef", "1111111111111111"):
        (cache.folder / name).write_bytes(b"weights")
    assert cache.keep() == ""
    (cache.folder / "1111111111111111").write_bytes(b"")  # the machine has lost its power
    (cache.folder / "2222222222222222").write_bytes(b"weights")
    end_server()  # it was killed
    TensorCache(cache.folder)
    assert kept(cache) == {"0123456789abcdef"}
    (cache.folder / "3333333333333333").write_bytes(b"weights")
    monkeypatch.setattr(device_server, "_SPARE", 1 << 60)
    assert cache.keep() == "the disk is full"
    assert kept(cache) == {"0123456789abcdef"}
    end_server()


@pytest.mark.parametrize("note", ["", "[]", '{"0123456789abcdef": "7"}'])
def test_without_a_valid_note_no_tensor_is_known_to_be_complete(tmp_path: Path, note: str) -> None:
    (tmp_path / "0123456789abcdef").write_bytes(b"weights")
    (tmp_path / "complete.json").write_text(note)
    assert kept(TensorCache(tmp_path)) == set()
    end_server()


def test_the_folder_of_tensors_can_be_deleted_at_any_time(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "rpc")
    shutil.rmtree(cache.folder)
    assert cache.keep() == ""
    shutil.rmtree(cache.folder)
    cache.folder.write_text("")  # nothing can be kept, and the server goes on
    assert "cannot be written to" in cache.keep()
    end_server()


def test_other_machines_reach_a_server_only_where_that_is_wanted() -> None:
    with pytest.raises(UsageError, match="no authentication and no encryption: whoever reaches the port can") as caught:
        address_of("0.0.0.0", 0, is_insecure=False)
    assert "--insecure" in caught.value.hint
    assert address_of("0.0.0.0", 0, is_insecure=True)[0] == "0.0.0.0"
    ip, port = address_of("localhost", 0, is_insecure=False)
    assert ip == "127.0.0.1"
    assert port > 1023
    with pytest.raises(UsageError, match=r"'nobody.invalid' is not an address of this machine"):
        address_of("nobody.invalid", 0, is_insecure=False)


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EADDRINUSE, "use another --port"),
        (errno.EACCES, "use a --port of 1024 or more"),
        (errno.EADDRNOTAVAIL, "this machine does not have the address: use 127.0.0.1 or 0.0.0.0"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_to_change(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(NetworkError, match="cannot listen on localhost:50052") as caught:
        address_of("localhost", 50052, is_insecure=False)
    assert caught.value.hint == hint


@pytest.mark.skipif(sys.platform == "win32", reason="the program in place of ssh is a script")
@pytest.mark.parametrize(
    ("said", "n_tries"),
    [
        ("error: cannot listen on 127.0.0.1:50000: Address already in use", 3),
        ("cannot listen to port: 50000\nCould not request local forwarding.", 3),
        ("Permission denied (publickey).", 1),
    ],
)
def test_a_tunnel_gets_other_ports_where_another_program_has_them(
    said: str, n_tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, tried = tmp_path / "ssh", tmp_path / "tried"
    program.write_text(f"#!/bin/sh\necho once >> '{tried}'\necho '{said}' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with (
        pytest.raises(RpcServerError, match=r"ssh to ssh://me@there: "),
        open_servers(Settings(rpc=("ssh://me@there",))),
    ):
        pass
    assert tried.read_text().count("once") == n_tries
