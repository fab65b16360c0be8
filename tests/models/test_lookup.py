"""find_model_file: files, the starter, the cache of the Hub, imported folders, and hints for unknown names."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.errors import ModelInvalidError, ModelNotFoundError
from llmcli.models.hub import cache
from llmcli.models.hub.cache import PulledRevision
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.locations import ModelLocations, ModelNotDownloadedError
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference
from llmcli.models.sources.registry import parse
from llmcli.models.sources.url import UrlReference
from tests.models.gguf_writer import write_gguf
from tests.models.hub_folder import NEW, OLD, REPO, add_file, add_parts, set_ref, sha256, touch_commit
from tests.models.stores import add_lmstudio_model, add_ollama_model


@pytest.fixture
def locations(tmp_path: Path) -> ModelLocations:
    return ModelLocations(tmp_path / "cache", tmp_path / "data", hub=tmp_path / "hub")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds two models, one of them split."""
    place = tmp_path / "here"
    (place / "sub").mkdir(parents=True)
    for name in ("qwen-0.5b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"):
        write_gguf(place / name)
    (place / "notes.txt").write_text("no model")
    monkeypatch.chdir(place)
    return place


def error_of(text: str, locations: ModelLocations) -> tuple[str, str]:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model_file(text, locations)
    assert "\n" not in str(caught.value) + caught.value.hint
    return str(caught.value), caught.value.hint


def pulled(locations: ModelLocations, reference: str, path: str, data: bytes, commit: str, time: float = 1.0) -> None:
    """Note that `llmcli pull` brought this file."""
    file = RepoFile(path, len(data), sha256(data))
    cache.save_revision(locations.data_dir, PulledRevision(reference, REPO, commit, (file,), None, "", time))


@pytest.mark.parametrize("form", ["qwen-0.5b.gguf", "./qwen-0.5b.gguf", "sub/../qwen-0.5b.gguf"])
def test_path_is_found_in_any_form(folder: Path, locations: ModelLocations, form: str) -> None:
    model = find_model_file(form, locations)
    assert model.path == folder / "qwen-0.5b.gguf"
    assert (model.parts, model.name, model.trusted) == ((model.path,), "qwen-0.5b", False)


