"""How many actors a Ray cluster has room for, and what each of them gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmcli.errors import UsageError
from llmcli.params.settings import Settings
from llmcli.text import plural

_OVERHEAD = 512 << 20  # bytes: context, and Python
_SHARE = 1.1  # of the size of the model file that its weights take


@dataclass(frozen=True)
class ActorNeed:
    """What one actor needs."""

    n_threads: int = 0  # 0 = all processors of its machine, or a fair part of them
    wants_gpu: bool = False  # where the cluster has GPUs
    n_bytes: int = _OVERHEAD  # of memory


@dataclass(frozen=True)
class Placement:
    """The actors of a cluster."""

    n_actors: int
    num_cpus: float
    num_gpus: int
    n_bytes: int
    is_whole_machine: bool  # whether no machine has two of them: then llama.cpp chooses its threads
    has_to_wait: bool = False  # for what has the machines now


def need_of(settings: Settings, model_size: int) -> ActorNeed:
    """What an actor needs that loads a model of so many bytes; one that asks an endpoint loads none."""
    if settings.endpoint:
        return ActorNeed(1)
    wants_gpu = settings.n_gpu_layers != 0
    return ActorNeed(settings.n_threads, wants_gpu, int(model_size * _SHARE) + _OVERHEAD)


def place(machines: Sequence[Mapping[str, float]], need: ActorNeed, n_actors: int = 0) -> Placement:
    """Place `n_actors` (0 = as many as there is room for) on machines with these resources, as Ray names them.

    Raises UsageError if they do not fit.
    """
    n_gpus = 1 if need.wants_gpu and any(one.get("GPU", 0) >= 1 for one in machines) else 0
    choices = [need.n_threads] if need.n_threads else _shares(machines, n_actors, n_gpus)
    for num_cpus in choices:
        rooms = [_room(one, num_cpus, n_gpus, need.n_bytes) for one in machines]
        room = sum(rooms)
        if room and room >= n_actors:
            # One plan is for all actors: where two of them can be on one machine, none may take all its processors.
            is_whole = not need.n_threads and max(rooms) == 1
            return Placement(n_actors or room, num_cpus, n_gpus, need.n_bytes, is_whole)
    room = sum(_room(one, choices[-1], n_gpus, need.n_bytes) for one in machines)
    each = f"{plural(choices[-1], 'CPU')}{', 1 GPU' if n_gpus else ''} and {need.n_bytes / (1 << 30):.1f} GiB"
    raise UsageError(
        f"the cluster has room for {plural(room, 'actor')} with {each}, not for {n_actors or 1}",
        "choose fewer with --ray-actors, fewer threads with -t, or a smaller model",
    )


def _shares(machines: Sequence[Mapping[str, float]], n_actors: int, n_gpus: int) -> list[int]:
    """The numbers of CPUs that an actor could have, the best first: without a number of actors, one has a machine."""
    sizes = [int(one.get("CPU", 0)) for one in machines if one.get("CPU", 0) >= 1] or [1]
    if n_actors:
        return [*range(max(sizes), 0, -1)]
    most = max(int(one.get("GPU", 0)) for one in machines) if n_gpus else 1
    return [max(1, min(sizes) // max(most, 1))]


def _room(machine: Mapping[str, float], num_cpus: int, n_gpus: int, n_bytes: int) -> int:
    """The number of actors for which a machine has room."""
    parts = [machine.get("CPU", 0) // num_cpus, machine.get("memory", 0) // n_bytes]
    return int(min([*parts, machine.get("GPU", 0)] if n_gpus else parts))
