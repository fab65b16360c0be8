"""Processes that keep a model loaded: found by whom they belong to, passed over by all others, and gone in time."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.engine.events import Prompt, Request
from llmcli.errors import LlmcliError
from llmcli.files import runtime_dir, write_json
from llmcli.inference import warm
from llmcli.inference.local import LocalEngine
from llmcli.inference.remote_engine import EngineGoneError
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.warm import WarmModel
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.models.tiny_models import full_attention

SETTINGS = Settings(n_ctx=256, n_threads=1, seed=7, max_tokens=8, temperature=Fixed(1.0))
pytestmark = pytest.mark.slow
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has named pipes")


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    path = full_attention(tmp_path / "tiny.gguf")
    return ModelFile(path, (path,), "tiny", trusted=True)


@pytest.fixture
def started(home: Path, file: ModelFile) -> Iterator[Callable[..., WarmModel]]:
    """Starts processes, which end with the test."""
    all_of_them: list[WarmModel] = []

    def start(settings: Settings = SETTINGS, seconds: float = 60.0) -> WarmModel:
        all_of_them.append(warm.start(file, settings, seconds))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        if warm.is_running(one.pid):
            os.kill(one.pid, signal.SIGTERM)


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def tokens_of(one: WarmModel) -> list[int]:
    engine = warm.open_engine(one, SETTINGS, [])
    *_, last = engine.generate([Request(Prompt.of_tokens("", [1, 5, 9]), SETTINGS)])
    engine.close()
    return last.record.tokens


def has_ended(one: WarmModel) -> bool:
    """The process is a child of this one, and stays in its list until it is waited for."""
    try:
        return os.waitpid(one.pid, os.WNOHANG)[0] == one.pid
    except ChildProcessError:
        return not warm.is_running(one.pid)


def test_it_answers_as_this_process_does_and_is_found_by_what_it_has_loaded(
    started: Callable[..., WarmModel], file: ModelFile
) -> None:
    one = started()
    here = LocalEngine(ResolvedModel(file), SETTINGS)
    *_, last = here.generate([Request(Prompt.of_tokens("", [1, 5, 9]), SETTINGS)])
    here.close()
    assert tokens_of(one) == last.record.tokens
    assert warm.find(file.parts, replace(SETTINGS, n_ctx=64, temperature=Fixed(0.0))) == one
    assert warm.find(file.parts, replace(SETTINGS, n_gpu_layers=3)) is None
    assert [found.model for found in warm.all_warm()] == ["tiny"]
    status = warm.status(one)
    assert status
    assert status["sessions"] == 0


def test_it_ends_some_time_after_its_last_use(started: Callable[..., WarmModel]) -> None:
    one = started(seconds=0.5)
    engine = warm.open_engine(one, SETTINGS, [])
    time.sleep(1.5)  # it is in use all the time
    assert engine.count_tokens("Hello")
    engine.close()
    assert until(lambda: has_ended(one))
    assert list(runtime_dir().glob("*.json")) == []
    assert not Path(one.address).exists()


def test_it_ends_when_its_model_file_is_replaced_and_nobody_uses_it_any_more(
    started: Callable[..., WarmModel], file: ModelFile
) -> None:
    one = started()
    tokens = tokens_of(one)
    other = full_attention(file.path.with_name("other.gguf"), "another template")
    os.replace(other, file.path)
    assert warm.find(file.parts, SETTINGS) is None
    assert until(lambda: has_ended(one))
    assert tokens == tokens_of(started())


def test_stop_ends_it_in_the_middle_of_an_answer(started: Callable[..., WarmModel]) -> None:
    one = started()
    engine = warm.open_engine(one, SETTINGS, [])
    endless = replace(SETTINGS, max_tokens=-1, ignore_eos=True, n_ctx=0)
    answer = engine.generate([Request(Prompt.of_tokens("", [1, 5]), endless)])
    next(answer)
    connection = one.connect(warm.STOP)
    connection.close()
    *_, last = answer
    assert isinstance(last.record.failure, EngineGoneError)
    assert len(last.record.tokens) > 2
    assert until(lambda: has_ended(one))
    engine.close()


@POSIX
def test_a_killed_one_leaves_what_the_next_one_replaces(started: Callable[..., WarmModel], file: ModelFile) -> None:
    one = started()
    os.kill(one.pid, signal.SIGKILL)
    assert until(lambda: has_ended(one))
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
    assert until(lambda: has_ended(one))
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
    assert until(lambda: has_ended(one))
    other = replace(one, pid=os.getpid())
    write_json(warm.info_path(one.key), warm.data_of(other))
    warm.stop(other)
    assert list(warm.all_warm()) == []


def test_the_description_of_a_process_that_has_ended_is_removed(home: Path, file: ModelFile) -> None:
    one = warm.describe("a" * 16, file, 60.0, "00")
    write_json(warm.info_path(one.key), warm.data_of(replace(one, pid=2**22 - 1)))
    assert list(warm.all_warm()) == []
    assert not warm.info_path(one.key).exists()


@POSIX
def test_a_long_path_of_the_folder_gets_a_shorter_one_for_the_socket(
    home: Path, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCLI_HOME", str(home / ("long" * 25)))
    one = warm.start(file, SETTINGS, 60.0)
    assert len(one.address) < 108
    assert Path(one.address).parent.stat().st_mode & 0o777 == 0o700
    assert tokens_of(one)
    os.kill(one.pid, signal.SIGTERM)
    assert until(lambda: has_ended(one))
    assert not Path(one.address).exists()


def test_a_process_that_cannot_load_says_why(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LlmcliError, match=r"cannot keep the model loaded: .*broken"):
        warm.start(ModelFile(path, (path,), "broken"), SETTINGS, 60.0)
