"""The Hub's cache: models of any program are found, and unusual files and links are skipped."""

from pathlib import Path

import pytest

from llmcli.models.hub.cache import CachedModel, cached_models, models_of_repo
from llmcli.models.hub.repo_files import RepoFile
from tests.models.hub_folder import (
    NEW,
    OLD,
    REPO,
    THIRD,
    add_file,
    add_parts,
    repo_folder,
    set_ref,
    sha256,
    touch_commit,
)


def names_of(models: list[CachedModel]) -> list[tuple[str, str]]:
    return [(model.commit[0], model.variant.path) for model in models]


def test_missing_cache_has_no_models(tmp_path: Path) -> None:
    assert cached_models(tmp_path / "none") == []
    assert models_of_repo(tmp_path / "none", REPO) == []


def test_file_instead_of_the_cache_has_no_models(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    assert cached_models(tmp_path / "hub") == []


def test_cached_model_has_repo_commit_file_and_checksum(tmp_path: Path) -> None:
    link = add_file(tmp_path, "sub/m-Q4_K_M.gguf", b"bytes")
    (model,) = cached_models(tmp_path)
    assert (model.repo, model.commit, model.parts) == (REPO, NEW, (link,))
    assert model.variant.parts == (RepoFile("sub/m-Q4_K_M.gguf", 5, sha256(b"bytes")),)
    assert (model.variant.quantization, model.projector) == ("Q4_K_M", None)


def test_copy_without_a_link_has_no_checksum(tmp_path: Path) -> None:
    add_file(tmp_path, "m.gguf", b"bytes", plain=True)
    assert cached_models(tmp_path)[0].variant.parts[0].sha256 == ""


def test_blob_without_sha256_name_has_no_checksum(tmp_path: Path) -> None:
    link = add_file(tmp_path, "m.gguf", b"bytes")
    blob = link.resolve()
    etag = blob.rename(blob.with_name("0123456789abcdef0123456789abcdef01234567"))
    link.unlink()
    link.symlink_to(f"../../blobs/{etag.name}")
    assert cached_models(tmp_path)[0].variant.parts[0].sha256 == ""


def test_cached_models_are_sorted_and_other_files_skipped(tmp_path: Path) -> None:
    for repo in ("b/two", "a/one"):
        add_file(tmp_path, "m.gguf", b"bytes", repo=repo)
        add_file(tmp_path, "README.md", b"read me", repo=repo)
    add_file(tmp_path, "model.safetensors", b"no gguf", repo="c/three")
    (tmp_path / "datasets--d--four" / "snapshots" / NEW).mkdir(parents=True)
    (tmp_path / "datasets--d--four" / "snapshots" / NEW / "x.gguf").write_bytes(b"no model")
    (tmp_path / "version.txt").write_text("1")
    (tmp_path / ".locks" / "models--a--one").mkdir(parents=True)
    assert [model.repo for model in cached_models(tmp_path)] == ["a/one", "b/two"]


@pytest.mark.parametrize(
    "name", ["models--", "models--gpt2", "models----x", "models--x--", "models--a--b--c", "models--.a--b"]
)
def test_folder_with_invalid_name_in_the_cache_is_skipped(tmp_path: Path, name: str) -> None:
    snapshot = tmp_path / name / "snapshots" / NEW
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").write_bytes(b"x")
    assert cached_models(tmp_path) == []


def test_split_model_is_listed_once_if_complete(tmp_path: Path) -> None:
    parts = add_parts(tmp_path, "whole-Q4_K_M", 3)
    add_parts(tmp_path, "half-Q8_0", 2, leave_out=[1])
    (model,) = cached_models(tmp_path)
    assert model.parts == tuple(parts)


def test_parts_of_two_commits_are_not_a_model(tmp_path: Path) -> None:
    add_parts(tmp_path, "m", 2, OLD, leave_out=[1])
    add_parts(tmp_path, "m", 2, NEW, leave_out=[2])
    assert cached_models(tmp_path) == []


def test_projector_belongs_to_the_models_of_its_repository(tmp_path: Path) -> None:
    add_file(tmp_path, "m-Q4_K_M.gguf", b"model")
    sight = add_file(tmp_path, "mmproj-F16.gguf", b"sight")
    (model,) = cached_models(tmp_path)
    assert model.projector is not None
    assert model.path_of(model.projector) == sight


def test_models_at_main_come_first_then_the_newest(tmp_path: Path) -> None:
    for commit, age in ((OLD, 300.0), (NEW, 200.0), (THIRD, 100.0)):
        add_file(tmp_path, "m.gguf", commit.encode(), commit)
        touch_commit(tmp_path, commit, age)
    assert names_of(models_of_repo(tmp_path, REPO)) == [("c", "m.gguf"), ("b", "m.gguf"), ("a", "m.gguf")]
    set_ref(tmp_path, "main", OLD)
    assert names_of(models_of_repo(tmp_path, REPO)) == [("a", "m.gguf"), ("c", "m.gguf"), ("b", "m.gguf")]


@pytest.mark.parametrize("content", [b"", b"../../..", b"\xff\xfe", NEW[:39].encode(), b"x" * 100_000])
def test_damaged_ref_has_no_commit(tmp_path: Path, content: bytes) -> None:
    add_file(tmp_path, "m.gguf", b"bytes")
    set_ref(tmp_path, "main", "").write_bytes(content)
    assert names_of(models_of_repo(tmp_path, REPO)) == [("b", "m.gguf")]


def test_files_deep_below_a_snapshot_are_skipped(tmp_path: Path) -> None:
    add_file(tmp_path, "1/2/3/4/m.gguf", b"near")
    add_file(tmp_path, "1/2/3/4/5/n.gguf", b"far")
    assert names_of(cached_models(tmp_path)) == [("b", "1/2/3/4/m.gguf")]


def test_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.gguf").write_bytes(b"private")
    hub = tmp_path / "hub"
    snapshot = add_file(hub, "m.gguf", b"bytes").parent
    (snapshot / "out").symlink_to(outside, target_is_directory=True)
    (snapshot / "round").symlink_to("..", target_is_directory=True)
    (snapshot.parent / OLD).symlink_to(outside, target_is_directory=True)
    assert names_of(cached_models(hub)) == [("b", "m.gguf")]


def test_folder_or_broken_link_with_a_gguf_name_is_skipped(tmp_path: Path) -> None:
    snapshot = add_file(tmp_path, "m.gguf", b"bytes").parent
    (snapshot / "folder.gguf").mkdir()
    (snapshot / "broken.gguf").symlink_to("../../blobs/none")
    (snapshot / "circle.gguf").symlink_to("circle.gguf")
    assert names_of(cached_models(tmp_path)) == [("b", "m.gguf")]


def test_ollama_name_with_escape_codes_is_skipped(tmp_path: Path) -> None:
    add_file(tmp_path, "m\x1b[2J.gguf", b"bytes")
    assert cached_models(tmp_path) == []
    assert repo_folder(tmp_path).is_dir()
