"""Hubs that answer in other ways: mirrors that list no facts of files, names in another case, renamed repositories."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.errors import ModelNotFoundError, NetworkError
from llmcli.models.hub.api import get_repo
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference
from tests.hub.server import Fault
from tests.models.pulls import FILE, REPO, Pulls, digest_of, no_progress, pulling, some_bytes

DATA, OTHER = some_bytes(5000), some_bytes(6000, seed=1)
RENAMED = "new/name-GGUF"


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    """A Hub with a model in two quantizations, and pulls from it."""
    with pulling(DATA, tmp_path, monkeypatch) as pulls:
        pulls.hub.repos[REPO].commit({"m-Q8_0.gguf": OTHER, "README.md": b"read me"})
        yield pulls


def pull(pulls: Pulls, text: str) -> Path:
    repo, _, quant = text.partition(":")
    return replace(pulls, reference=HubReference(repo, quant or None)).pull(no_progress)


def repos(pulls: Pulls) -> list[str]:
    """The folders of models in the cache."""
    return sorted(path.name for path in pulls.locations.hub.glob("models--*"))


@pytest.mark.parametrize("lacks", [{"blobs"}, {"blobs", "tree"}, {"blobs", "headers"}])
@pytest.mark.parametrize("page_size", [1000, 2])
def test_mirror_that_lists_no_sizes_is_asked_in_other_ways(pulls: Pulls, lacks: set[str], page_size: int) -> None:
    pulls.hub.lacks, pulls.hub.page_size = frozenset(lacks), page_size
    files = {file.path: (file.size, file.sha256) for file in get_repo(pulls.reference).files}
    assert files[FILE] == (len(DATA), digest_of(DATA))
    assert files["m-Q8_0.gguf"] == (len(OTHER), digest_of(OTHER))
    assert pulls.pull().read_bytes() == DATA


def test_mirror_without_sizes_or_checksums_is_refused(pulls: Pulls) -> None:
    pulls.hub.lacks = frozenset({"blobs", "tree", "headers"})
    with pytest.raises(ModelNotFoundError, match=r"cannot verify m-Q4_K_M\.gguf"):
        pulls.plan()
    pulls.hub.faults.append(Fault("status:404", origin="hub", times=None))
    with pytest.raises(NetworkError, match=r"lists the files of o/m-GGUF without their sizes") as caught:
        pulls.plan()
    assert "HF_ENDPOINT" in caught.value.hint


def test_the_hub_itself_is_asked_once(pulls: Pulls) -> None:
    get_repo(pulls.reference)
    assert len(pulls.hub.log) == 1


@pytest.mark.parametrize("redirects", [False, True])
def test_name_in_another_case_is_stored_under_the_own_one(pulls: Pulls, redirects: bool) -> None:
    typed = "O/M-gguf"
    pulls.hub.any_case = not redirects
    if redirects:
        pulls.hub.renamed[typed] = REPO
    assert pull(pulls, typed) == pull(pulls, REPO)
    assert repos(pulls) == ["models--o--m-GGUF"]
    assert pulls.said == []


@pytest.mark.parametrize("typed", [REPO, "O/M-gguf", "O/M-gguf:q4_k_m", f"o/m-gguf/{FILE}", f"o/m-gguf/{FILE.upper()}"])
def test_pulled_model_is_found_offline_in_any_case(pulls: Pulls, typed: str) -> None:
    path = pull(pulls, REPO)
    assert find_model_file(typed, replace(pulls.locations, offline=True)).path == path


def test_model_of_another_case_in_the_cache_is_not_mixed(pulls: Pulls) -> None:
    """Another tool keys the cache by what was typed; an exact name comes first."""
    pulls.hub.add("O/M-gguf", {FILE: OTHER})
    first, second = pull(pulls, REPO), pull(pulls, "O/M-gguf")
    if repos(pulls) == ["models--O--M-gguf", "models--o--m-GGUF"]:  # a file system with one case has one folder
        assert find_model_file(REPO, pulls.locations).path == first
        assert find_model_file("O/M-gguf", pulls.locations).path == second


def test_record_of_another_case_is_replaced_by_a_pull(pulls: Pulls) -> None:
    """An earlier release stored a model under the name that was typed."""
    typed = "o/m-gguf"
    pulls.hub.add(typed, {FILE: OTHER})
    old = pull(pulls, typed)
    del pulls.hub.repos[typed]
    pulls.hub.any_case = True
    new = pull(pulls, typed)
    assert (old.read_bytes(), new.read_bytes()) == (OTHER, DATA)
    assert find_model_file(typed, pulls.locations).path == new


def test_renamed_model_is_stored_once_and_found_by_both(pulls: Pulls) -> None:
    pulls.hub.rename(REPO, RENAMED)
    path = pull(pulls, REPO)
    assert pulls.said == [f"{REPO} is now {RENAMED} on the Hub"]
    assert pull(pulls, RENAMED) == path
    assert repos(pulls) == ["models--new--name-GGUF"]
    for typed in (REPO, RENAMED, "O/M-gguf", f"{REPO}:Q4_K_M"):
        assert find_model_file(typed, pulls.locations).path == path
    with pytest.raises(ModelNotFoundError):
        find_model_file(f"{REPO}:Q8_0", pulls.locations)


def test_model_pulled_before_it_was_renamed_stays_usable(pulls: Pulls) -> None:
    old = pull(pulls, f"{REPO}:Q4_K_M")
    pulls.hub.rename(REPO, RENAMED)
    assert find_model_file(f"{REPO}:Q4_K_M", pulls.locations).path == old
    new = pull(pulls, f"{REPO}:Q8_0")
    assert find_model_file(f"{REPO}:Q8_0", pulls.locations).path == new
    assert find_model_file(f"{REPO}:Q4_K_M", pulls.locations).path == old
