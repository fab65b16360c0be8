"""The inventory: every model on this machine has a name of its own that a lookup resolves."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.models import notes
from llmcli.models.hub import cache
from llmcli.models.hub.cache import PulledRevision
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.installed import installed_model, inventory, inventory_with_aliases
from llmcli.models.locations import STARTER_SHA256, ModelLocations, starter_path
from llmcli.models.lookup import find_model_file
from llmcli.models.sources.source import InstalledModel
from tests.models.gguf_writer import MODEL, STRING, Typed, write_gguf
from tests.models.hub_folder import NEW, OLD, REPO, THIRD, add_file, add_parts, sha256, touch_commit
from tests.models.stores import add_lmstudio_model, add_ollama_model


@pytest.fixture
def locations(tmp_path: Path) -> ModelLocations:
    return ModelLocations(tmp_path / "cache", tmp_path / "data", hub=tmp_path / "hub")


def inventory_of(locations: ModelLocations) -> list[InstalledModel]:
    """The inventory, of which every name is unique and leads back to the very file."""
    items = inventory(locations)
    assert len({item.name for item in items}) == len(items)
    for item in items:
        assert [part.resolve() for part in find_model_file(item.name, locations).parts] == [
            part.resolve() for part in item.parts
        ]
        assert installed_model(find_model_file(item.name, locations), locations) == item
    return items


def names(locations: ModelLocations) -> list[str]:
    return [item.name for item in inventory_of(locations)]


def pulled(locations: ModelLocations, reference: str, path: str, data: bytes, commit: str, time: float = 1.0) -> None:
    file = RepoFile(path, len(data), sha256(data))
    cache.save_revision(locations.data_dir, PulledRevision(reference, REPO, commit, (file,), None, "", time))


def test_no_models_give_an_empty_inventory(locations: ModelLocations) -> None:
    assert inventory(locations) == []


def test_starter_comes_first_with_its_checksum(locations: ModelLocations, monkeypatch: pytest.MonkeyPatch) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x")
    path = starter_path(locations.cache_dir)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"small")
    assert names(locations) == [f"{REPO}:Q4_K_M"]  # of another size it is not the starter
    monkeypatch.setattr("llmcli.models.locations.STARTER_SIZE", 5)
    first, second = inventory_of(locations)
    assert (first.name, first.source.name, first.digests, first.source.is_removable) == (
        "starter",
        "starter",
        (STARTER_SHA256,),
        True,
    )
    assert second.name == f"{REPO}:Q4_K_M"


def test_hub_model_is_named_by_unique_quantization(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"four")
    add_file(locations.hub, "m-UD-Q4_K_M.gguf", b"dynamic")
    add_file(locations.hub, "one-Q8_0.gguf", b"8")
    add_file(locations.hub, "sub/two-Q8_0.gguf", b"88")
    add_file(locations.hub, "plain.gguf", b"p")
    assert sorted(names(locations)) == [
        f"{REPO}/one-Q8_0.gguf",
        f"{REPO}/plain.gguf",
        f"{REPO}/sub/two-Q8_0.gguf",
        f"{REPO}:Q4_K_M",
        f"{REPO}:UD-Q4_K_M",
    ]


def test_item_has_size_checksums_and_last_use(locations: ModelLocations) -> None:
    parts = add_parts(locations.hub, "m-Q4_K_M", 3)
    notes.update(locations.data_dir, parts[0], used=1e9)
    (item,) = inventory_of(locations)
    assert item.parts == tuple(parts)
    assert item.size == sum(len(part.name) for part in parts)
    assert item.digests == tuple(sha256(part.name.encode()) for part in parts)
    assert item.last_used == 1e9


def test_record_of_the_pull_has_the_sha256_of_a_copy(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x", plain=True)
    assert inventory(locations)[0].digests == ("",)
    pulled(locations, REPO, "m-Q4_K_M.gguf", b"x", NEW)
    assert inventory_of(locations)[0].digests == (sha256(b"x"),)


def test_the_same_file_at_several_commits_is_one_model(locations: ModelLocations) -> None:
    for commit in (OLD, NEW, THIRD):
        add_file(locations.hub, "m-Q4_K_M.gguf", b"same", commit, ref="main" if commit == NEW else "")
    assert names(locations) == [f"{REPO}:Q4_K_M"]


def test_other_bytes_at_another_commit_are_another_model(locations: ModelLocations) -> None:
    for commit, data in ((OLD, b"first"), (NEW, b"second"), (THIRD, b"first")):
        add_file(locations.hub, "m-Q4_K_M.gguf", data, commit, ref="main" if commit == NEW else "")
    touch_commit(locations.hub, OLD, age=1000)
    assert names(locations) == [f"{REPO}:Q4_K_M", f"{REPO}:Q4_K_M@{THIRD[:8]}"]


def test_commits_with_same_prefix_have_full_names(locations: ModelLocations) -> None:
    for commit, data in ((NEW, b"first"), ("c" * 8 + "0" * 32, b"second"), ("c" * 8 + "1" * 32, b"third")):
        add_file(locations.hub, "m-Q4_K_M.gguf", data, commit, ref="main" if commit == NEW else "")
    assert len(names(locations)) == 3


@pytest.mark.parametrize("reference", [REPO, f"{REPO}:Q4_K_M", f"{REPO}:Q4_K_M@v1"])
def test_short_name_is_the_pulled_commit(locations: ModelLocations, reference: str) -> None:
    mine = add_file(locations.hub, "m-Q4_K_M.gguf", b"mine", OLD)
    add_file(locations.hub, "m-Q4_K_M.gguf", b"moved", NEW, ref="main")
    pulled(locations, reference, "m-Q4_K_M.gguf", b"mine", OLD)
    by_name = {item.name: item.path for item in inventory_of(locations)}
    assert by_name[f"{REPO}:Q4_K_M"] == mine
    assert f"{REPO}:Q4_K_M@{NEW[:8]}" in by_name


def test_record_of_exact_name_comes_before_newer_record(locations: ModelLocations) -> None:
    mine = add_file(locations.hub, "m-Q4_K_M.gguf", b"mine", OLD)
    add_file(locations.hub, "m-Q4_K_M.gguf", b"later", NEW)
    add_file(locations.hub, "m-Q8_0.gguf", b"eight", NEW)
    pulled(locations, f"{REPO}:Q4_K_M", "m-Q4_K_M.gguf", b"mine", OLD, time=1.0)
    pulled(locations, f"{REPO}:Q8_0", "m-Q8_0.gguf", b"eight", NEW, time=2.0)
    assert {item.name: item.path for item in inventory_of(locations)}[f"{REPO}:Q4_K_M"] == mine


def test_same_file_name_in_two_folders_is_two_models(locations: ModelLocations) -> None:
    add_file(locations.hub, "sub/m.gguf", b"below", NEW, ref="main")
    add_file(locations.hub, "m.gguf", b"above", OLD)
    assert sorted(names(locations)) == [f"{REPO}/m.gguf", f"{REPO}/sub/m.gguf"]


def test_two_names_for_the_same_bytes_are_two_models(locations: ModelLocations) -> None:
    add_file(locations.hub, "one.gguf", b"same")
    add_file(locations.hub, "two.gguf", b"same")
    assert names(locations) == [f"{REPO}/one.gguf", f"{REPO}/two.gguf"]


@pytest.mark.parametrize("path", ["a@b.gguf", "two words-Q4_K_M.gguf", "m.GGUF", "x.gguf.gguf", "é.gguf"])
def test_unusual_hub_file_name_can_be_typed(locations: ModelLocations, path: str) -> None:
    add_file(locations.hub, path, b"x")
    inventory_of(locations)


def test_a_repository_with_the_name_of_a_file_can_be_typed(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x", repo="owner/x.gguf")
    add_file(locations.hub, "plain.gguf", b"y", repo="owner/x.gguf")
    assert sorted(names(locations)) == ["owner/x.gguf/plain.gguf", "owner/x.gguf:Q4_K_M"]


def test_copies_without_checksum_at_two_commits_are_two_models(locations: ModelLocations) -> None:
    for commit, data in ((OLD, b"one"), (NEW, b"two")):
        add_file(locations.hub, "m-Q4_K_M.gguf", data, commit, ref="main" if commit == NEW else "", plain=True)
    assert names(locations) == [f"{REPO}:Q4_K_M", f"{REPO}:Q4_K_M@{OLD[:8]}"]


def test_file_from_a_url_is_listed_by_its_path(locations: ModelLocations) -> None:
    path = locations.cache_dir / "urls" / "0123" / "x.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    (item,) = inventory_of(locations)
    assert (item.name, item.source.name, item.size, item.source.is_removable) == (str(path), "url", 3, True)


def test_models_of_other_programs_are_not_removable(locations: ModelLocations, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m-Q4_K_M.gguf")
    add_ollama_model(tmp_path / "store", "phi/latest", source)
    add_lmstudio_model(tmp_path / "studio", REPO, source)
    items = inventory_of(replace(locations, folders=(tmp_path / "store", tmp_path / "studio")))
    assert [(item.name, item.source.name, item.source.is_removable) for item in items] == [
        ("ollama:phi:latest", "ollama", False),
        ("m-Q4_K_M", "folder", False),
    ]
    assert items[0].digests == (sha256(source.read_bytes()),)


def test_same_name_in_imported_folders_is_two_models(locations: ModelLocations, tmp_path: Path) -> None:
    for place in ("a/x", "a/y", "b"):
        (tmp_path / place).mkdir(parents=True)
        write_gguf(tmp_path / place / "m.gguf")
    folders = (tmp_path / "a", tmp_path / "b")
    found = names(replace(locations, folders=folders))
    assert found == ["m", str(tmp_path / "a/y/m.gguf"), str(tmp_path / "b/m.gguf")]


def test_same_model_in_two_stores_is_two_models(locations: ModelLocations, tmp_path: Path) -> None:
    for number, store in enumerate(("one", "two")):
        source = write_gguf(tmp_path / f"{store}.gguf", {**MODEL, "general.name": str(number)})
        add_ollama_model(tmp_path / store, "phi/latest", source)
    assert len(inventory_of(replace(locations, folders=(tmp_path / "one", tmp_path / "two")))) == 2


@pytest.mark.parametrize(
    "name", ["starter", "mine", "x.gguf", "a:b", "hf.co", "~x", "qwen3-4b", "a b", "ollama:x", "a\x1bb", "é", "a@b"]
)
def test_unusual_name_in_imported_folder_is_listed_by_path(
    locations: ModelLocations, tmp_path: Path, name: str
) -> None:
    (tmp_path / "m").mkdir()
    write_gguf(tmp_path / "m" / f"{name}.gguf")
    assert len(inventory_of(replace(locations, folders=(tmp_path / "m",), aliases={"mine": REPO}))) == 1


def test_a_folder_imported_twice_lists_its_models_once(locations: ModelLocations, tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    write_gguf(tmp_path / "m" / "deep" / "x.gguf")
    assert names(replace(locations, folders=(tmp_path / "m", tmp_path / "m" / "deep"))) == ["x"]


def test_file_outside_all_folders_is_a_new_item(locations: ModelLocations, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m-Q8_0.gguf")
    item = installed_model(find_model_file(str(path), locations), locations)
    assert (item.name, item.source.name, item.size, item.digests) == (str(path), "file", path.stat().st_size, ("",))
    assert (item.quantization, item.source.is_removable) == ("Q8_0", False)


def test_quantization_comes_from_header_if_not_in_name(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "plain.gguf", b"")
    write_gguf(link.resolve(), {**MODEL, "general.file_type": 15, "llama.context_length": 2048})
    (item,) = inventory(locations)
    assert (item.quantization, item.summary.n_ctx_train) == ("Q4_K_M", 2048)


def test_aliases_are_listed_with_the_models_that_they_name(locations: ModelLocations, tmp_path: Path) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x")
    file = write_gguf(tmp_path / "q05.gguf")
    names = {"small": f"{REPO}:Q4_K_M", "tiny": REPO, "own": str(file), "gone": str(tmp_path / "none.gguf")}
    locations = replace(locations, aliases={**names, "far": "other/far-GGUF"})
    hub_item, file_item = inventory_with_aliases(locations)
    assert (hub_item.name, hub_item.aliases) == (f"{REPO}:Q4_K_M", ("small", "tiny"))
    assert (file_item.name, file_item.source.name, file_item.aliases) == (str(file), "file", ("own",))
    assert [item.aliases for item in inventory(locations)] == [()]


def test_without_aliases_the_inventory_is_unchanged(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x")
    assert inventory_with_aliases(locations) == inventory(locations)


def test_a_name_without_quantization_gets_it_from_the_header(locations: ModelLocations, tmp_path: Path) -> None:
    """A file whose file type comes after its vocabulary, as some programs write it."""
    (tmp_path / "models").mkdir()
    vocabulary = Typed(STRING, [f"token {number}" for number in range(20_000)])
    facts = {**MODEL, "tokenizer.ggml.tokens": vocabulary, "general.file_type": 15}
    write_gguf(tmp_path / "models" / "gemma3-270m.gguf", facts)
    (item,) = inventory(replace(locations, folders=(tmp_path / "models",)))
    assert (item.name, item.quantization) == ("gemma3-270m", "Q4_K_M")
