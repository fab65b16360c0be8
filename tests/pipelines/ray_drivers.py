"""Drivers for `RayCluster` without Ray, and engines for its actors: the processes of the tests import them."""

import os
import pickle
import time
from collections.abc import Sequence

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


def drive_here(pipe: Pipe, plan: DriverPlan, most: int = -1) -> None:
    """Answer all blocks in this process; after `most` of them it is gone, as where a cluster goes away."""
    pipe.send(PLACE)
    blocks = []
    while (block := pipe.recv()) is not None:
        blocks.append(pickle.dumps(block))
    actor = BatchActor(pickle.dumps(plan.actor))
    for number, block in enumerate(blocks):
        if number == most:
            os._exit(1)
        pipe.send(pickle.loads(actor({"block": block})["answers"]))
    pipe.send(None)


def drive_until_gone(pipe: Pipe, plan: DriverPlan) -> None:
    drive_here(pipe, plan, 3)


def drive_nowhere(pipe: Pipe, plan: DriverPlan) -> None:
    pipe.send(NetworkError(f"the Ray cluster at {plan.address} does not answer: refused"))


def drive_forever(pipe: Pipe, plan: DriverPlan) -> None:
    pipe.send(PLACE)
    time.sleep(60)
