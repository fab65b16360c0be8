"""A batch on a Ray cluster: the lines and their order, whatever ends in the middle."""

import importlib.util
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli.command_line import with_left_out_values
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, NetworkError, UsageError
from llmcli.inference.engine import Engine
from llmcli.params.settings import Layer, Settings
from llmcli.pipelines.batch import Batch
from llmcli.pipelines.batch_input import BatchLine, BatchReader, LineSource
from llmcli.pipelines.batch_output import BatchOutput, OutputFile
from llmcli.pipelines.line_worker import BatchOptions
from llmcli.pipelines.ray_actor import ActorPlan, BatchActor, Block, BlockAnswers
from llmcli.pipelines.ray_cluster import RayCluster, check_ray
from llmcli.pipelines.ray_driver import LOCAL, DriverPlan, Pipe, _with_threads, check_address, drive
from llmcli.pipelines.ray_placement import ActorNeed, Placement
from tests.conftest import Run
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, run_batch
from tests.pipelines.ray_drivers import (
    deadly_engine,
    drive_a_window,
    drive_busy,
    drive_forever,
    drive_here,
    drive_nowhere,
    drive_nowhere_at_all,
    drive_until_gone,
    drive_with_child,
    drive_with_restarts,
    fake_engine,
    killed_engine,
    no_engine,
    slow_engine,
)
from tests.waiting import wait_until

# On the tiny model, a result does not depend on what was evaluated before it.
EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off", "-b", "16", "-ub", "16")
HAS_RAY = all(importlib.util.find_spec(name) for name in ("ray", "pyarrow"))
with_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'ray[data]>=2.52,<2.64'")
Driver = Callable[[Pipe, DriverPlan], None]
TEXT = "".join(f"p{number}\n" for number in range(20))


def plan_of(connect: Callable[[Settings], Engine] = fake_engine, **more: Any) -> DriverPlan:
    actor = ActorPlan([Layer("flag", {"seed": 7})], BatchOptions(), connect)
    return DriverPlan(LOCAL, actor, ActorNeed(1, n_bytes=1 << 20), 2, **more)


def batch_of(
    backend: RayCluster,
    text: str,
    output: BatchOutput,
    options: BatchOptions,
    cancellation: Cancellation,
    notes: list[str] | None = None,
) -> Batch:
    """A batch of the lines of a text; `notes` gets what the user is told."""
    reader = BatchReader(io.BytesIO(text.encode()), "in.txt")
    source, notify = LineSource(reader, False, cancellation), ([] if notes is None else notes).append
    return Batch(backend, source, reader, output, options, cancellation, notify=notify)


def run_cluster(
    driver: Driver,
    plan: DriverPlan | None = None,
    text: str = TEXT,
    output: BatchOutput | None = None,
    notes: list[str] | None = None,
) -> list[dict[str, Any]]:
    found, cancellation = output or Lines(), Cancellation()
    cluster = RayCluster(plan or plan_of(n_lines=text.count("\n")), cancellation, driver=driver)
    batch_of(cluster, text, found, BatchOptions(), cancellation, notes).run()
    return rows_of(found) if isinstance(found, Lines) else []


def rows_of(output: Lines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.written]


def texts(rows: list[dict[str, Any]]) -> list[Any]:
    return [(row["id"], row.get("text")) for row in rows]


ALL = [(number + 1, f"p{number}") for number in range(20)]


# The actor, without Ray


def answers_of(actor: BatchActor, *lines: BatchLine) -> BlockAnswers:
    found = pickle.loads(actor({"block": pickle.dumps(Block(lines, "text"))})["answers"])
    assert isinstance(found, BlockAnswers)
    return found


def test_an_actor_gives_the_lines_of_a_plain_batch() -> None:
    actor = BatchActor(pickle.dumps(plan_of().actor))
    found = answers_of(actor, BatchLine(1, {"input": "abc"}), BatchLine(2, error=UsageError("bad")))
    rows = [json.loads(one.data) for one in found.answers]
    (plain,) = run_batch(FakeEngine(reply=echo), "abc\n", "in.txt")
    for row in (plain, rows[0]):
        del row["timings"]
    assert rows == [plain, {"id": 2, "error": {"type": "usage", "message": "bad"}}]
    assert [one.error and one.error.kind for one in found.answers] == [None, "usage"]
    assert found.n_tokens == 3


@pytest.mark.parametrize(
    ("values", "n_threads"), [({}, 2), ({"n_threads": 3}, 3), ({"endpoint": "http://localhost:8080"}, None)]
)
def test_an_actor_has_the_threads_of_its_place_unless_a_server_computes(
    values: dict[str, Any], n_threads: int | None
) -> None:
    plan = ActorPlan([Layer("flags", values)], BatchOptions(), lambda _settings: FakeEngine([]))
    given = _with_threads(plan, Placement(1, 2.0, 0, 0, is_whole_machine=False)).layers[-1].values
    assert given.get("n_threads") == n_threads


