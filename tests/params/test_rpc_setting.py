"""The setting `rpc`: which texts name a server."""

import pytest

from llmcli.errors import UsageError
from llmcli.params.model import RpcAddress, read_rpc
from llmcli.params.settings import find


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50052", RpcAddress("127.0.0.1", 50052)),
        ("tower.local:1", RpcAddress("tower.local", 1)),
        ("ssh://me@tower", RpcAddress("tower", 0, "me", True)),
        ("ssh://tower:2222", RpcAddress("tower", 2222, "", True)),
        ("ssh://a.b-c@tower/", RpcAddress("tower", 0, "a.b-c", True)),
    ],
)
def test_a_server_has_a_host_and_a_port_or_is_behind_ssh(text: str, address: RpcAddress) -> None:
    assert read_rpc(text) == address
    assert address.is_loopback == text.startswith("127.")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tower", "write tower:50052"),
        ("[::1]:50052", "llama.cpp reaches RPC servers by IPv4 only"),
        ("tower:0", ""),
        ("tower:99999", ""),
        ("me@tower:1", ""),
        ("http://tower:1", "write tower:1"),
        ("http://tower/x:1", ""),
        ("ssh://-oProxyCommand=x", ""),
        ("ssh://-l@tower", ""),
        ("ssh://tower;reboot", ""),
        ("ssh://", ""),
    ],
)
def test_other_texts_are_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"rpc must be HOST:PORT, or ssh://USER@HOST") as caught:
        find("rpc").parse_texts([text])
    assert caught.value.hint == hint


def test_one_text_can_name_several_servers_as_in_llama_cpp() -> None:
    assert find("rpc").parse_texts(["a:1,b:2", "ssh://c"]) == ("a:1", "b:2", "ssh://c")
