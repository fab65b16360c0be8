"""The output file: resumed at any byte, in the order of the input, and never mixed up with that of another input."""

import json
import os
import random
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Request
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.pipelines.batch_output import OutputFile
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import echo, make_batch, question_of

LINES: list[dict[str, str]] = [{"prompt": f"p{n}"} | ({"id": f"line {n}"} if n % 3 else {}) for n in range(9)]
TEXT = "".join(json.dumps(line) + "\n" for line in LINES)


def answer(path: Path, text: str = TEXT, engine: FakeEngine | None = None, **more: Any) -> list[str]:
    """Run a batch into the file; the questions that were asked."""
    asked: list[str] = []

    def note(one: Request) -> Sequence[str]:
        asked.append(question_of(one))
        return echo(one)

    opening = {key: more.pop(key) for key in ("is_resumed", "is_rewritten", "is_forced") if key in more}
    output = OutputFile(path, **opening)
    try:
        make_batch(engine or FakeEngine(reply=note), text, output, **more).run()
    finally:
        output.finish()
    return asked


def texts(path: Path) -> list[str]:
    return [json.loads(line).get("text", "-") for line in path.read_text().splitlines()]


ALL = [f"p{n}" for n in range(9)]


def test_a_batch_is_resumed_after_a_cut_at_any_byte(tmp_path: Path) -> None:
    """Every line is there once, in the order of the input, with the answer that it has without a cut."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    answer(whole)
    data, source = whole.read_bytes(), random.Random(1)
    for size in [0, 1, len(data) - 1, len(data), *(source.randrange(len(data)) for _ in range(40))]:
        path.write_bytes(data[:size])
        asked = answer(path, is_resumed=True)
        assert asked == ALL[data[:size].count(b"\n") :]
        assert texts(path) == ALL
        assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [*range(7, 16)]


def test_a_missing_output_is_begun(tmp_path: Path) -> None:
    assert answer(tmp_path / "out.jsonl", is_resumed=True) == ALL


def test_a_finished_output_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path)
    data = path.read_bytes()
    assert answer(path, is_resumed=True) == []
    assert path.read_bytes() == data


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        OutputFile(path)
    assert path.read_text() == "mine"
    answer(path, is_forced=True)
    assert texts(path) == ALL


def test_an_empty_file_is_an_output(tmp_path: Path) -> None:
    """A run that failed before its first line leaves one; so does mktemp."""
    path = tmp_path / "out.jsonl"
    path.touch()
    assert answer(path) == ALL
    assert texts(path) == ALL


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove an open file")
@pytest.mark.parametrize("is_resumed", [False, True])
def test_an_output_that_is_removed_ends_the_batch(tmp_path: Path, is_resumed: bool) -> None:
    path, rest = tmp_path / "out.jsonl", tmp_path / "moved.jsonl"
    output = OutputFile(path, is_resumed)
    output.write(b'{"id":1}\n')
    path.rename(rest)
    output.write(b'{"id":2}\n')
    rest.unlink()
    with pytest.raises(DiskError, match="was removed while it was written"):
        output.write(b'{"id":3}\n')
    output.finish()


def failing_once(path: Path) -> None:
    """An output in which the lines 2 and 6 failed."""
    bad = FakeEngine(reply=lambda one: [LlmcliError("busy")] if question_of(one) in ("p2", "p6") else echo(one))
    answer(path, engine=bad)


def test_lines_that_failed_stay_without_a_wish(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    failing_once(path)
    assert answer(path, is_resumed=True) == []
    assert ["error" in json.loads(line) for line in path.read_text().splitlines()].count(True) == 2


def test_lines_that_failed_are_answered_again_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    failing_once(path)
    path.chmod(0o640)
    mode = stat.S_IMODE(path.stat().st_mode)
    assert answer(path, is_resumed=True, is_rewritten=True, retries_failed=True) == ["p2", "p6"]
    assert texts(path) == ALL
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_the_old_output_counts_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """The second run stops at line 6; what it has answered is kept, and what it has not as well."""
    path = tmp_path / "out.jsonl"
    failing_once(path)
    before = path.read_bytes()
    output = OutputFile(path, is_resumed=True, is_rewritten=True)
    assert path.read_bytes() == before
    output.write(b'{"id":3,"text":"new"}\n')
    output.finish()
    assert path.read_bytes().splitlines()[1:] == before.splitlines()[1:]
    assert texts(path)[0] == "new"


def test_new_lines_count_at_once_after_those_that_failed(tmp_path: Path) -> None:
    """A kill at the end of a run that also went on with an output loses none of them."""
    path = tmp_path / "out.jsonl"
    failing_once(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    seen: list[int] = []

    def note(one: Request) -> Sequence[str]:
        seen.append(len(path.read_bytes().splitlines()))
        return echo(one)

    more: dict[str, Any] = {"is_resumed": True, "is_rewritten": True, "retries_failed": True, "n_parallel": 1}
    answer(path, engine=FakeEngine(reply=note), **more)
    assert texts(path) == ALL
    assert seen == [5, 5, 6, 7, 8]  # p2, then p5 to p8
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_rest_of_a_run_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    failing_once(path)
    (tmp_path / ".out.jsonl.retry").write_text("a rest")
    answer(path, is_resumed=True, is_rewritten=True, retries_failed=True)
    assert texts(path) == ALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "other", "prompt": "a"}\n', "it has 1 where line 1 of the input has 'other'"),
        ('{"prompt": "a"}\n', "the output has more lines than the input"),
        ("", "the output has more lines than the input"),
    ],
)
def test_the_output_of_another_input_is_not_resumed(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "out.jsonl"
    answer(path)
    data = path.read_bytes()
    with pytest.raises(UsageError, match="the output is not that of this input") as caught:
        answer(path, text, is_resumed=True)
    assert message in str(caught.value)
    assert path.read_bytes() == data


def test_another_shard_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    answer(path, shard=(1, 2))
    with pytest.raises(UsageError, match="the output is not that of this input"):
        answer(path, shard=(2, 2), is_resumed=True)


def test_a_file_of_something_else_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nmore notes\n")
    with pytest.raises(UsageError, match=r"line 1 of .*notes.txt is not the output of a batch"):
        answer(path, is_resumed=True)
    assert path.read_text() == "my notes\nmore notes\n"
    path.write_text("one note without an end")
    with pytest.raises(UsageError, match=r"the end of .*notes.txt is not the output of a batch"):
        answer(path, is_resumed=True)
    assert path.read_text() == "one note without an end"


def test_openai_lines_are_resumed_by_their_custom_id(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    body = {"messages": [{"role": "user", "content": "abc"}]}
    lines = [json.dumps({"custom_id": f"c{n}", "url": "/v1/chat/completions", "body": body}) for n in range(3)]
    text = "\n".join([lines[0], "{bad", *lines[1:]]) + "\n"
    answer(path, text)
    data = path.read_bytes()
    path.write_bytes(b"".join(data.splitlines(keepends=True)[:3]))
    assert answer(path, text, is_resumed=True) == ["abc"]
    assert [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] == ["c0", None, "c1", "c2"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other locks")
def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    first = OutputFile(tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="another run of llmcli writes"):
        OutputFile(tmp_path / "out.jsonl", is_resumed=True)
    first.finish()
    OutputFile(tmp_path / "out.jsonl", is_resumed=True).finish()


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot write"):
        OutputFile(tmp_path / "missing" / "out.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_full_disk_is_an_error_with_a_way_on() -> None:
    output = OutputFile(Path("/dev/full"))
    with pytest.raises(DiskError, match="No space left on device") as caught:
        output.write(b"{}\n")
    assert caught.value.hint == "free some space, then go on with --resume"
    output.finish()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    failing_once(tmp_path / "real.jsonl")
    link = tmp_path / "out.jsonl"
    try:
        link.symlink_to("real.jsonl")
    except OSError:
        pytest.skip("no right to make links")
    answer(link, is_resumed=True, is_rewritten=True, retries_failed=True)
    assert link.is_symlink()
    assert texts(tmp_path / "real.jsonl") == ALL


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="only a POSIX system has it")
def test_lines_go_to_a_pipe_of_the_shell() -> None:
    reader, writer = os.pipe()  # as in -o >(jq .)
    output = OutputFile(Path(f"/dev/fd/{writer}"))
    output.write(b'{"id":1}\n')
    output.finish()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b'{"id":1}\n'