def test_an_actor_that_cannot_start_says_why_at_its_first_block() -> None:
    without = answers_of(BatchActor(pickle.dumps(plan_of(no_engine).actor)))
    assert str(without.error) == "the machine has no such model"
    assert without.error is not None
    assert without.error.hint == "pull it there"
    other = ActorPlan([], BatchOptions(), fake_engine, "0.0")
    assert "and this one 0.0" in str(answers_of(BatchActor(pickle.dumps(other))).error)


# The cluster as the batch sees it, with a driver that needs no Ray


@pytest.mark.slow
def test_answers_of_a_cluster_come_in_order() -> None:
    assert texts(run_cluster(drive_here)) == ALL


@pytest.mark.slow
def test_a_cluster_has_a_few_blocks_of_a_long_input_at_a_time() -> None:
    output, cancellation, n_lines = Lines(), Cancellation(), 64 * 20
    cluster = RayCluster(plan_of(), cancellation, driver=drive_a_window)
    batch_of(cluster, "".join(f"p{n}\n" for n in range(n_lines)), output, BatchOptions(), cancellation).run()
    assert texts(rows_of(output)) == [(n + 1, f"p{n}") for n in range(n_lines)]
    assert cluster.notes() == []  # two actors had four blocks each


@pytest.mark.slow
def test_a_line_from_a_slow_program_is_answered_before_the_next_one_comes() -> None:
    cancellation, is_written = Cancellation(), threading.Event()

    def slowly() -> Iterator[BatchLine]:
        for number in range(1, 4):
            is_written.clear()
            yield BatchLine(number, {"input": f"p{number}"})
            assert is_written.wait(60)

    class Watched(Lines):
        def write(self, line: bytes) -> None:
            super().write(line)
            is_written.set()

    output = Watched()
    cluster, reader = RayCluster(plan_of(), cancellation, driver=drive_here), BatchReader(io.BytesIO(), "in.txt")
    source = LineSource(slowly(), True, cancellation)
    Batch(cluster, source, reader, output, BatchOptions(), cancellation).run()
    assert [row["id"] for row in rows_of(output)] == [1, 2, 3]


@pytest.mark.slow
def test_the_user_is_told_once_of_each_actor_that_was_started_again() -> None:
    notes: list[str] = []
    assert texts(run_cluster(drive_with_restarts, notes=notes)) == ALL
    told = [note for note in notes if "ended and was started again" in note]
    assert len(told) == 3  # of blocks 2 and 3, 4 and 5, 6


@pytest.mark.slow
def test_a_cluster_that_goes_away_leaves_what_is_finished_and_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = OutputFile(path)
    with pytest.raises(NetworkError, match="the local Ray cluster went away") as caught:
        run_cluster(drive_until_gone, output=first)
    first.finish()
    assert caught.value.hint == "with --output, --resume goes on"
    assert path.read_bytes().count(b"\n") == 3 * 3  # blocks of 3 lines
    again = OutputFile(path, is_resumed=True)
    run_cluster(drive_here, output=again)
    again.finish()
    assert texts([json.loads(line) for line in path.read_text().splitlines()]) == ALL


@pytest.mark.slow
def test_lines_that_failed_are_answered_again_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = [{"id": n, "text": f"p{n - 1}"} | ({"error": {"type": "x"}} if n in (1, 4, 5) else {}) for n in range(1, 8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output, cancellation = OutputFile(path, is_resumed=True, is_rewritten=True), Cancellation()
    cluster = RayCluster(plan_of(n_lines=20), cancellation, driver=drive_here)
    batch_of(cluster, TEXT, output, BatchOptions(retries_failed=True), cancellation).run()
    output.finish()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert texts(rows) == ALL
    assert not [row for row in rows if "error" in row]
    assert ["seed" in row for row in rows[:7]] == [True, False, False, True, True, False, False]


def test_a_finished_batch_starts_no_cluster(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in ALL))
    output = OutputFile(path, is_resumed=True)
    run_cluster(drive_nowhere, output=output)
    output.finish()
    assert path.read_text().count("\n") == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "plan", "message"),
    [(drive_nowhere, plan_of(), "does not answer"), (drive_here, plan_of(no_engine), "has no such model")],
)
def test_what_a_cluster_cannot_do_ends_the_batch(driver: Driver, plan: DriverPlan, message: str) -> None:
    with pytest.raises(LlmcliError, match=message):
        run_cluster(driver, plan)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no groups of processes")
