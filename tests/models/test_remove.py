"""Removal of a model: exactly its bytes, inside the cache and outside."""

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from llmcli.errors import DiskError
from llmcli.models.hub import cache
from llmcli.models.hub.cache import PulledRevision, cached_models
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.installed import inventory, remove
from llmcli.models.locations import ModelLocations, starter_path
from llmcli.models.sources.source import RemovalPlan
from tests.models.hub_folder import (
    NEW,
    OLD,
    REPO,
    THIRD,
    add_file,
    add_parts,
    listing,
    repo_folder,
    set_ref,
    sha256,
    share_blob,
)


@pytest.fixture
def locations(tmp_path: Path) -> ModelLocations:
    return ModelLocations(tmp_path / "cache", tmp_path / "data", hub=tmp_path / "hub")


def plan_for(locations: ModelLocations, name: str) -> RemovalPlan:
    (item,) = (item for item in inventory(locations) if item.name == name)
    return item.source.plan_removal(item, locations)


def remove_model(locations: ModelLocations, name: str) -> RemovalPlan:
    """Remove the model: what really goes is what the plan said, and the hub's own tools are content."""
    before = listing(locations.hub)
    plan = plan_for(locations, name)
    assert listing(locations.hub) == before  # a plan touches nothing
    remove(plan, locations)
    gone = [path for path in before if path not in listing(locations.hub) and before[path] != "folder"]
    assert {path for path in gone if "/refs/" not in path} == {str(path) for path in plan.files}
    assert name not in [item.name for item in inventory(locations)]
    assert not scan_cache_dir(locations.hub).warnings
    return plan


def test_remove_of_last_model_deletes_its_folder(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "sub/m-Q4_K_M.gguf", b"bytes", ref="main")
    set_ref(locations.hub, "refs/pr/1", NEW)
    blob = link.resolve()
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert (plan.files, plan.freed, plan.kept) == ((link, blob), 5, ())
    assert list(locations.hub.iterdir()) == []


def test_remove_deletes_all_parts(locations: ModelLocations) -> None:
    parts = add_parts(locations.hub, "m-Q4_K_M", 3)
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert set(parts) < set(plan.files)
    assert plan.freed == sum(len(part.name) for part in parts)


def test_remove_keeps_other_models_of_the_repository(locations: ModelLocations) -> None:
    others = [add_file(locations.hub, name, name.encode(), ref="main") for name in ("m-Q8_0.gguf", "README.md")]
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes")
    elsewhere = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", repo="owner/other")
    before = listing(locations.hub)
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert all(path.is_file() for path in (*others, elsewhere))
    assert listing(locations.hub) == {path: what for path, what in before.items() if Path(path) not in plan.files}


def test_remove_keeps_a_commit_with_other_files(locations: ModelLocations) -> None:
    readme = add_file(locations.hub, "README.md", b"read me", ref="main")
    add_file(locations.hub, "sub/m-Q4_K_M.gguf", b"bytes")
    remove_model(locations, f"{REPO}:Q4_K_M")
    assert readme.is_file()
    assert not (readme.parent / "sub").exists()
    assert (repo_folder(locations.hub) / "refs" / "main").read_text() == NEW