def test_tilde_in_model_path_is_the_home_folder(
    folder: Path, locations: ModelLocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert find_model_file("~/qwen-0.5b.gguf", locations).path == folder / "qwen-0.5b.gguf"


def test_path_of_a_later_part_finds_the_whole_model(folder: Path, locations: ModelLocations) -> None:
    model = find_model_file("big-00002-of-00002.gguf", locations)
    assert model.path.name == "big-00001-of-00002.gguf"
    assert (len(model.parts), model.name) == (2, "big")


def test_linked_file_keeps_the_name_of_the_link(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "x.gguf", b"x")
    assert find_model_file(str(link), locations).path == link


def test_file_without_gguf_suffix_is_found(folder: Path, locations: ModelLocations) -> None:
    assert find_model_file("notes.txt", locations).path == folder / "notes.txt"


def test_a_file_comes_before_a_repository_of_the_same_name(folder: Path, locations: ModelLocations) -> None:
    add_file(locations.hub, "x.gguf", b"x", repo="sub/model")
    write_gguf(folder / "sub" / "model")
    assert find_model_file("sub/model", locations).path == folder / "sub" / "model"


def test_error_for_a_folder_lists_its_models(folder: Path, locations: ModelLocations) -> None:
    message, hint = error_of(str(folder), locations)
    assert "is a folder, not a model" in message
    assert "big-00001-of-00002.gguf, qwen-0.5b.gguf" in hint


def test_error_for_a_folder_with_many_models_is_short(folder: Path, locations: ModelLocations) -> None:
    for number in range(7):
        write_gguf(folder / "sub" / f"m{number}.gguf")
    assert error_of("sub", locations)[1].endswith("m4.gguf and 2 more")


def test_folder_without_models_is_an_error(folder: Path, locations: ModelLocations) -> None:
    assert "a folder without .gguf files" in error_of("./sub", locations)[0]


def test_folder_without_models_does_not_hide_a_hub_model(folder: Path, locations: ModelLocations) -> None:
    (folder / "owner" / "repo-GGUF").mkdir(parents=True)
    link = add_file(locations.hub, "x.gguf", b"x")
    assert find_model_file(REPO, locations).path == link


@pytest.mark.parametrize("typo", ["qwen-0.5.gguf", "./QWEN-0.5b.gguf", "qwen-0.5b", "qwen0.5b.guff"])
def test_a_typo_in_a_path_is_answered_with_the_nearest_name(folder: Path, locations: ModelLocations, typo: str) -> None:
    if (folder / typo).exists():
        pytest.skip("this file system does not tell capitals apart")
    assert error_of(typo, locations)[1] == "did you mean 'qwen-0.5b.gguf'?"


@pytest.mark.parametrize(
    ("typo", "name"), [("startr", "starter"), ("qwen3-4", "qwen3-4b"), ("GEMMA-3-4B-it", "gemma-3-4b"), ("mne", "mine")]
)
def test_a_typo_in_a_name_is_answered_with_the_nearest_name(locations: ModelLocations, typo: str, name: str) -> None:
    hint = error_of(typo, replace(locations, aliases={"mine": REPO}))[1]
    assert hint.startswith(f"did you mean '{name}'")


def test_an_ollama_model_is_suggested_instead_of_a_download(
    locations: ModelLocations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_ollama_model(tmp_path / "ollama", "qwen2.5-coder/0.5b", write_gguf(tmp_path / "x.gguf"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    message, hint = error_of("qwen2.5-coder", locations)
    assert message == "model 'qwen2.5-coder' not found"
    assert hint == "did you mean 'ollama:qwen2.5-coder:0.5b'?"
    similar = error_of("qwen2.5-code", locations)[1]
    assert similar.startswith("did you mean 'ollama:qwen2.5-coder:0.5b' (on this machine) or ")
    assert similar.endswith("'qwen2.5-coder-7b' (4.7 GB to download)?")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("llama3.2", "did you mean 'ollama:llama3.2'?"),
        ("llama3.2:latest", "did you mean 'ollama:llama3.2'?"),
        ("llama3.2:1b", "did you mean 'ollama:llama3.2:1b'?"),
        ("llama3.2:3b", "did you mean 'ollama:llama3.2:latest'?"),
        ("qwen9", "did you mean 'ollama:qwen9:8b'?"),
        ("ann/pet:v1", "did you mean 'ollama:ann/pet:v1'? if not, download it with `llmcli pull ann/pet:v1`"),
        ("ann/pet", "did you mean 'ollama:ann/pet:v1'? if not, download it with `llmcli pull ann/pet`"),
    ],
)
def test_name_of_an_ollama_model_gets_its_reference(
    locations: ModelLocations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, hint: str
) -> None:
    for name in ("llama3.2/1b", "llama3.2/latest", "qwen9/8b", "registry.ollama.ai/ann/pet/v1"):
        add_ollama_model(tmp_path / "ollama", name, write_gguf(tmp_path / "x.gguf"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    assert error_of(typed, locations)[1] == hint


def test_the_tag_latest_is_understood_for_other_models(locations: ModelLocations, tmp_path: Path) -> None:
    assert find_model_file("starter:latest", locations).name == "starter"
    assert str(parse("owner/repo:latest")) == "owner/repo"
    assert str(parse("ollama:llama3.2:latest")) == "ollama:llama3.2:latest"
    (tmp_path / "mine").mkdir()
    path = write_gguf(tmp_path / "mine" / "griffin-Q8_0.gguf")
    assert find_model_file("griffin-Q8_0:latest", replace(locations, folders=(tmp_path / "mine",))).path == path


def test_a_cached_model_and_an_imported_one_are_suggested(locations: ModelLocations, tmp_path: Path) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x", repo="owner/Phantom-GGUF")
    (tmp_path / "mine").mkdir()
    write_gguf(tmp_path / "mine" / "griffin-Q8_0.gguf")
    locations = replace(locations, folders=(tmp_path / "mine",))
    assert error_of("phantom-ggu", locations)[1] == "did you mean 'owner/Phantom-GGUF'?"
    assert error_of("grifin-Q8_0", locations)[1] == "did you mean 'griffin-Q8_0'?"


def test_unknown_name_gets_a_hint_to_the_lists(locations: ModelLocations) -> None:
    assert "llmcli models list" in error_of("zzzzzz", locations)[1]


def test_a_missing_folder_is_named(folder: Path, locations: ModelLocations) -> None:
    message, hint = error_of("none/x.gguf", locations)
    assert f"(the folder {folder / 'none'} does not exist)" in message
    assert "starter" in hint


@pytest.mark.parametrize("form", ["", "   ", "a\0b"])
def test_an_empty_reference_is_refused(folder: Path, locations: ModelLocations, form: str) -> None:
    assert "empty" in error_of(form, locations)[0]


def test_very_long_reference_is_refused_in_one_line(folder: Path, locations: ModelLocations) -> None:
    assert "too long" in error_of("x" * 100_000, locations)[0]


def test_error_names_the_missing_part(folder: Path, locations: ModelLocations) -> None:
    (folder / "big-00002-of-00002.gguf").unlink()
    assert "big-00002-of-00002.gguf is missing" in error_of("big-00001-of-00002.gguf", locations)[0]


def test_starter_has_its_path_before_the_download(locations: ModelLocations) -> None:
    model = find_model_file("starter", locations)
    assert model.path.parent == locations.cache_dir / "starter"
    assert (model.name, model.trusted, model.parts) == ("starter", True, (model.path,))


def test_file_named_starter_is_found_by_its_path(folder: Path, locations: ModelLocations) -> None:
    write_gguf(folder / "starter")
    assert find_model_file(f".{os.sep}starter", locations).path == folder / "starter"
    assert find_model_file("starter", locations).trusted


def test_alias_names_file_reference_name_or_starter(folder: Path, locations: ModelLocations) -> None:
    link = add_file(locations.hub, "x.gguf", b"x")
    aliases = {"mine": str(folder / "qwen-0.5b.gguf"), "ours": REPO, "small": "starter", "two": "ours"}
    locations = replace(locations, aliases=aliases)
    assert find_model_file("mine", locations).path == folder / "qwen-0.5b.gguf"
    assert find_model_file("ours", locations).path == link
    assert find_model_file("small", locations).trusted
    assert "model 'ours' not found" in error_of("two", locations)[0]  # followed once


def test_aliases_that_name_each_other_are_named_in_the_error(locations: ModelLocations) -> None:
    message, hint = error_of("a", replace(locations, aliases={"a": "b", "b": "a"}))[:2]
    assert (message, hint[:26]) == ("model 'b' not found", "'b' is an alias of 'a'; an")


def test_alias_can_replace_catalog_name_and_starter(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "x.gguf", b"x")
    for name in ("qwen3-4b", "starter"):
        assert find_model_file(name, replace(locations, aliases={name: REPO})).path == link


@pytest.mark.parametrize("plain", [False, True], ids=["links", "copies"])
@pytest.mark.parametrize(
    "form",
    ["", ":Q4_K_M", ":q4_k_m", "/sub/m-Q4_K_M.gguf", "/m-Q4_K_M.gguf", "@main", f":Q4_K_M@{NEW}", f"@{NEW[:7]}"],
)
def test_hub_cache_model_is_found_in_every_form(locations: ModelLocations, form: str, plain: bool) -> None:
    link = add_file(locations.hub, "sub/m-Q4_K_M.gguf", b"x", ref="main", plain=plain)
    model = find_model_file(REPO + form, locations)
    assert (model.path, model.parts, model.name, model.trusted) == (link, (link,), "m-Q4_K_M", False)
    assert find_model_file(f"https://huggingface.co/{REPO}{form}", locations) == model


def test_default_or_named_quantization_is_found(locations: ModelLocations) -> None:
    for quantization in ("Q8_0", "Q4_K_M", "Q2_K"):
        add_file(locations.hub, f"m-{quantization}.gguf", quantization.encode())
    assert find_model_file(REPO, locations).name == "m-Q4_K_M"
    assert find_model_file(f"{REPO}:Q8_0", locations).name == "m-Q8_0"


def test_quantization_is_found_at_any_commit(locations: ModelLocations) -> None:
    old = add_file(locations.hub, "m-Q8_0.gguf", b"8", OLD)
    add_file(locations.hub, "m-Q4_K_M.gguf", b"4", NEW, ref="main")
    assert find_model_file(f"{REPO}:Q8_0", locations).path == old


def test_exact_quantization_comes_before_similar_one(locations: ModelLocations) -> None:
    old = add_file(locations.hub, "m-Q4_K_M.gguf", b"4", OLD)
    add_file(locations.hub, "m-UD-Q4_K_M.gguf", b"ud", NEW, ref="main")
    assert find_model_file(f"{REPO}:Q4_K_M", locations).path == old
    assert find_model_file(f"{REPO}:UD-Q4_K_M", locations).name == "m-UD-Q4_K_M"


def test_a_split_model_of_the_cache_has_all_its_parts(locations: ModelLocations) -> None:
    parts = add_parts(locations.hub, "Q4_K_M/m-Q4_K_M", 3)
    assert find_model_file(REPO, locations).parts == tuple(parts)
    assert find_model_file(f"{REPO}/Q4_K_M/{parts[1].name}", locations).parts == tuple(parts)


def test_split_model_without_a_part_is_not_found(locations: ModelLocations) -> None:
    add_parts(locations.hub, "m-Q4_K_M", 3, leave_out=[2])
    with pytest.raises(ModelNotDownloadedError):
        find_model_file(f"{REPO}:Q4_K_M", locations)


def test_broken_link_in_the_cache_is_not_a_model(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "m-Q4_K_M.gguf", b"x")
    os.unlink(os.path.realpath(link))
    with pytest.raises(ModelNotDownloadedError):
        find_model_file(REPO, locations)


def test_commit_of_main_comes_before_newer_commits(locations: ModelLocations) -> None:
    main = add_file(locations.hub, "m-Q4_K_M.gguf", b"main", OLD, ref="main")
    add_file(locations.hub, "m-Q4_K_M.gguf", b"other", NEW)
    touch_commit(locations.hub, OLD, age=1000)
    assert find_model_file(REPO, locations).path == main


def test_without_main_the_newest_commit_is_taken(locations: ModelLocations) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"old", NEW)
    newest = add_file(locations.hub, "m-Q4_K_M.gguf", b"new", OLD)
    touch_commit(locations.hub, NEW, age=1000)
    assert find_model_file(REPO, locations).path == newest


@pytest.mark.parametrize("asked", [REPO, f"{REPO}:Q4_K_M", f"{REPO}/m-Q4_K_M.gguf"])
def test_pulled_model_stays_at_its_commit(locations: ModelLocations, asked: str) -> None:
    mine = add_file(locations.hub, "m-Q4_K_M.gguf", b"mine", OLD)
    moved = add_file(locations.hub, "m-Q4_K_M.gguf", b"moved", NEW, ref="main")
    pulled(locations, f"{REPO}:Q4_K_M", "m-Q4_K_M.gguf", b"mine", OLD)
    assert find_model_file(asked, locations).path == mine
    assert find_model_file(f"{REPO}@main", locations).path == moved


def test_each_reference_has_a_commit_of_its_own(locations: ModelLocations) -> None:
    for reference, data, commit in ((f"{REPO}:Q4_K_M", b"first", OLD), (f"{REPO}@dev", b"second", NEW)):
        add_file(locations.hub, "m-Q4_K_M.gguf", data, commit)
        pulled(locations, reference, "m-Q4_K_M.gguf", data, commit, time=2.0 if commit == NEW else 1.0)
    assert find_model_file(f"{REPO}:Q4_K_M", locations).path.read_bytes() == b"first"
    assert find_model_file(f"{REPO}@dev", locations).path.read_bytes() == b"second"


def test_record_of_missing_file_is_ignored(locations: ModelLocations) -> None:
    pulled(locations, REPO, "m-Q4_K_M.gguf", b"gone", OLD)
    there = add_file(locations.hub, "m-Q4_K_M.gguf", b"there", NEW)
    assert find_model_file(REPO, locations).path == there


@pytest.mark.parametrize("revision", ["dev", "refs/pr/1", OLD, OLD[:8]])
def test_revision_finds_only_its_commit(locations: ModelLocations, revision: str) -> None:
    old = add_file(locations.hub, "m-Q4_K_M.gguf", b"old", OLD, ref="dev")
    add_file(locations.hub, "m-Q4_K_M.gguf", b"new", NEW, ref="main")
    set_ref(locations.hub, "refs/pr/1", OLD)
    assert find_model_file(f"{REPO}@{revision}", locations).path == old


@pytest.mark.parametrize("revision", ["v9", "c" * 40, OLD[:6], "../../main"])
def test_unknown_revision_is_not_found(locations: ModelLocations, revision: str) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"old", OLD, ref="main")
    error_of(f"{REPO}@{revision}", locations)


def test_catalog_name_finds_its_repository(locations: ModelLocations) -> None:
    link = add_file(locations.hub, "Qwen3-8B-Q4_K_M.gguf", b"q", repo="unsloth/Qwen3-8B-GGUF")
    assert find_model_file("qwen3-8b", locations).path == link
    assert find_model_file("Qwen3-8B", locations).path == link


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/other:Q8_0", HubReference("owner/other", "Q8_0")),
        (f"{REPO}:Q8_0", HubReference(REPO, "Q8_0")),
        (f"{REPO}@v2", HubReference(REPO, revision="v2")),
        ("qwen3-4b", HubReference("unsloth/Qwen3-4B-Instruct-2507-GGUF", "Q4_K_M")),
        ("https://example.org/x.gguf", UrlReference("https://example.org/x.gguf")),
        ("mine", HubReference("owner/other")),
    ],
)
def test_missing_model_error_names_the_pull_command(
    locations: ModelLocations, text: str, reference: HubReference
) -> None:
    add_file(locations.hub, "m-Q4_K_M.gguf", b"x")
    with pytest.raises(ModelNotDownloadedError) as caught:
        find_model_file(text, replace(locations, aliases={"mine": "owner/other"}))
    assert caught.value.reference == reference
    assert f"`llmcli pull {reference}`" in caught.value.hint


