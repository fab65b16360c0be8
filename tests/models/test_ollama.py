"""Ollama's models: found by Ollama's names, read in place, and nothing outside of the store is read."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from llmcli.errors import DiskError, ModelInvalidError, ModelNotFoundError
from llmcli.models.locations import ModelLocations
from llmcli.models.sources import ollama
from tests.models.gguf_writer import write_gguf
from tests.models.stores import KIND, add_blob, add_ollama_model, write_manifest


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "source.gguf")


@pytest.fixture
def store(tmp_path: Path, gguf: Path) -> Path:
    """A store with one model in two tags and one from the hub."""
    place = tmp_path / "store"
    for name in ("llama3.2/latest", "llama3.2/1b", "hf.co/Owner/Repo-GGUF/Q4_K_M", "registry.ollama.ai/ann/pet/v1"):
        add_ollama_model(place, name, gguf)
    return place


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("LLAMA3.2:1B", "llama3.2:1b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("ann/pet:v1", "ann/pet:v1"),
        ("hf.co/Owner/Repo-GGUF:Q4_K_M", "hf.co/Owner/Repo-GGUF:Q4_K_M"),
        ("https://hf.co/owner/repo-gguf:q4_k_m", "hf.co/Owner/Repo-GGUF:Q4_K_M"),
    ],
)
def test_model_is_found_by_every_valid_ollama_name(store: Path, typed: str, found: str) -> None:
    assert ollama.find_in_stores(typed, [store]).name == f"ollama:{found}"


def test_ollama_model_is_its_blob(store: Path, gguf: Path) -> None:
    model = ollama.find_in_stores("llama3.2", [store])
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert model.parts == (store / "blobs" / f"sha256-{digest}",)
    assert (model.digests, model.size, model.source.name) == ((digest,), gguf.stat().st_size, "ollama")
    assert model.projector is None


def test_ollama_model_has_its_projector(store: Path, gguf: Path, tmp_path: Path) -> None:
    sight = write_gguf(tmp_path / "sight.gguf", {"general.architecture": "clip"})
    add_ollama_model(store, "llava/7b", gguf, projector=sight)
    projector = ollama.find_in_stores("llava:7b", [store]).projector
    assert projector is not None
    assert projector.read_bytes() == sight.read_bytes()


def test_template_and_settings_of_ollama_come_with_the_model(store: Path) -> None:
    locations = ModelLocations(store / "cache", store / "data", folders=(store,))
    found = ollama.SOURCE.find(ollama.OllamaReference("llama3.2"), locations)
    assert found is not None
    assert (found.ollama_template, found.ollama_parameters) == ("{{ .Prompt }}", '{"stop":["</s>"]}')
    for blob in (store / "blobs").iterdir():
        if blob.read_bytes() == b"{{ .Prompt }}":
            blob.unlink()  # the model works without it
    found = ollama.SOURCE.find(ollama.OllamaReference("llama3.2"), locations)
    assert found is not None
    assert found.ollama_template == ""


def test_names_that_differ_in_case_only_stay_apart(store: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", extra=b"other")
    add_ollama_model(store, "llama3.2/1B", other)
    if len(list((store / "manifests/registry.ollama.ai/library/llama3.2").iterdir())) < 3:
        pytest.skip("this file system takes them for one name")
    assert ollama.find_in_stores("llama3.2:1B", [store]).size == other.stat().st_size
    assert ollama.find_in_stores("llama3.2:1b", [store]).size != other.stat().st_size


def test_ollama_models_are_sorted_by_name(store: Path) -> None:
    names = ["ann/pet:v1", "hf.co/Owner/Repo-GGUF:Q4_K_M", "llama3.2:1b", "llama3.2:latest"]
    assert [model.name for model in ollama.SOURCE.models_in(store)] == [f"ollama:{name}" for name in names]


def test_unusable_ollama_models_are_not_listed(store: Path, gguf: Path) -> None:
    before = ollama.SOURCE.models_in(store)
    add_ollama_model(store, "cloud/latest", None)
    add_ollama_model(store, "broken/latest", gguf).write_text("{")
    (store / "manifests" / ".DS_Store").write_text("no host")
    (store / "manifests/registry.ollama.ai/library/llama3.2/.partial").write_text("no tag")
    assert ollama.SOURCE.models_in(store) == before


def test_other_tags_of_the_model_are_offered(store: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'llama3\.2:3b' not found") as caught:
        ollama.find_in_stores("llama3.2:3b", [store])
    assert "'ollama:llama3.2:1b' or 'ollama:llama3.2:latest'?" in caught.value.hint
    assert "`ollama pull llama3.2:3b`" in caught.value.hint
    with pytest.raises(ModelNotFoundError) as caught:
        ollama.find_in_stores("llama3.2:3b", [store, store])
    assert caught.value.hint.count("'ollama:llama3.2:1b'") == 1


def test_typo_in_ollama_name_gets_the_nearest_name(store: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        ollama.find_in_stores("lama3.2:1b", [store])
    assert "did you mean 'ollama:llama3.2:1b'" in caught.value.hint


def test_error_without_any_store_names_ollama_models() -> None:
    with pytest.raises(ModelNotFoundError, match="no readable Ollama store") as caught:
        ollama.find_in_stores("llama3.2", [])
    assert "OLLAMA_MODELS" in caught.value.hint


NO_NAMES = [
    "",
    ":",
    "a:",
    ":a",
    "/",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../b:c",
    "a/b/c/d",
    "../../../x/y",
    "/etc/passwd",
]
NO_NAMES += [
    "a\0b",
    "a\nb",
    "a\x1b[31mb",
    "a b",
    "a\\b",
    "a:b:c",
    "C:\\a",
    "-a",
    ".a",
    "a:../b",
    "a@sha256:1",
    "é",
    "a" * 81,
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_invalid_ollama_name_is_refused(store: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is not a valid name") as caught:
        ollama.find_in_stores(name, [store])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../secret",
        "../secret",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 64 + "\n",
        "sha256:" + "A" * 64,
        "",
    ],
)
def test_invalid_digest_never_becomes_a_path(store: Path, digest: str) -> None:
    (store.parent / "secret").write_text("secret")
    path = store / "manifests/registry.ollama.ai/library/llama3.2/latest"
    write_manifest(path, layers=[{"mediaType": KIND + "model", "digest": digest, "size": 6}])
    with pytest.raises(ModelInvalidError, match="is not a valid digest"):
        ollama.find_in_stores("llama3.2", [store])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe\x00",
        b'{"layers":1}',
        b'{"layers":[1]}',
        b'{"layers":[{}]}',
        b'{"layers":[{"mediaType":1,"digest":"x"}]}',
        b"[" * 100_000,
        b'{"layers":' + b" " * (1 << 20) + b"null}",
    ],
)
def test_a_damaged_manifest_ends_in_one_line(store: Path, data: bytes) -> None:
    (store / "manifests/registry.ollama.ai/library/llama3.2/latest").write_bytes(data)
    with pytest.raises(ModelInvalidError, match="is damaged") as caught:
        ollama.find_in_stores("llama3.2", [store])
    assert caught.value.hint == "run `ollama pull llama3.2:latest` to repair it"


def test_folder_instead_of_a_manifest_is_damage(store: Path) -> None:
    (store / "manifests/registry.ollama.ai/library/odd/latest").mkdir(parents=True)
    with pytest.raises(ModelInvalidError, match="is not a file"):
        ollama.find_in_stores("odd", [store])


def test_a_missing_blob_is_named(store: Path) -> None:
    ollama.find_in_stores("llama3.2", [store]).path.unlink()
    with pytest.raises(ModelInvalidError, match=r"sha256-[0-9a-f]{64} is missing"):
        ollama.find_in_stores("llama3.2", [store])


def test_folder_instead_of_a_blob_is_damage(store: Path) -> None:
    path = ollama.find_in_stores("llama3.2", [store]).path
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelInvalidError, match="is not a file"):
        ollama.find_in_stores("llama3.2", [store])


def test_a_blob_of_another_size_is_refused(store: Path) -> None:
    path = ollama.find_in_stores("llama3.2", [store]).path
    path.unlink()  # a hard link to the source
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelInvalidError, match="has 4 bytes, expected"):
        ollama.find_in_stores("llama3.2", [store])


def test_a_blob_may_be_a_link_to_another_disk(store: Path, tmp_path: Path) -> None:
    path = ollama.find_in_stores("llama3.2", [store]).path
    moved = path.rename(tmp_path / "moved")
    try:
        path.symlink_to(moved)
    except OSError:
        pytest.skip("links are not allowed here")
    assert ollama.find_in_stores("llama3.2", [store]).path == path


def test_unreadable_blob_is_a_disk_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DiskError, match="cannot read"):
        ollama.find_in_stores("llama3.2", [store])


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("tensor", "tensor"), "is in safetensors format"),
        (("model", "adapter"), "is an adapter"),
        (("model", "model"), "is split into 2 files"),
        (("license",), "has no model file on this machine"),
    ],
)
def test_unsupported_ollama_model_is_explained(store: Path, gguf: Path, kinds: tuple[str, ...], said: str) -> None:
    add_ollama_model(store, "odd/latest", gguf, kinds=kinds)
    with pytest.raises(ModelInvalidError, match=said) as caught:
        ollama.find_in_stores("odd", [store])
    assert caught.value.hint


def test_cloud_model_of_ollama_is_refused(store: Path, gguf: Path) -> None:
    write_manifest(add_ollama_model(store, "big/cloud", gguf), layers=None)
    with pytest.raises(ModelInvalidError, match="no model file on this machine"):
        ollama.find_in_stores("big:cloud", [store])


def test_valid_copy_in_the_next_store_is_used(store: Path, gguf: Path, tmp_path: Path) -> None:
    add_ollama_model(tmp_path / "second", "llama3.2/latest", gguf)
    (store / "manifests/registry.ollama.ai/library/llama3.2/latest").write_text("{")
    assert ollama.find_in_stores("llama3.2", [store, tmp_path / "second"]).path.is_relative_to(tmp_path / "second")


@pytest.mark.parametrize("written", ["{}", " '{}' ", '"{}"'])
def test_the_environment_names_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setattr(ollama, "_SERVICE_STORES", (store / "..", store, tmp_path / "none"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", written.format(store))
    assert ollama.SOURCE.folders() == [store]


def test_user_store_comes_before_the_service_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: Path
) -> None:
    add_ollama_model(tmp_path / ".ollama/models", "x/latest", gguf)
    monkeypatch.setattr(ollama, "_SERVICE_STORES", (store,))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert ollama.SOURCE.folders() == [tmp_path / ".ollama/models", *([store] if os.name != "nt" else [])]


def test_a_user_without_a_home_has_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(ollama, "_SERVICE_STORES", ())
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert ollama.SOURCE.folders() == []


def test_test_store_equals_a_real_ollama_store(store: Path, gguf: Path) -> None:
    written = json.loads((store / "manifests/registry.ollama.ai/library/llama3.2/1b").read_bytes())
    assert set(written) == {"schemaVersion", "mediaType", "config", "layers"}
    assert add_blob(store, gguf, "model") == written["layers"][0]
