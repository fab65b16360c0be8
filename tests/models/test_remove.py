"""Removing a model: its bytes go, and nothing else, in the cache or out of it."""

import os
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from llmcli.errors import DiskError
from llmcli.models import locations
from llmcli.models.hub import cache
from llmcli.models.hub.cache import Record, cached_models, partial_path
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.inventory import Removal, inventory, plan_removal, remove
from llmcli.models.locations import Shelf
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
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "cache", tmp_path / "data", hub=tmp_path / "hub")


def plan_for(shelf: Shelf, name: str) -> Removal:
    (item,) = (item for item in inventory(shelf) if item.name == name)
    return plan_removal(item, shelf)


def remove_model(shelf: Shelf, name: str) -> Removal:
    """Remove the model: what really goes is what the plan said, and the hub's own tools are content."""
    before = listing(shelf.hub)
    plan = plan_for(shelf, name)
    assert listing(shelf.hub) == before  # a plan touches nothing
    remove(plan, shelf)
    gone = [path for path in before if path not in listing(shelf.hub) and before[path] != "folder"]
    assert {path for path in gone if "/refs/" not in path} == {str(path) for path in plan.files}
    assert name not in [item.name for item in inventory(shelf)]
    assert not scan_cache_dir(shelf.hub).warnings
    return plan


def test_remove_of_last_model_deletes_its_folder(shelf: Shelf) -> None:
    link = add_file(shelf.hub, "sub/m-Q4_K_M.gguf", b"bytes", ref="main")
    set_ref(shelf.hub, "refs/pr/1", NEW)
    blob = link.resolve()
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert (plan.files, plan.freed, plan.kept) == ((link, blob), 5, ())
    assert list(shelf.hub.iterdir()) == []


def test_remove_deletes_all_parts(shelf: Shelf) -> None:
    parts = add_parts(shelf.hub, "m-Q4_K_M", 3)
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert set(parts) < set(plan.files)
    assert plan.freed == sum(len(part.name) for part in parts)


def test_other_models_and_files_of_the_repository_stay(shelf: Shelf) -> None:
    others = [add_file(shelf.hub, name, name.encode(), ref="main") for name in ("m-Q8_0.gguf", "README.md")]
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes")
    elsewhere = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", repo="owner/other")
    before = listing(shelf.hub)
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert all(path.is_file() for path in (*others, elsewhere))
    assert listing(shelf.hub) == {path: what for path, what in before.items() if Path(path) not in plan.files}


def test_a_readme_keeps_its_commit_and_the_ref_of_it(shelf: Shelf) -> None:
    readme = add_file(shelf.hub, "README.md", b"read me", ref="main")
    add_file(shelf.hub, "sub/m-Q4_K_M.gguf", b"bytes")
    remove_model(shelf, f"{REPO}:Q4_K_M")
    assert readme.is_file()
    assert not (readme.parent / "sub").exists()
    assert (repo_folder(shelf.hub) / "refs" / "main").read_text() == NEW


def test_the_same_bytes_at_other_commits_go_too(shelf: Shelf) -> None:
    links = [add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", commit) for commit in (OLD, NEW, THIRD)]
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert set(links) < set(plan.files)
    assert plan.freed == 5


def test_other_bytes_at_another_commit_stay(shelf: Shelf) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main")
    old = add_file(shelf.hub, "m-Q4_K_M.gguf", b"older", OLD, ref="v1")
    plan = plan_for(shelf, f"{REPO}:Q4_K_M")
    assert plan.freed == 5
    remove(plan, shelf)
    assert old.read_bytes() == b"older"
    assert not (repo_folder(shelf.hub) / "refs" / "main").exists()
    assert (repo_folder(shelf.hub) / "refs" / "v1").read_text() == OLD
    assert not scan_cache_dir(shelf.hub).warnings


def test_a_blob_with_another_name_at_any_commit_survives(shelf: Shelf) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", NEW)
    for name, commit in (("renamed.gguf", OLD), ("also.bin", NEW)):
        add_file(shelf.hub, name, b"bytes", commit)
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert (plan.freed, [path.name for path in plan.kept]) == (0, [sha256(b"bytes")])
    assert (repo_folder(shelf.hub) / "snapshots" / OLD / "renamed.gguf").read_bytes() == b"bytes"


def test_a_part_that_two_models_share_survives(shelf: Shelf) -> None:
    add_parts(shelf.hub, "m-Q4_K_M", 2)
    add_file(shelf.hub, "other-Q8_0.gguf", b"m-Q4_K_M-00002-of-00002.gguf")
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert plan.freed == len("m-Q4_K_M-00001-of-00002.gguf")
    assert len(plan.kept) == 1


def test_remove_keeps_copies_at_other_commits(shelf: Shelf) -> None:
    copy = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main", plain=True)
    other = add_file(shelf.hub, "m-Q4_K_M.gguf", b"other", OLD, plain=True)
    plan = plan_for(shelf, f"{REPO}:Q4_K_M")
    assert (plan.files, plan.freed) == ((copy,), 5)
    remove(plan, shelf)
    assert other.read_bytes() == b"other"


def test_projector_is_removed_with_the_last_model(shelf: Shelf) -> None:
    sight = add_file(shelf.hub, "mmproj-F16.gguf", b"sight")
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"four")
    add_file(shelf.hub, "m-Q8_0.gguf", b"eight")
    assert remove_model(shelf, f"{REPO}:Q4_K_M").freed == 4
    assert sight.is_file()
    assert remove_model(shelf, f"{REPO}:Q8_0").freed == 10
    assert not os.path.lexists(sight)
    assert list(shelf.hub.iterdir()) == []