@pytest.mark.skipif(not shutil.which("ps"), reason="needs ps")
def test_what_a_driver_that_dies_has_started_is_ended(tmp_path: Path) -> None:
    plan = plan_of(n_lines=20)
    plan = replace(plan, address=str(tmp_path / "pid"))
    with pytest.raises(NetworkError, match="the Ray cluster went away before it began"):
        run_cluster(drive_with_child, plan)
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(child))


def is_running(process: int) -> bool:
    """Whether a process is there, and not only waits to be reaped."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.slow
def test_ctrl_c_ends_the_driver_at_once() -> None:
    cancellation = Cancellation()

    class Cancelling(list[str]):
        """What the user is told: it is cancelled when the driver is there."""

        def append(self, note: str) -> None:
            super().append(note)
            if note.startswith("Ray: 2 actors"):
                cancellation.set()

    output, notes = Lines(), Cancelling()
    cluster = RayCluster(plan_of(), cancellation, driver=drive_forever)
    begin = time.monotonic()
    batch_of(cluster, TEXT, output, BatchOptions(), cancellation, notes).run()
    assert time.monotonic() - begin < 60  # it would wait for ten minutes
    assert cancellation.is_set()
    assert output.written == []


# The command


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--ray", "in.txt"], ["--ray=local", "in.txt"]),
        (["in.txt", "--ray"], ["in.txt", "--ray=local"]),
        (["--ray", "host:1", "in.txt"], ["--ray", "host:1", "in.txt"]),
        (["--ray", "auto"], ["--ray", "auto"]),
        (["--", "--ray"], ["--", "--ray"]),
    ],
)
def test_the_address_of_a_cluster_can_be_left_out(words: list[str], found: list[str]) -> None:
    assert with_left_out_values(words, {"--ray"}) == found
    assert with_left_out_values(words, {"--other"}) == words


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_error_says_how_to_install_it(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hi\n")
    ran = inside("batch", str(tmp_path / "in.txt"), "--ray")
    assert ran.status == 2
    assert "the package ray is not installed\n  hint: install it: pip install 'ray[data]>=2.52,<2.64'\n" in ran.stderr
    before = inside("batch", "--ray", str(tmp_path / "in.txt"))
    assert before.stderr == ran.stderr  # INPUT is not the address


@pytest.mark.parametrize("version", ["2.9.3", "1.13.0", "2.51.2", "2.64.0", "3.0.0rc1"])
def test_a_ray_that_is_too_old_or_too_new_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match=rf"--ray needs Ray 2\.52 or newer, below 2\.64, and {version} is installed"):
        check_ray(lambda _name: version)


def test_ray_without_pyarrow_is_refused() -> None:
    def version_of(name: str) -> str:
        if name == "pyarrow":
            raise metadata.PackageNotFoundError(name)
        return "2.60.0"

    with pytest.raises(UsageError, match="the package pyarrow is not installed"):
        check_ray(version_of)


def test_a_number_of_actors_without_a_cluster_is_refused(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hi\n")
    ran = inside("batch", str(tmp_path / "in.txt"), "--ray-actors", "2")
    assert (ran.status, ran.stderr) == (
        2,
        "error: --ray-actors needs --ray\n  hint: add --ray, or remove --ray-actors\n",
    )


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"\0\0\x18\4\0\0\0\0\0"])
def test_what_does_not_speak_as_a_cluster_is_told_apart_before_ray_starts(first: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(first)

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with nullcontext() if b"\4" in first else pytest.raises(NetworkError, match="is not a Ray cluster"):
            check_address(address)
        thread.join()


@pytest.mark.slow
def test_a_cluster_that_goes_away_before_it_begins_does_not_speak_of_resume() -> None:
    with pytest.raises(NetworkError, match="the local Ray cluster went away before it began") as caught:
        run_cluster(drive_nowhere_at_all)
    assert caught.value.hint == "-vv shows the log of Ray"


@pytest.mark.slow
def test_the_user_is_told_that_a_cluster_is_busy() -> None:
    notes: list[str] = []
    run_cluster(drive_busy, notes=notes)
    assert notes[-1] == "the cluster is busy with something else: the actors wait for free CPUs"


# Ray


@with_ray
@pytest.mark.slow
def test_an_actor_that_is_killed_loses_no_line(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.touch()
    text = TEXT.replace("p9\n", f"{trap}\n")
    notes: list[str] = []
    rows = run_cluster(drive, plan_of(killed_engine, n_lines=20), text, notes=notes)
    assert not trap.exists()
    assert sum("an actor ended and was started again" in note for note in notes) == 1
    assert texts(rows) == [*ALL[:9], (10, str(trap)), *ALL[10:]]


@with_ray
@pytest.mark.slow
def test_a_line_that_always_kills_its_actor_ends_the_batch() -> None:
    output = Lines()
    with pytest.raises(NetworkError, match="the batch was ended by Ray"):
        run_cluster(drive, plan_of(deadly_engine, n_lines=20), output=output)
    rows = rows_of(output)
    assert len(rows) <= 9
    assert texts(rows) == ALL[: len(rows)]


@with_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of Ray in /proc")
def test_a_local_cluster_that_is_killed_ends_the_batch_with_an_error() -> None:
    output, cancellation, text = Lines(), Cancellation(), "".join(f"line {number}\n" for number in range(2000))
    cluster = RayCluster(plan_of(slow_engine, n_lines=2000), cancellation, driver=drive)

    def kill() -> None:
        wait_until(lambda: output.written)
        for process in children_of(os.getpid(), "raylet"):
            os.kill(process, 9)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(NetworkError, match="Ray"):
        batch_of(cluster, text, output, BatchOptions(), cancellation).run()
    rows = rows_of(output)
    assert 0 < len(rows) < 2000
    assert texts(rows) == [(number + 1, f"line {number}") for number in range(len(rows))]


@with_ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of Ray in /proc")
def test_a_batch_that_is_killed_leaves_nothing_of_its_cluster(with_tiny: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"line {number}\n" for number in range(5000)))
    flags = ("--ray", "--ray-actors", "1", "-t", "1", "-n", "64", "--ignore-eos", "-o", str(output))
    command = [sys.executable, "-m", "llmcli", "batch", str(source), *flags]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path, as the sockets of Ray need it
        process = subprocess.Popen(command, env={**os.environ, "TMPDIR": folder})
        while process.poll() is None and not (output.exists() and output.stat().st_size):
            time.sleep(0.1)
        children = children_of(process.pid)
        process.kill()
        process.wait()
        assert len(children) > 5
        wait_until(lambda: not os.listdir(folder), 120)
        wait_until(lambda: not any(map(is_running, children)), 120)


def children_of(process: int, name: str = "") -> list[int]:
    """The processes below a process, or those of them whose program has this name."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    found, names = {process}, {int(pid): program.strip() for pid, _, program in rows}
    for _ in range(6):
        found |= {int(pid) for pid, parent, _ in rows if int(parent) in found}
    return [pid for pid in found if name in ("", names.get(pid))]


