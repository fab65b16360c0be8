"""Drivers for `RayCluster` without Ray, and engines for its actors: the processes of the tests import them."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmcli.engine.events import Request
from llmcli.errors import LlmcliError, NetworkError
from llmcli.inference.engine import Engine
from llmcli.params.settings import Settings
from llmcli.pipelines.ray_actor import BatchActor
from llmcli.pipelines.ray_driver import DriverPlan, Pipe
from llmcli.pipelines.ray_placement import Placement
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import echo, question_of

PLACE = Placement(2, 1, 0, 1, False)


def fake_engine(_settings: Settings) -> Engine:
    return FakeEngine(reply=echo)


def killed_engine(settings: Settings) -> Engine:
    """An engine whose process ends as by kill -9, at the line that is the name of a file; a second time it does not."""

    def reply(asked: Request) -> Sequence[str]:
        name = question_of(asked)
        if os.path.exists(name):
            os.unlink(name)
            os.kill(os.getpid(), 9)
        return echo(asked)

    return FakeEngine(reply=reply)


def deadly_engine(_settings: Settings) -> Engine:
    """An engine whose process ends at the line p9, each time."""

    def reply(asked: Request) -> Sequence[str]:
        if question_of(asked) == "p9":
            os.kill(os.getpid(), 9)
        return echo(asked)

    return FakeEngine(reply=reply)


def slow_engine(_settings: Settings) -> Engine:
    return FakeEngine(reply=echo, delay=0.002)


def no_engine(_settings: Settings) -> Engine:
    raise LlmcliError("the machine has no such model", "pull it there")


def drive_here(pipe: Pipe, plan: DriverPlan, most: int = -1, place: Placement = PLACE) -> None:
    """Answer all blocks in this process; after `most` of them it is gone, as where a cluster goes away."""
    pipe.send(place)
    actor, number = BatchActor(pickle.dumps(plan.actor)), 0
    while (block := pipe.recv()) is not None:
        if number == most:
            os._exit(1)
        pipe.send(pickle.loads(actor({"block": pickle.dumps(block)})["answers"]))
        number += 1
    pipe.send(None)


def drive_until_gone(pipe: Pipe, plan: DriverPlan) -> None:
    drive_here(pipe, plan, 3)


def drive_a_window(pipe: Pipe, plan: DriverPlan) -> None:
    """Answer when eight blocks have come, and no other one does; the notes say if one did."""
    pipe.send(PLACE)
    actor, blocks = BatchActor(pickle.dumps(plan.actor)), [pipe.recv() for _ in range(8)]
    notes = ["a ninth block"] if pipe.poll(0.5) else []
    while (block := blocks.pop(0)) is not None:
        found = pickle.loads(actor({"block": pickle.dumps(block)})["answers"])
        pipe.send(replace(found, notes=notes))
        if not blocks or pipe.poll(0):
            blocks.append(pipe.recv())
    pipe.send(None)


def drive_with_restarts(pipe: Pipe, plan: DriverPlan) -> None:
    """The actor is another one for each two blocks."""
    pipe.send(PLACE)
    actor, number = BatchActor(pickle.dumps(plan.actor)), 0
    while (block := pipe.recv()) is not None:
        found = pickle.loads(actor({"block": pickle.dumps(block)})["answers"])
        pipe.send(replace(found, restart=f"a {number // 2}" if number > 1 else ""))
        number += 1
    pipe.send(None)


def drive_with_child(_pipe: Pipe, plan: DriverPlan) -> None:
    """Start a process as Ray does, in the same group; note it in the file that is the address, and die."""
    os.setsid()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(plan.address).write_text(str(child.pid))
    os._exit(1)


def drive_busy(pipe: Pipe, plan: DriverPlan) -> None:
    drive_here(pipe, plan, place=replace(PLACE, has_to_wait=True))


def drive_nowhere_at_all(_pipe: Pipe, _plan: DriverPlan) -> None:
    os._exit(1)


def drive_nowhere(pipe: Pipe, plan: DriverPlan) -> None:
    pipe.send(NetworkError(f"the Ray cluster at {plan.address} does not answer: refused"))


def drive_forever(pipe: Pipe, plan: DriverPlan) -> None:
    pipe.send(PLACE)
    time.sleep(600)