def test_remove_deletes_the_same_bytes_at_other_commits(locations: ModelLocations) -> None:
    links = [add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", commit) for commit in (OLD, NEW, THIRD)]
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert set(links) < set(plan.files)
    assert plan.freed == 5


def test_other_bytes_at_another_commit_are_kept(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main")
    old = add_file(locations.hub, "m-Q4_K_M.gguf", b"older", OLD, ref="v1")
    plan = plan_for(locations, f"{REPO}:Q4_K_M")
    assert plan.freed == 5
    remove(plan, locations)
    assert old.read_bytes() == b"older"
    assert not (repo_folder(locations.hub) / "refs" / "main").exists()
    assert (repo_folder(locations.hub) / "refs" / "v1").read_text() == OLD
    assert not scan_cache_dir(locations.hub).warnings


def test_remove_keeps_a_blob_with_another_name(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", NEW)
    for name, commit in (("renamed.gguf", OLD), ("also.bin", NEW)):
        add_file(locations.hub, name, b"bytes", commit)
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert (plan.freed, [path.name for path in plan.kept]) == (0, [sha256(b"bytes")])
    assert (repo_folder(locations.hub) / "snapshots" / OLD / "renamed.gguf").read_bytes() == b"bytes"


def test_remove_keeps_a_part_that_two_models_share(locations: ModelLocations) -> None:
    add_parts(locations.hub, "m-Q4_K_M", 2)
    add_file(locations.hub, "other-Q8_0.gguf", b"m-Q4_K_M-00002-of-00002.gguf")
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert plan.freed == len("m-Q4_K_M-00001-of-00002.gguf")
    assert len(plan.kept) == 1


def test_remove_keeps_copies_at_other_commits(locations: ModelLocations) -> None:
    copy = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main", plain=True)
    other = add_file(locations.hub, "m-Q4_K_M.gguf", b"other", OLD, plain=True)
    plan = plan_for(locations, f"{REPO}:Q4_K_M")
    assert (plan.files, plan.freed) == ((copy,), 5)
    remove(plan, locations)
    assert other.read_bytes() == b"other"


def test_projector_is_removed_with_the_last_model(locations: ModelLocations) -> None:
    sight = add_file(locations.hub, "mmproj-F16.gguf", b"sight")
    add_file(locations.hub, "m-Q4_K_M.gguf", b"four")
    add_file(locations.hub, "m-Q8_0.gguf", b"eight")
    assert remove_model(locations, f"{REPO}:Q4_K_M").freed == 4
    assert sight.is_file()
    assert remove_model(locations, f"{REPO}:Q8_0").freed == 10
    assert not os.path.lexists(sight)
    assert list(locations.hub.iterdir()) == []


@pytest.mark.parametrize("main", [OLD, NEW])
def test_remove_keeps_projector_of_other_models(locations: ModelLocations, main: str) -> None:
    for commit in (OLD, NEW):
        add_file(locations.hub, "m-Q4_K_M.gguf", b"four", commit)
        add_file(locations.hub, "mmproj-F16.gguf", b"sight", commit)
    add_file(locations.hub, "m-Q8_0.gguf", b"eight", NEW)
    set_ref(locations.hub, "main", main)
    assert remove_model(locations, f"{REPO}:Q4_K_M").freed == 4
    (model,) = cached_models(locations.hub)
    assert model.projector is not None
    assert model.path_of(model.projector).read_bytes() == b"sight"
    assert not (repo_folder(locations.hub) / "snapshots" / OLD).exists()


def test_remove_deletes_only_refs_of_removed_commits(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main")
    add_file(locations.hub, "README.md", b"read me", OLD, ref="v1")
    set_ref(locations.hub, "refs/pr/1", NEW)
    remove_model(locations, f"{REPO}:Q4_K_M")
    refs = repo_folder(locations.hub) / "refs"
    assert [path.name for path in refs.rglob("*") if path.is_file()] == ["v1"]


def test_remove_keeps_partial_download(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    partial = cache.folder_of(locations.hub, REPO) / "blobs" / f"{'1' * 64}.llmcli.incomplete"
    partial.write_bytes(b"half")
    remove_model(locations, f"{REPO}:Q4_K_M")
    assert partial.read_bytes() == b"half"


def test_remove_ignores_no_exist_markers(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    missing = repo_folder(locations.hub) / ".no_exist" / NEW / "config.json"
    missing.parent.mkdir(parents=True)
    missing.touch()
    remove_model(locations, f"{REPO}:Q4_K_M")


def test_remove_keeps_blob_shared_between_repositories(locations: ModelLocations) -> None:
    links = [add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", repo=repo) for repo in (REPO, "owner/other")]
    for link in links:
        share_blob(locations.hub, link)
    plan = remove_model(locations, f"{REPO}:Q4_K_M")
    assert not repo_folder(locations.hub).exists()
    assert links[1].read_bytes() == b"bytes"
    assert (plan.freed, len(plan.kept)) == (0, 1)


def test_remove_deletes_the_record_of_the_model(locations: ModelLocations) -> None:
    for name, reference in (("m-Q4_K_M.gguf", REPO), ("m-Q8_0.gguf", f"{REPO}:Q8_0")):
        add_file(locations.hub, name, name.encode())
        file = RepoFile(name, len(name), sha256(name.encode()))
        cache.save_revision(locations.data_dir, PulledRevision(reference, REPO, NEW, (file,), None, "", 1.0))
    remove_model(locations, f"{REPO}:Q4_K_M")
    assert [record.reference for record in cache.all_revisions(locations.data_dir)] == [f"{REPO}:Q8_0"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, with a file that looks like a model, one like a blob and one like a stale ref."""
    place = tmp_path / "private"
    (place / "sub").mkdir(parents=True)
    for name in ("m-Q4_K_M.gguf", sha256(b"bytes"), "main", "sub/main"):
        (place / name).write_bytes(b"bytes")
    return place


def remove_all(locations: ModelLocations, outside: Path) -> list[str]:
    """Remove every model: `removed` or the reason of the refusal for each; nothing outside changes."""
    before, outcomes = listing(outside), []
    for item in inventory(locations):
        try:
            remove(item.source.plan_removal(item, locations), locations)
            outcomes.append("removed")
        except DiskError as refused:
            outcomes.append(str(refused))
    assert listing(outside) == before
    return outcomes


def assert_refused(outcomes: list[str]) -> None:
    """Exactly one model was found, and its removal was refused."""
    (reason,) = outcomes
    assert reason.startswith("a link leads out of the cache: ")


def test_remove_refuses_a_pointer_that_leads_out_of_the_cache(locations: ModelLocations, outside: Path) -> None:
    link = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes")
    link.unlink()
    link.symlink_to(outside / "m-Q4_K_M.gguf")
    assert_refused(remove_all(locations, outside))


def test_remove_deletes_a_blob_link_but_not_its_target(locations: ModelLocations, outside: Path) -> None:
    blob = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes").resolve()
    blob.unlink()
    blob.symlink_to(outside / "m-Q4_K_M.gguf")
    assert remove_all(locations, outside) == ["removed"]


@pytest.mark.parametrize(
    ("name", "outcome"),
    # Behind a moved `snapshots` the links to the blobs are broken: there is no model to remove.
    [("blobs", "refused"), ("snapshots", ""), ("refs", "removed"), ("refs/deep", "removed"), ("", "refused")],
)
def test_remove_changes_nothing_behind_a_folder_link(
    locations: ModelLocations, outside: Path, name: str, outcome: str
) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    set_ref(locations.hub, "deep/branch", NEW)
    folder = repo_folder(locations.hub) / name
    if name in ("snapshots", ""):  # the whole of it, and a link in its place
        moved = outside / "moved"
        os.rename(folder, moved)
        folder.symlink_to(moved, target_is_directory=True)
    else:
        os.rename(folder, folder.with_name("old")) if folder.exists() else None
        folder.symlink_to(outside, target_is_directory=True)
    outcomes = remove_all(locations, outside)
    if outcome == "refused":
        assert_refused(outcomes)
    else:
        assert outcomes == ([outcome] if outcome else [])


def test_remove_keeps_blob_of_another_repository(locations: ModelLocations) -> None:
    other = add_file(locations.hub, "x.gguf", b"theirs", repo="owner/other").resolve()
    link = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes")
    link.unlink()
    link.symlink_to(os.path.relpath(other, link.parent))
    plan = plan_for(locations, f"{REPO}:Q4_K_M")
    remove(plan, locations)
    assert (other.read_bytes(), plan.freed) == (b"theirs", 0)


def test_remove_works_in_linked_cache(locations: ModelLocations, tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    locations.hub.symlink_to(tmp_path / "big disk", target_is_directory=True)
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    plan = plan_for(locations, f"{REPO}:Q4_K_M")
    assert plan.freed == 5
    remove(plan, locations)
    assert list(locations.hub.iterdir()) == []


def test_remove_reports_file_that_cannot_be_deleted(locations: ModelLocations, monkeypatch: pytest.MonkeyPatch) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    plan, before = plan_for(locations, f"{REPO}:Q4_K_M"), listing(locations.hub)

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(DiskError, match=r"cannot remove .*m-Q4_K_M\.gguf: Permission denied"):
        remove(plan, locations)
    assert listing(locations.hub) == before


def test_remove_ignores_missing_file(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "m-Q4_K_M.gguf", b"bytes")
    plan = plan_for(locations, f"{REPO}:Q4_K_M")
    link.resolve().unlink()
    remove(plan, locations)
    assert list(locations.hub.iterdir()) == []


def test_remove_deletes_starter_and_downloaded_url(locations: ModelLocations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.models.locations.STARTER_SIZE", 5)
    place = locations.cache_dir / "urls" / "0123" / "x.gguf"
    for path in (starter_path(locations.cache_dir), place):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"small")
    for item in inventory(locations):
        plan = item.source.plan_removal(item, locations)
        assert (plan.files, plan.freed) == (item.parts, 5)
        remove(plan, locations)
    assert inventory(locations) == []
    assert not place.parent.exists()
    assert locations.cache_dir.is_dir()