@pytest.mark.parametrize("main", [OLD, NEW])
def test_remove_keeps_projector_of_other_models(shelf: Shelf, main: str) -> None:
    for commit in (OLD, NEW):
        add_file(shelf.hub, "m-Q4_K_M.gguf", b"four", commit)
        add_file(shelf.hub, "mmproj-F16.gguf", b"sight", commit)
    add_file(shelf.hub, "m-Q8_0.gguf", b"eight", NEW)
    set_ref(shelf.hub, "main", main)
    assert remove_model(shelf, f"{REPO}:Q4_K_M").freed == 4
    (model,) = cached_models(shelf.hub)
    assert model.projector is not None
    assert model.place(model.projector).read_bytes() == b"sight"
    assert not (repo_folder(shelf.hub) / "snapshots" / OLD).exists()


def test_remove_deletes_only_refs_of_removed_commits(shelf: Shelf) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", NEW, ref="main")
    add_file(shelf.hub, "README.md", b"read me", OLD, ref="v1")
    set_ref(shelf.hub, "refs/pr/1", NEW)
    remove_model(shelf, f"{REPO}:Q4_K_M")
    refs = repo_folder(shelf.hub) / "refs"
    assert [path.name for path in refs.rglob("*") if path.is_file()] == ["v1"]


def test_remove_keeps_partial_download(shelf: Shelf) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    partial = partial_path(shelf.hub, REPO, "1" * 64)
    partial.write_bytes(b"half")
    remove_model(shelf, f"{REPO}:Q4_K_M")
    assert partial.read_bytes() == b"half"


def test_remove_ignores_no_exist_markers(shelf: Shelf) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    missing = repo_folder(shelf.hub) / ".no_exist" / NEW / "config.json"
    missing.parent.mkdir(parents=True)
    missing.touch()
    remove_model(shelf, f"{REPO}:Q4_K_M")


