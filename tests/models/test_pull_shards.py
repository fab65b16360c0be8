"""Split models: pulled completely and from one commit, or not at all; without their projector."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.errors import DiskError, LlmcliError, ModelNotFoundError, NetworkError
from llmcli.models.hub import cache
from llmcli.models.locations import Progress
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference
from tests.hub.server import FakeHub, Fault
from tests.models.pulls import MIB, REPO, Pulls, be_quick, end_session, no_progress, some_bytes

COUNT = 3


def shards(seed: int, folder: str = "", count: int = COUNT) -> dict[str, bytes]:
    names = [f"{folder}m-Q4_K_M-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return {name: some_bytes(MIB + number, seed * 100 + number) for number, name in enumerate(names)}


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        be_quick(monkeypatch)
        yield Pulls(hub, tmp_path)
        end_session()


def contents(first: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in first.parent.iterdir() if path.is_file()}


@pytest.mark.parametrize("folder", ["", "Q4_K_M/", "deep/er/"])
def test_pull_downloads_all_parts_of_split_model(pulls: Pulls, folder: str) -> None:
    files = shards(1, folder)
    head = pulls.hub.add(REPO, {**files, "README.md": b"#"}).head
    path = pulls.pull()
    assert path == pulls.folder / "snapshots" / head / next(iter(files))
    assert contents(path) == {name.removeprefix(folder): data for name, data in files.items()}
    found = find_model_file(REPO, pulls.locations)
    assert [part.read_bytes() for part in found.parts] == list(files.values())
    assert pulls.hub.served == sum(map(len, files.values()))


def test_pull_takes_all_parts_from_one_commit(pulls: Pulls) -> None:
    """A commit in the middle of the download changes nothing, and the next pull brings it."""
    old, new = shards(1), shards(2)
    repo = pulls.hub.add(REPO, dict(old))
    first = repo.head
    planned = pulls.plan()
    repo.commit(dict(new))

    path = planned.download(lambda _name: no_progress, pulls.say).path
    assert contents(path) == old
    asked = {request.path.split("/")[4] for request in pulls.hub.requests("hub") if "resolve" in request.path}
    assert asked == {first}
    record = cache.read_revision(cache.revision_path(pulls.locations.data_dir, REPO))
    assert record
    assert record.commit == first
    assert contents(find_model_file(REPO, pulls.locations).path) == old
    assert contents(pulls.pull()) == new
    assert contents(find_model_file(REPO, pulls.locations).path) == new


@pytest.mark.parametrize("missing", range(COUNT))
@pytest.mark.parametrize("named", [HubReference(REPO), HubReference(REPO, "Q4_K_M")], ids=str)
def test_an_incomplete_set_is_refused_before_the_first_byte(pulls: Pulls, named: HubReference, missing: int) -> None:
    files = shards(1)
    absent = list(files)[missing]
    pulls.hub.add(REPO, {name: data for name, data in files.items() if name != absent})
    pulls.reference = named
    with pytest.raises(ModelNotFoundError, match=absent):
        pulls.pull()
    assert [request.origin for request in pulls.hub.log] == ["hub"]
    assert not pulls.locations.hub.exists()


def test_pull_of_later_part_downloads_whole_model(pulls: Pulls) -> None:
    files = shards(1, "sub/")
    pulls.hub.add(REPO, dict(files))
    pulls.reference = HubReference(REPO, file=list(files)[1])
    path = pulls.pull()
    assert path.name == "m-Q4_K_M-00001-of-00003.gguf"
    assert len(contents(path)) == COUNT


@pytest.mark.parametrize("part", range(COUNT))
def test_failed_part_leaves_no_model(pulls: Pulls, part: int) -> None:
    files = shards(1)
    pulls.hub.add(REPO, dict(files))
    pulls.hub.faults.append(Fault("status:503", path=list(files)[part], times=None))
    with pytest.raises(NetworkError):
        pulls.pull()
    with pytest.raises(ModelNotFoundError):
        find_model_file(REPO, pulls.locations)
    assert not list(pulls.folder.glob("refs/*"))
    pulls.hub.faults.clear()
    assert contents(pulls.pull()) == files
    bodies = [request.sent for request in pulls.hub.requests("cdn") if request.status == 206]
    assert sorted(bodies) == sorted(map(len, files.values()))  # no part twice


def test_identical_parts_are_downloaded_once(pulls: Pulls) -> None:
    files = dict.fromkeys(shards(1), some_bytes(MIB))
    pulls.hub.add(REPO, dict(files))
    assert contents(pulls.pull()) == files
    assert len(list(pulls.folder.glob("blobs/*"))) == 1
    assert pulls.hub.served == MIB


def test_projector_is_known_and_not_downloaded(pulls: Pulls) -> None:
    files = {"v/m-Q4_K_M.gguf": some_bytes(MIB), "v/mmproj-m-f16.gguf": some_bytes(MIB, 2)}
    pulls.hub.add(REPO, {**files, "mmproj-BF16.gguf": b"no", "v/mmproj-m-Q8_0.gguf": b"no"})
    plan = pulls.plan()
    assert plan.projector
    assert plan.projector.path == "v/mmproj-m-f16.gguf"
    assert (plan.size, plan.missing) == (MIB, MIB)
    path = pulls.pull()
    assert list(contents(path)) == ["m-Q4_K_M.gguf"]
    assert pulls.hub.served == MIB
    assert find_model_file(REPO, pulls.locations).parts == (path,)


def test_projector_alone_is_not_a_model(pulls: Pulls) -> None:
    pulls.hub.add(REPO, {"mmproj-m-f16.gguf": some_bytes(MIB)})
    with pytest.raises(LlmcliError, match="no GGUF"):
        pulls.pull()
    assert [request.origin for request in pulls.hub.log] == ["hub"]


def test_part_that_is_deleted_during_the_pull_is_an_error(pulls: Pulls) -> None:
    files = shards(1)
    pulls.hub.add(REPO, dict(files))
    first, *_, last = files

    def delete_first(name: str) -> Progress:
        if name == last:
            next(pulls.folder.rglob(first)).unlink()
        return no_progress

    with pytest.raises(DiskError, match="another program deleted files of o/m-GGUF meanwhile") as caught:
        pulls.plan().download(delete_first, pulls.say)
    assert caught.value.hint == f"run `llmcli pull {REPO}` again"
    assert contents(pulls.pull()) == files
