"""The devices of RPC servers in a process: what is refused before llama.cpp hears of them."""

from pathlib import Path

import pytest

from llmcli.engine.llama import bindings, hardware, rpc
from llmcli.errors import DiskError, LlmcliError, NetworkError, UsageError
from llmcli.inference import rpc_devices, rpc_server
from llmcli.inference.rpc_devices import connect, memory_with_servers, open_servers
from llmcli.inference.rpc_server import TensorCache, address_of
from llmcli.inference.rpc_servers import DeviceMemory, RpcServer, RpcServerError
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


@pytest.mark.parametrize("name", ["10.0.0.2:50052", "ssh://me@tower"])
def test_offline_reaches_no_other_machine(name: str) -> None:
    with pytest.raises(RpcServerError, match="needs the network, but --offline is set"):
        open_servers(Settings(rpc=(name,), offline=True)).__enter__()


def test_the_memory_of_servers_counts_unless_one_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 100)

    def ask(name: str, *_where: object) -> RpcServer:
        if name == "gone:1":
            raise RpcServerError("gone is not reached", "start it")
        return RpcServer(name, name, [DeviceMemory(3, 4), DeviceMemory(20, 20)])

    monkeypatch.setattr(rpc_devices, "ask_server", ask)
    warnings: list[tuple[str, str]] = []

    def warn(message: str, hint: str) -> None:
        warnings.append((message, hint))

    assert memory_with_servers(Settings(), warn) == (100, 0)
    assert memory_with_servers(Settings(rpc=("a:1", "b:2")), warn) == (146, 2)
    assert warnings == []
    assert memory_with_servers(Settings(rpc=("a:1", "gone:1")), warn) == (100, 0)
    assert warnings == [("only the memory of this machine counts: gone is not reached", "start it")]


def kept(cache: TensorCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()} - {"complete.json"}


def test_a_tensor_that_may_be_cut_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path / "rpc")
    for name in ("0123456789abcdef", "1111111111111111"):
        (cache.folder / name).write_bytes(b"weights")
    assert cache.keep() == ""
    (cache.folder / "1111111111111111").write_bytes(b"")  # the machine has lost its power
    (cache.folder / "2222222222222222").write_bytes(b"weights")
    TensorCache(cache.folder)  # the server was killed
    assert kept(cache) == {"0123456789abcdef"}
    (cache.folder / "3333333333333333").write_bytes(b"weights")
    monkeypatch.setattr(rpc_server, "_SPARE", 1 << 60)
    assert cache.keep() == "the disk is full"
    assert kept(cache) == {"0123456789abcdef"}


@pytest.mark.parametrize("note", ["", "[]", '{"0123456789abcdef": "7"}'])
def test_without_a_valid_note_no_tensor_is_known_to_be_complete(tmp_path: Path, note: str) -> None:
    (tmp_path / "0123456789abcdef").write_bytes(b"weights")
    (tmp_path / "complete.json").write_text(note)
    assert kept(TensorCache(tmp_path)) == set()


def test_a_folder_of_tensors_can_be_removed_at_any_time(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "rpc")
    (cache.folder / "complete.json").unlink()
    cache.folder.rmdir()
    assert cache.keep() == f"cannot use {cache.folder}: No such file or directory"
    cache.folder.write_text("a file")
    with pytest.raises(DiskError):
        TensorCache(cache.folder)


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
    with pytest.raises(NetworkError, match=r"cannot listen at 192\.0\.2\.1") as unknown:
        address_of("192.0.2.1", 0, is_insecure=True)  # of documentation: no machine has it
    assert "--host" in unknown.value.hint
