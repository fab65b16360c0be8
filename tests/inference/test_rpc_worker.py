"""The process of a model over RPC servers: how its errors reach the command, and what ends a call that waits."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.probe import probe_record
from llmcli.errors import LlmcliError
from llmcli.inference import engine_messages as messages
from llmcli.inference import rpc_devices, rpc_engine, rpc_worker
from llmcli.inference.rpc_engine import RpcEngine, RpcGoneError, RpcProcess
from llmcli.models.notes import record_probed
from llmcli.params.settings import Settings


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LlmcliError("no room", "free some"), ("no room", "free some")),
        (ValueError("x"), ("ValueError: x", "this is a bug; report it")),
    ],
    ids=["known", "unknown"],
)
def test_whatever_ends_the_process_is_said_before_python_ends(
    error: Exception, words: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise error

    def end(message: str, hint: str, _status: int) -> NoReturn:
        raise Ended(message, hint)

    monkeypatch.setattr(rpc_worker, "main", fail)
    monkeypatch.setattr(bindings, "end_process", end)
    with pytest.raises(Ended) as caught:
        rpc_worker.run()
    assert caught.value.args == words


@pytest.mark.parametrize(("is_cancelled", "error"), [(True, KeyboardInterrupt), (False, RpcGoneError)])
def test_a_process_that_ctrl_c_has_ended_too_is_no_error(
    is_cancelled: bool, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancellation = Cancellation()

    def end(*_given: object) -> NoReturn:
        if is_cancelled:
            cancellation.set()
        raise RpcGoneError("the process of the model has ended with status -2")

    monkeypatch.setattr(rpc_engine, "RpcProcess", end)
    with pytest.raises(error):
        RpcEngine(Settings(), [], cancellation)


def test_a_process_that_only_ends_the_connection_has_no_status(
    tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_probed(home / "data", [tiny], probe_record())
    monkeypatch.setattr(rpc_engine, "_END", 0.01)
    process = RpcProcess(Settings(model=str(tiny)), has_log=False)
    try:
        assert str(process.failure()) == "the process of the model ended the connection"
        assert process.is_running
    finally:
        process.end()
    assert not process.is_running


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has named pipes")
def test_a_socket_that_cannot_be_made_is_an_error_with_its_reason(
    tiny: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_probed(home / "data", [tiny], probe_record())
    folder = tmp_path / "socket"
    folder.mkdir()
    monkeypatch.setattr(rpc_engine, "_new_address", lambda: (str(folder), str(folder / ("x" * 120))))
    with pytest.raises(RpcGoneError, match=r"cannot listen on /.*x: AF_UNIX path too long") as caught:
        RpcProcess(Settings(model=str(tiny)), has_log=False)
    assert caught.value.hint.startswith("let TMPDIR be a folder with a short path")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("message", "is_end"),
    [
        ({"cancel": None, "reason": "interrupt"}, True),
        ({"cancel": 300, "reason": "timeout"}, True),
        ({"leave": True}, True),
        ({"call": "count_tokens", "arguments": ["cancel"]}, False),
        ({"request": None}, False),
        ({"shift": 0, "by": 0.5}, False),
    ],
)
def test_a_cancellation_is_seen_before_the_message_is_read(
    message: dict[str, Any], is_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    wire: Any = SimpleNamespace(send_bytes=sent.append, recv_bytes=lambda: sent.pop(), poll=None, close=None)
    hurried: list[bool] = []
    monkeypatch.setattr(rpc_devices, "hurry", lambda: hurried.append(True))
    messages.send(wire, message)
    assert messages.receive(rpc_worker._CommandConnection(wire)) == message
    assert bool(hurried) == is_end
