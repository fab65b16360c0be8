"""How many actors a Ray cluster has room for."""

import pytest

from llmcli.errors import UsageError
from llmcli.params.settings import Settings
from llmcli.pipelines.ray_placement import ActorNeed, Placement, need_of, place

GIB = 1 << 30
SMALL = {"CPU": 4.0, "memory": 8.0 * GIB}
LARGE = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB}


def test_an_actor_has_a_machine_where_nobody_says_more() -> None:
    assert place([SMALL, SMALL], ActorNeed(n_bytes=GIB)) == Placement(2, 4, 0, GIB, True)


def test_actors_share_a_machine_where_their_number_is_given() -> None:
    assert place([SMALL], ActorNeed(n_bytes=GIB), 2) == Placement(2, 2, 0, GIB, False)
    assert place([SMALL], ActorNeed(n_bytes=GIB), 3) == Placement(3, 1, 0, GIB, False)


def test_two_actors_on_the_larger_machine_share_its_processors() -> None:
    double = {"CPU": 8.0, "memory": 16.0 * GIB}
    assert place([SMALL, double], ActorNeed(n_bytes=GIB)) == Placement(3, 4, 0, GIB, False)
    assert place([SMALL, double], ActorNeed(n_bytes=GIB), 2) == Placement(2, 4, 0, GIB, False)
    uneven = {"CPU": 6.0, "memory": 16.0 * GIB}
    assert place([SMALL, uneven], ActorNeed(n_bytes=GIB)) == Placement(2, 4, 0, GIB, True)


def test_actors_have_the_threads_of_the_settings() -> None:
    assert place([SMALL, LARGE], ActorNeed(4, n_bytes=GIB)) == Placement(5, 4, 0, GIB, False)


def test_memory_limits_the_actors() -> None:
    assert place([SMALL], ActorNeed(1, n_bytes=3 * GIB)).n_actors == 2


def test_an_actor_has_a_gpu_where_there_is_one() -> None:
    assert place([SMALL, LARGE], ActorNeed(0, True, GIB)) == Placement(2, 2, 1, GIB, False)
    assert place([LARGE], ActorNeed(0, True, GIB)) == Placement(2, 8, 1, GIB, False)
    assert place([SMALL], ActorNeed(0, True, GIB)).num_gpus == 0


@pytest.mark.parametrize(
    ("need", "n_actors", "room"),
    [(ActorNeed(1, n_bytes=GIB), 5, "4 actors"), (ActorNeed(8, n_bytes=GIB), 0, "0 actors")],
)
def test_more_than_there_is_room_for_is_refused(need: ActorNeed, n_actors: int, room: str) -> None:
    with pytest.raises(UsageError, match=f"the cluster has room for {room}"):
        place([SMALL], need, n_actors)


def test_the_need_follows_from_the_settings() -> None:
    local = need_of(Settings(n_threads=3, n_gpu_layers=0), 10 * GIB)
    assert (local.n_threads, local.wants_gpu) == (3, False)
    assert 11 * GIB < local.n_bytes < 12 * GIB
    assert need_of(Settings(), GIB).wants_gpu
    assert need_of(Settings(endpoint="http://localhost:1"), 0) == ActorNeed(1)