@pytest.mark.parametrize("text", ["phi", "no.gguf", "ollama:phi", "./owner/repo"])
def test_unknown_model_error_offers_no_download(folder: Path, locations: ModelLocations, text: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model_file(text, locations)
    assert not isinstance(caught.value, ModelNotDownloadedError)


@pytest.mark.parametrize("form", [f"{REPO}:Q4_K_M", f"{REPO}/m-Q4_K_M.gguf", "m-Q4_K_M", "M-q4_k_m"])
def test_lm_studio_model_is_found_by_repo_and_name(locations: ModelLocations, tmp_path: Path, form: str) -> None:
    source = write_gguf(tmp_path / "m-Q4_K_M.gguf")
    path = add_lmstudio_model(tmp_path / "studio", REPO, source)
    assert find_model_file(form, replace(locations, folders=(tmp_path / "studio",))).path == path


def test_a_revision_is_never_answered_from_an_imported_folder(locations: ModelLocations, tmp_path: Path) -> None:
    add_lmstudio_model(tmp_path / "studio", REPO, write_gguf(tmp_path / "m-Q4_K_M.gguf"))
    with pytest.raises(ModelNotDownloadedError):
        find_model_file(f"{REPO}@v1", replace(locations, folders=(tmp_path / "studio",)))


def test_a_model_of_an_imported_ollama_store_is_found(locations: ModelLocations, tmp_path: Path) -> None:
    add_ollama_model(tmp_path / "store", "phi/latest", write_gguf(tmp_path / "x.gguf"))
    model = find_model_file("ollama:phi", replace(locations, folders=(tmp_path / "store",)))
    assert (model.path.parent, model.name) == (tmp_path / "store" / "blobs", "ollama:phi")


def test_damaged_store_entry_is_an_invalid_model(locations: ModelLocations, tmp_path: Path) -> None:
    add_ollama_model(tmp_path / "store", "phi/latest", write_gguf(tmp_path / "x.gguf")).write_text("{")
    with pytest.raises(ModelInvalidError, match="damaged"):
        find_model_file("ollama:phi", replace(locations, folders=(tmp_path / "store",)))
