"""What can go wrong with a warm process: each command passes it over, or says what has happened."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import pytest
from filelock import FileLock

from llmcli.engine.events import Prompt, Request
from llmcli.errors import LlmcliError
from llmcli.files import make_private, runtime_dir, write_json
from llmcli.inference import engine_messages as messages
from llmcli.inference import warm
from llmcli.inference.engine_host import EngineHost
from llmcli.inference.remote_engine import EngineGoneError
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.warm import WarmModel
from llmcli.models.locations import ModelFile
from tests.inference.warm_processes import ENDLESS, POSIX, SETTINGS, has_ended, tokens_of
from tests.models.tiny_models import full_attention
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_it_ends_when_its_model_file_is_replaced_and_nobody_uses_it_any_more(
    started: Callable[..., WarmModel], file: ModelFile
) -> None:
    one = started()
    tokens = tokens_of(one)
    other = full_attention(file.path.with_name("other.gguf"), "another template")
    os.replace(other, file.path)
    assert warm.find(file.parts, SETTINGS) is None
    wait_until(lambda: has_ended(one))
    assert tokens == tokens_of(started())


def test_stop_ends_it_in_the_middle_of_an_answer(started: Callable[..., WarmModel]) -> None:
    one = started()
    engine = warm.open_engine(one, SETTINGS, [])
    answer = engine.generate([Request(Prompt.of_tokens("", [1, 5]), ENDLESS)])
    next(answer)
    connection = one.connect(warm.STOP)
    connection.close()
    *_, last = answer
    assert isinstance(last.record.failure, EngineGoneError)
    assert len(last.record.tokens) > 2
    wait_until(lambda: has_ended(one))
    engine.close()


@POSIX
def test_a_killed_one_leaves_what_the_next_one_replaces(started: Callable[..., WarmModel], file: ModelFile) -> None:
    one = started()
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(one))
    assert Path(one.address).exists()
    assert warm.find(file.parts, SETTINGS) is None
    again = started()
    assert again.pid != one.pid
    assert tokens_of(again)


@POSIX
def test_one_that_does_not_answer_is_given_up_soon(
    started: Callable[..., WarmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_PATIENCE", 0.2)
    one = started()
    os.kill(one.pid, signal.SIGSTOP)
    os.waitpid(one.pid, os.WUNTRACED)  # until all its threads are stopped
    with pytest.raises(TimeoutError):
        one.connect()
    assert warm.status(one) is None
    with pytest.raises(LlmcliError, match="tiny does not end"):
        warm.stop(one)
    os.kill(one.pid, signal.SIGCONT)


def test_who_does_not_know_the_secret_gets_nothing(started: Callable[..., WarmModel]) -> None:
    one = started()
    with pytest.raises(ConnectionError):
        replace(one, secret="00" * 16).connect()
    assert tokens_of(one)


@POSIX
@pytest.mark.parametrize("kind", ["a link", "a file", "another user's", "in an open folder"])
def test_what_is_no_socket_of_this_user_is_not_used(
    kind: str, started: Callable[..., WarmModel], tmp_path: Path
) -> None:
    one, place = started(), tmp_path / "s"
    if kind == "a link":
        place.symlink_to(one.address)
    elif kind == "a file":
        place.touch()
    elif kind == "in an open folder":
        Path(one.address).parent.chmod(0o777)
        place = Path(one.address)
    else:
        if os.geteuid():
            pytest.skip("only root gives a file to another user")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(place))
        os.chown(place, 12345, 12345)
    with pytest.raises(PermissionError, match="not a socket of this user"):
        replace(one, address=str(place)).connect()
    Path(one.address).parent.chmod(0o700)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 100, b'{"key": "a", "model": "b"}', b"{}" * 10_000]
)
def test_a_damaged_description_is_passed_over(content: bytes, home: Path, file: ModelFile) -> None:
    path = warm.info_path(warm.key_of(file.parts, SETTINGS))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(0o600)
    assert warm.find(file.parts, SETTINGS) is None
    assert list(warm.all_warm()) == []


@POSIX
def test_a_description_that_others_can_read_is_passed_over(started: Callable[..., WarmModel], file: ModelFile) -> None:
    one = started()
    path = warm.info_path(one.key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(one.address).stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert warm.find(file.parts, SETTINGS) is None


@POSIX
def test_a_socket_where_nobody_listens_is_removed(started: Callable[..., WarmModel]) -> None:
    """The number of the process that was killed may belong to another one."""
    one = started()
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(one))
    write_json(warm.info_path(one.key), warm.data_of(replace(one, pid=os.getpid())))
    with pytest.raises(OSError, match="refused"):
        one.connect()
    assert list(warm.all_warm()) == []
    assert not Path(one.address).exists()


def test_the_first_of_two_stays(started: Callable[..., WarmModel]) -> None:
    one = started()
    assert started() == one


@POSIX
def test_stop_leaves_another_process_with_the_number_of_a_killed_one_alone(started: Callable[..., WarmModel]) -> None:
    one = started()
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(one))
    other = replace(one, pid=os.getpid())
    write_json(warm.info_path(one.key), warm.data_of(other))
    warm.stop(other)
    assert list(warm.all_warm()) == []


def test_the_description_of_a_process_that_has_ended_is_removed(home: Path, file: ModelFile) -> None:
    one = warm.describe("a" * 16, file, 60.0, "00")
    write_json(warm.info_path(one.key), warm.data_of(replace(one, pid=2**22 - 1)))
    assert list(warm.all_warm()) == []
    assert not warm.info_path(one.key).exists()


def test_a_process_that_cannot_load_says_why(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LlmcliError, match=r"cannot keep the model loaded: .*broken"):
        warm.start(ModelFile(path, (path,), "broken"), SETTINGS, 60.0)


def test_a_process_that_does_not_listen_in_time_is_ended(
    home: Path, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_START", 0.0)
    lock = make_private(runtime_dir()) / f"{warm.key_of(file.parts, SETTINGS)}.lock"
    # While another process has the lock, the new one does not listen, however long this one is stopped.
    with FileLock(lock, mode=0o600), pytest.raises(LlmcliError, match="does not listen after 0 seconds"):
        warm.start(file, SETTINGS, 60.0)
    assert list(warm.all_warm()) == []


@POSIX
def test_a_killed_one_leaves_the_text_so_far(started: Callable[..., WarmModel]) -> None:
    one = started()
    engine = warm.open_engine(one, SETTINGS, [])
    answer = engine.generate([Request(Prompt.of_tokens("", [1, 5]), ENDLESS)])
    next(answer)
    os.kill(one.pid, signal.SIGKILL)
    *_, last = answer
    assert (type(last.record.failure), engine.has_ended) == (EngineGoneError, True)
    assert len(last.record.tokens) > 2
    engine.close()


@POSIX
@pytest.mark.parametrize("kind", ["a pipe", "a link to nothing", "garbage"])
def test_what_else_is_in_its_folder_does_not_matter(
    kind: str, started: Callable[..., WarmModel], file: ModelFile
) -> None:
    runtime_dir().mkdir(parents=True, mode=0o700)
    for suffix in ("json", "sock", "log"):
        path = runtime_dir() / f"{warm.key_of(file.parts, SETTINGS)}.{suffix}"
        if kind == "a pipe":
            os.mkfifo(path, 0o600)
        elif kind == "a link to nothing":
            path.symlink_to(path.with_name("nothing"))
        else:
            path.write_bytes(bytes(range(256)) * 16)
            path.chmod(0o600)
    assert warm.find(file.parts, SETTINGS) is None
    assert list(warm.all_warm()) == []
    assert tokens_of(started())


def test_of_several_that_start_at_once_one_stays(started: Callable[..., WarmModel], file: ModelFile) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(started) for _ in range(4)]]
    assert {one.pid for one in found} == {found[0].pid}
    assert tokens_of(found[0])


def test_a_load_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    ended = threading.Event()
    path = tmp_path / "m.gguf"
    host = EngineHost(ResolvedModel(ModelFile(path, (path,), "m", trusted=True)), ended.set)
    ours, theirs = Pipe()
    waiting = threading.Thread(target=host.serve, args=(theirs,), daemon=True)
    waiting.start()
    messages.send(ours, {"call": "wait", "arguments": []})
    ours.close()
    assert ended.wait(60)


def test_one_of_another_version_is_not_found(
    started: Callable[..., WarmModel], file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    started()
    monkeypatch.setattr(warm, "__version__", "0.0.1")
    assert warm.find(file.parts, SETTINGS) is None


@POSIX
def test_a_stranger_at_its_socket_ends_only_itself(started: Callable[..., WarmModel]) -> None:
    one = started()
    for data in (b"", b"x" * 8, bytes(200), b"\x00\x00\x00\x05abc", b"\xff" * 12):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(one.address)
            stranger.sendall(data)
    assert tokens_of(one)
