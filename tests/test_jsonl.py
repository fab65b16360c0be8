"""The file of a session: its lines stay whole, and no line can crash its reader."""

import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.chat.conversation import Attachment, Message
from llmcli.errors import DiskError, UsageError
from llmcli.files import JsonlAppender, encode, read_events

WINDOWS = sys.platform == "win32"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
GOOD = {"type": "message", "id": 1, "parent": None, "role": "user", "content": "hi"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "a.jsonl"


def write_lines(path: Path, *events: dict[str, Any]) -> Path:
    appender = JsonlAppender(path, new=True)
    for event in events:
        appender.add([event])
    appender.close()
    return path


def test_lines_are_read_as_they_were_added(path: Path) -> None:
    events: list[dict[str, Any]] = [{"a": 1}, {"b": 'quote " back \\ line \n \u2028 \r é 🙂 \x00'}, {"c": [None, {}]}]
    assert list(read_events(write_lines(path, *events))) == events
    assert path.read_bytes().count(b"\n") == 3


def test_lone_surrogates_become_replacement_characters(path: Path) -> None:
    assert encode({"a": "x\ud800y\udfff"}) == '{"a":"x\ufffdy\ufffd"}\n'.encode()
    assert list(read_events(write_lines(path, {"a": "\udc80"}))) == [{"a": "\ufffd"}]


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_cut_line_is_skipped_and_the_next_one_is_read(path: Path, cut: int) -> None:
    write_lines(path, {"n": 1}, {"n": 22})
    os.truncate(path, path.stat().st_size - cut)
    appender = JsonlAppender(path)
    appender.add([{"n": 3}])
    appender.close()
    faults: list[str] = []
    read = list(read_events(path, faults))
    assert read == ([{"n": 1}, {"n": 22}, {"n": 3}] if cut == 1 else [{"n": 1}, {"n": 3}])
    assert faults == ([] if cut in (1, 9, 10) else ["skipped line 2, which is not valid"])


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b"[1]",
        b"null",
        b"7",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"9" * 5000,
        b'{"a":1}{"b":2}',
        b"\0" * 4096,
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_line_in_any_place_is_skipped(path: Path, line: bytes, place: int) -> None:
    lines = [b'{"n":0}', b'{"n":1}']
    lines.insert(place, line)
    path.parent.mkdir()
    path.write_bytes(b"\r\n".join(lines) + b"\n\n")
    faults: list[str] = []
    assert list(read_events(path, faults)) == [{"n": 0}, {"n": 1}]
    assert faults == [f"skipped line {place + 1}, which is not valid"]


@pytest.mark.parametrize("version", ["1", "x", None, 1.5, []])
def test_a_header_with_a_damaged_version_is_a_damaged_line(path: Path, version: object) -> None:
    write_lines(path, {"type": "session", "version": version}, {"n": 1})
    faults: list[str] = []
    assert list(read_events(path, faults)) == [{"n": 1}]
    assert faults == ["skipped line 1, which is not valid"]


@pytest.mark.parametrize("version", [2, 10**9])
def test_a_file_of_a_newer_version_is_refused(path: Path, version: object) -> None:
    write_lines(path, {"type": "session", "version": version})
    with pytest.raises(UsageError, match="written by a newer version of llmcli") as caught:
        list(read_events(path))
    assert caught.value.hint == "update llmcli"


def test_a_path_that_is_not_a_file_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot read"):
        list(read_events(tmp_path))
    with pytest.raises(DiskError, match="cannot write"):
        JsonlAppender(tmp_path)
    with pytest.raises(DiskError, match="No such file"):
        JsonlAppender(tmp_path / "not made by opening")


def test_a_new_file_does_not_replace_another(path: Path) -> None:
    write_lines(path, {"n": 1})
    with pytest.raises(FileExistsError):
        JsonlAppender(path, new=True)


@pytest.mark.skipif(WINDOWS, reason="Windows has no such modes")
def test_the_file_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        write_lines(path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]


@pytest.mark.skipif(WINDOWS, reason="links need a privilege there")
def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    link = tmp_path / "a.jsonl"
    link.symlink_to(victim)
    with pytest.raises(DiskError):
        JsonlAppender(link)
    with pytest.raises(FileExistsError):
        JsonlAppender(link, new=True)
    assert victim.read_text() == "mine"


@pytest.mark.skipif(WINDOWS, reason="needs a limit on the size of files")
def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    import resource
    import signal

    appender = JsonlAppender(path, new=True)
    appender.add([{"n": 1}])
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(DiskError, match=f"cannot write {path}") as caught:
            appender.add([{"n": 2}, {"long": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.hint == "free some space or make the folder writable; the session is not saved"
    assert list(read_events(path)) == [{"n": 1}]
    appender.add([{"n": 3}], sync=True)
    appender.close()
    appender.close()
    faults: list[str] = []
    assert list(read_events(path, faults)) == [{"n": 1}, {"n": 2}, {"long": "x" * 100}, {"n": 3}]
    assert faults == []


@pytest.mark.skipif(WINDOWS, reason="Windows has other rules for two writers")
def test_the_lines_of_two_writers_stay_whole(path: Path) -> None:
    """The lock separates them; on a network disk without locks, whole lines still do."""
    appenders = [JsonlAppender(path, new=True), JsonlAppender(path)]

    def write(appender: JsonlAppender) -> None:
        for number in range(200):
            appender.add([{"n": number, "text": "x" * 500}])

    threads = [threading.Thread(target=write, args=[appender]) for appender in appenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults: list[str] = []
    assert len(list(read_events(path, faults))) == 400
    assert faults == []
    for appender in appenders:
        appender.close()


def test_a_message_is_read_as_it_was_written() -> None:
    message = Message(
        7, 3, "assistant", "text", "why", (Attachment("a.txt", "A\n"),), 1e9, "m",
        {"seed": 1, "stop": ["x"], "logit_bias": [[1, 2.5]]}, "stop", {"predicted_n": 4.0},
    )  # fmt: skip
    event = json.loads(encode(message.to_data()))
    assert Message.from_data(event) == message
    assert event["time"] == "2001-09-09T01:46:40Z"
    assert Message(1, None, "user", "").to_data() == {
        "type": "message", "id": 1, "parent": None, "time": "1970-01-01T00:00:00Z", "role": "user",
    }  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"id": 0}, {"id": -1}, {"id": True}, {"id": 1.0}, {"id": "1"}, {"id": None}, {"id": 10**400},
        {"id": float("nan")}, {"parent": []}, {"parent": True}, {"parent": 2.0}, {"role": "system"}, {"role": []},
        {"content": None}, {"content": 3}, {"reasoning": {}}, {"model": 1}, {"finish_reason": []}, {"params": []},
        {"timings": 3}, {"attachments": 3}, {"attachments": [3]}, {"attachments": [{"name": 3}]}, {"attachments": {}},
    ],
)  # fmt: skip
def test_a_line_with_a_wrong_type_is_not_a_message(fault: dict[str, Any]) -> None:
    assert Message.from_data(GOOD).content == "hi"
    with pytest.raises(ValueError, match=r"^(\w|\[0\]|\.)+ (must be|is not valid|is missing)"):
        Message.from_data(GOOD | fault)


@pytest.mark.parametrize(
    "stamp",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1900-01-01T00:00:00Z",
        "x",
        10**400,
        None,
        [],
        "١٩٧٠-01-01",
    ],
)
def test_a_timestamp_that_is_not_valid_becomes_zero(stamp: Any) -> None:
    message = Message.from_data(GOOD | {"time": stamp})
    assert message.time == 0
    assert message.to_data()["time"] == "1970-01-01T00:00:00Z"


def test_values_that_no_setting_can_have_are_skipped() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    strange = {"inf": float("inf"), "nan": float("nan"), "huge": 10**400, "deep": deep, "object": {}}
    message = Message.from_data(
        GOOD | {"params": {**strange, "seed": 1}, "timings": {**strange, "text": "1", "ttft_ms": 2}}
    )
    assert message.params == {"seed": 1}
    assert message.timings == {"ttft_ms": 2.0}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["id", "parent", "role", "content", "params", "timings", "attachments", "time"]), JSON
    )
)
def test_any_json_is_a_valid_message_or_a_value_error(event: dict[str, Any]) -> None:
    try:
        message = Message.from_data(GOOD | event)
    except ValueError:
        return
    assert Message.from_data(json.loads(encode(message.to_data()))).id == message.id
