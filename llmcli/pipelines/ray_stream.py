"""The blocks of a batch as a stream of Ray Data, and the actor as Ray makes it. Imports Ray, which takes seconds."""

import os
import pickle
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset, Datasource, ReadTask, read_datasource
from ray.data.block import BlockMetadata
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llmcli.pipelines.ray_actor import BatchActor, Block

_BEGIN = "begin"  # comes before the blocks


class BlockStream:
    """Blocks that come one after the other: the cluster has those that were put, and whose answers were not taken."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._queue.put(_BEGIN)

    def put(self, block: Block | None) -> None:
        """Add a block; None is the end."""
        self._queue.put(None if block is None else pickle.dumps(block))

    def dataset(self) -> Dataset:
        """The blocks, each a row `block`."""
        return read_datasource(_QueueSource(self._queue), override_num_blocks=1, num_cpus=0)


class _QueueSource(Datasource):  # type: ignore[misc]  # Ray need not be installed
    """What is taken from a queue up to None, as one read task that is as long as the batch."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, *_how: Any, **_more: Any) -> Sequence[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(_take_all, self._queue), nothing_known)]


def _take_all(queue: Queue) -> Iterable[pa.Table]:
    if queue.get() != _BEGIN:  # Ray tries again: blocks would be missing, and others be in their places
        raise RuntimeError("the process that gives out the lines ended")
    while (block := queue.get()) is not None:
        yield pa.table({"block": [block]})


class RestartingActor(BatchActor):
    """The actor as Ray makes it; it says of each block whether Ray had to make it again."""

    def __init__(self, plan: bytes) -> None:
        super().__init__(plan)
        context = ray.get_runtime_context()
        if context.was_current_actor_reconstructed:
            self.restart = f"{context.get_actor_id()} {os.getpid()}"