def test_remove_keeps_blob_shared_between_repositories(shelf: Shelf) -> None:
    links = [add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", repo=repo) for repo in (REPO, "owner/other")]
    for link in links:
        share_blob(shelf.hub, link)
    plan = remove_model(shelf, f"{REPO}:Q4_K_M")
    assert not repo_folder(shelf.hub).exists()
    assert links[1].read_bytes() == b"bytes"
    assert (plan.freed, len(plan.kept)) == (0, 1)


def test_a_record_of_the_removed_model_is_forgotten(shelf: Shelf) -> None:
    for name, reference in (("m-Q4_K_M.gguf", REPO), ("m-Q8_0.gguf", f"{REPO}:Q8_0")):
        add_file(shelf.hub, name, name.encode())
        file = RepoFile(name, len(name), sha256(name.encode()))
        cache.save_revision(shelf.data_dir, Record(reference, REPO, NEW, (file,), None, "", 1.0))
    remove_model(shelf, f"{REPO}:Q4_K_M")
    assert [record.reference for record in cache.all_revisions(shelf.data_dir)] == [f"{REPO}:Q8_0"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, with a file that looks like a model, one like a blob and one like a stale ref."""
    place = tmp_path / "private"
    (place / "sub").mkdir(parents=True)
    for name in ("m-Q4_K_M.gguf", sha256(b"bytes"), "main", "sub/main"):
        (place / name).write_bytes(b"bytes")
    return place


def remove_all(shelf: Shelf, outside: Path) -> list[str]:
    """Remove every model: `removed` or the reason of the refusal for each; nothing outside changes."""
    before, outcomes = listing(outside), []
    for item in inventory(shelf):
        try:
            remove(plan_removal(item, shelf), shelf)
            outcomes.append("removed")
        except DiskError as refused:
            outcomes.append(str(refused))
    assert listing(outside) == before
    return outcomes


def assert_refused(outcomes: list[str]) -> None:
    """Exactly one model was found, and its removal was refused."""
    (reason,) = outcomes
    assert reason.startswith("a link leads out of the cache: ")


def test_remove_refuses_a_pointer_that_leads_out_of_the_cache(shelf: Shelf, outside: Path) -> None:
    link = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes")
    link.unlink()
    link.symlink_to(outside / "m-Q4_K_M.gguf")
    assert_refused(remove_all(shelf, outside))


def test_remove_deletes_a_blob_link_but_not_its_target(shelf: Shelf, outside: Path) -> None:
    blob = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes").resolve()
    blob.unlink()
    blob.symlink_to(outside / "m-Q4_K_M.gguf")
    assert remove_all(shelf, outside) == ["removed"]


@pytest.mark.parametrize(
    ("name", "outcome"),
    # Behind a moved `snapshots` the links to the blobs are broken: there is no model to remove.
    [("blobs", "refused"), ("snapshots", ""), ("refs", "removed"), ("refs/deep", "removed"), ("", "refused")],
)
def test_remove_changes_nothing_behind_a_folder_link(shelf: Shelf, outside: Path, name: str, outcome: str) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    set_ref(shelf.hub, "deep/branch", NEW)
    folder = repo_folder(shelf.hub) / name
    if name in ("snapshots", ""):  # the whole of it, and a link in its place
        moved = outside / "moved"
        os.rename(folder, moved)
        folder.symlink_to(moved, target_is_directory=True)
    else:
        os.rename(folder, folder.with_name("old")) if folder.exists() else None
        folder.symlink_to(outside, target_is_directory=True)
    outcomes = remove_all(shelf, outside)
    if outcome == "refused":
        assert_refused(outcomes)
    else:
        assert outcomes == ([outcome] if outcome else [])


def test_remove_keeps_blob_of_another_repository(shelf: Shelf) -> None:
    other = add_file(shelf.hub, "x.gguf", b"theirs", repo="owner/other").resolve()
    link = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes")
    link.unlink()
    link.symlink_to(os.path.relpath(other, link.parent))
    plan = plan_for(shelf, f"{REPO}:Q4_K_M")
    remove(plan, shelf)
    assert (other.read_bytes(), plan.freed) == (b"theirs", 0)


def test_remove_works_in_linked_cache(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    shelf.hub.symlink_to(tmp_path / "big disk", target_is_directory=True)
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    plan = plan_for(shelf, f"{REPO}:Q4_K_M")
    assert plan.freed == 5
    remove(plan, shelf)
    assert list(shelf.hub.iterdir()) == []


def test_remove_reports_file_that_cannot_be_deleted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes", ref="main")
    plan, before = plan_for(shelf, f"{REPO}:Q4_K_M"), listing(shelf.hub)

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(DiskError, match=r"cannot remove .*m-Q4_K_M\.gguf: Permission denied"):
        remove(plan, shelf)
    assert listing(shelf.hub) == before


def test_remove_ignores_missing_file(shelf: Shelf) -> None:
    link = add_file(shelf.hub, "m-Q4_K_M.gguf", b"bytes")
    plan = plan_for(shelf, f"{REPO}:Q4_K_M")
    link.resolve().unlink()
    remove(plan, shelf)
    assert list(shelf.hub.iterdir()) == []


def test_the_starter_and_a_file_from_an_address_are_removed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "SIZE", 5)
    place = shelf.cache_dir / "urls" / "0123" / "x.gguf"
    for path in (locations.starter_path(shelf.cache_dir), place):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"small")
    for item in inventory(shelf):
        plan = plan_removal(item, shelf)
        assert (plan.files, plan.freed) == (item.parts, 5)
        remove(plan, shelf)
    assert inventory(shelf) == []
    assert not place.parent.exists()
    assert shelf.cache_dir.is_dir()