def rounded(number: str) -> float:
    """Scores differ in the last digits by what is evaluated beside them."""
    return round(float(number), 4)


@with_ray
@pytest.mark.slow
def test_ray_gives_the_lines_of_a_plain_batch(tiny: Path, with_tiny: Path, run: Run, tmp_path: Path) -> None:
    """With a constraint and a decision among them; and only the output of the command is left."""
    source = tmp_path / "in.jsonl"
    own: list[dict[str, Any]] = [{}, {"regex": "[ab]{3}"}, {"choices": ["a", "b"]}, {"n_ctx": 5}]
    source.write_text("".join(json.dumps({"id": f"l{n}", "prompt": f"p{n}", **own[n % 4]}) + "\n" for n in range(12)))
    flags = (*EXACT, "-t", "1", "-n", "4", "--seed", "1", "--temp", "0", "--parallel", "1")
    plain = run("batch", str(source), *flags)
    ray = run("batch", str(source), "--ray", "--ray-actors", "2", *flags)
    assert (plain.status, ray.status) == (10, 10)
    found = [[json.loads(line, parse_float=rounded) for line in one.text.splitlines()] for one in (plain, ray)]
    for row in [row for rows in found for row in rows]:
        row.pop("timings", None)
    assert found[0] == found[1]
    notes = [line for line in ray.stderr.splitlines() if not line.startswith("0 of 12 lines")]
    assert notes[0].startswith("starting a Ray cluster on this machine")
    assert notes[1] == "Ray: 2 actors, each with 1 CPU; answers come up to 2 lines at a time"
    assert notes[2].startswith("12 lines: 9 answered, 3 failed (3 usage)")
    assert notes[3] == "Ray: 2 actors, each with 1 CPU"
    assert len(notes) == 6  # the warning of the failed lines


@with_ray
@pytest.mark.slow
def test_an_address_without_a_cluster_is_an_error(with_tiny: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hi\n")
    ran = run("batch", str(tmp_path / "in.txt"), "--ray", "127.0.0.1:1", "-o", str(tmp_path / "out.jsonl"))
    assert ran.status == 5
    assert "error: the Ray cluster at 127.0.0.1:1 does not answer: Connection refused\n" in ran.stderr
    assert not (tmp_path / "out.jsonl").exists()
