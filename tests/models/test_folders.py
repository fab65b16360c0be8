"""Models in folders: which files are models, their names, and what is skipped."""

import time
from pathlib import Path

import pytest

from llmcli.errors import ModelNotFoundError
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import HubReference
from llmcli.models.sources.folder import MAX_DEPTH, skipped_files
from llmcli.models.sources.lmstudio import LmStudio
from llmcli.models.sources.registry import find_by_name, models_in_folder
from tests.models.gguf_writer import write_gguf
from tests.models.stores import add_lmstudio_model, add_ollama_model


def imported(*folders: Path) -> ModelLocations:
    nowhere = folders[0] / "nowhere"
    return ModelLocations(nowhere, nowhere, hub=nowhere, folders=folders)


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where LM Studio may be, and nothing else is."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "models"
    place.mkdir()
    return place


def add_files(folder: Path, *names: str) -> list[Path]:
    """Files with these names and the first bytes of a model; each has as many bytes as its name has letters."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF".ljust(len(path.name), b"x"))
    return paths


def find_in_studio(reference: HubReference, *folders: Path) -> ModelFile | None:
    return LmStudio().find(reference, ModelLocations(Path("cache"), Path("data"), folders=folders))


def names(folder: Path) -> list[str]:
    return [model.name for model in models_in_folder(folder)]


def add_link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("links are not allowed here")


def test_models_are_found_at_every_level_and_sorted_by_name(folder: Path) -> None:
    add_files(folder, "b.gguf", "deep/er/a.gguf", "C.GGUF", "notes.txt", "d.gguf.part", ".e.gguf", "._b.gguf")
    assert names(folder) == ["a", "b", "C"]


def test_found_ollama_model_has_file_and_size(folder: Path) -> None:
    (path,) = add_files(folder, "small-Q8_0.gguf")
    (model,) = models_in_folder(folder)
    assert (model.name, model.source.name, model.parts, model.size) == ("small-Q8_0", "folder", (path,), 15)
    assert (model.path, model.digests, model.projector) == (path, ("",), None)


def test_split_model_in_a_folder_is_one_model(folder: Path) -> None:
    parts = add_files(folder, "big-00001-of-00003.gguf", "big-00002-of-00003.gguf", "big-00003-of-00003.gguf")
    (model,) = models_in_folder(folder)
    assert (model.name, model.parts, model.size, model.digests) == ("big", tuple(parts), 69, ("", "", ""))


def test_model_with_a_missing_part_is_skipped(folder: Path) -> None:
    add_files(
        folder,
        "big-00001-of-00003.gguf",
        "big-00003-of-00003.gguf",
        "odd-00003-of-00002.gguf",
        "odd-00000-of-00002.gguf",
    )
    assert names(folder) == []


def test_file_that_is_not_gguf_is_skipped_and_named(folder: Path) -> None:
    add_files(folder, "good.gguf", "two-00001-of-00002.gguf", "mmproj-f16.gguf", "imatrix.gguf", "notes.txt")
    (folder / "page.gguf").write_text("<html>not found</html>")
    (folder / "empty.gguf").touch()
    assert names(folder) == ["good"]
    skipped = skipped_files(folder, models_in_folder(folder))
    assert [path.name for path in skipped] == ["empty.gguf", "page.gguf", "two-00001-of-00002.gguf"]


def test_projector_belongs_to_the_models_in_its_folder(folder: Path) -> None:
    add_files(folder, "see/eye.gguf", "see/mmproj-f16.gguf", "blind.gguf")
    found = {model.name: model.projector for model in models_in_folder(folder)}
    assert found == {"blind": None, "eye": folder / "see/mmproj-f16.gguf"}


@pytest.mark.parametrize(
    ("projectors", "taken"),
    [
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-aya-f16.gguf", "mmproj-gemma-3-4b-it-f32.gguf"], "mmproj-gemma-3-4b-it-f32.gguf"),
        (["aya.mmproj-f16.gguf", "gemma-3-4b-it.mmproj-Q8_0.gguf"], "gemma-3-4b-it.mmproj-Q8_0.gguf"),
        (["mmproj.gguf", "mmproj_f16.gguf"], "mmproj_f16.gguf"),
    ],
)
def test_best_matching_projector_is_used(folder: Path, projectors: list[str], taken: str) -> None:
    add_files(folder, "gemma-3-4b-it-Q4_K_M.gguf", *projectors)
    (model,) = models_in_folder(folder)
    assert model.projector == folder / taken


def test_imatrix_file_is_not_a_model(folder: Path) -> None:
    add_files(folder, "imatrix_unsloth.gguf", "model-imatrix-Q4_K_M.gguf")
    assert names(folder) == ["model-imatrix-Q4_K_M"]


def test_hidden_folders_and_hub_cache_are_skipped(folder: Path) -> None:
    add_files(folder, ".hidden/a.gguf", "models--o--r/x/b.gguf", "blobs/c.gguf", "snapshots/d.gguf", "e.gguf")
    assert names(folder) == ["e"]


def test_folder_search_has_a_maximum_depth(folder: Path) -> None:
    levels = "/".join("x" * MAX_DEPTH)
    add_files(folder, f"{levels}/in.gguf", f"{levels}/x/out.gguf")
    assert names(folder) == ["in"]


def test_folder_search_has_a_maximum_number_of_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_files(folder, *(f"{number}.gguf" for number in range(9)), "below/x.gguf")
    monkeypatch.setattr("llmcli.models.sources.folder.MAX_ENTRIES", 5)
    assert 4 <= len(names(folder)) <= 5


def test_circular_links_are_followed_once(folder: Path) -> None:
    add_files(folder, "a/one.gguf")
    add_link(folder / "a/again", folder)
    add_link(folder / "self", folder / "self")
    add_link(folder / "self.gguf", folder / "self.gguf")
    assert names(folder) == ["one"]


def test_a_linked_folder_is_searched(folder: Path, tmp_path: Path) -> None:
    add_files(tmp_path / "disk", "far.gguf")
    add_link(folder / "link", tmp_path / "disk")
    assert names(folder) == ["far"]


@pytest.mark.parametrize("place", ["nowhere", "file.gguf", "a\0b", "x" * 5000])
def test_models_in_a_file_or_missing_folder_is_empty(folder: Path, place: str) -> None:
    add_files(folder, "file.gguf")
    assert models_in_folder(folder / place) == []
    assert find_in_studio(HubReference("owner/repo"), folder / place) is None


def test_a_folder_named_like_a_model_is_searched(folder: Path) -> None:
    add_files(folder, "model.gguf/real.gguf")
    assert names(folder) == ["real"]


def test_an_ollama_store_gives_its_models(folder: Path, tmp_path: Path) -> None:
    add_ollama_model(folder, "llama3.2/1b", write_gguf(tmp_path / "x.gguf"))
    assert names(folder) == ["ollama:llama3.2:1b"]


def test_models_in_lm_studio_folder_have_its_source(user: Path, tmp_path: Path) -> None:
    add_lmstudio_model(user / ".lmstudio/models", "own/repo", write_gguf(tmp_path / "x.gguf"))
    assert [model.source.name for model in models_in_folder(user / ".lmstudio/models")] == ["lmstudio"]


@pytest.mark.parametrize(
    "name", ["Big", "Big-00001-of-00002.gguf", "Big-00002-of-00002.gguf", "big", "BIG-00001-OF-00002.gguf"]
)
def test_a_model_is_found_by_its_name_or_a_file_of_it(folder: Path, name: str) -> None:
    parts = add_files(folder, "Big-00001-of-00002.gguf", "Big-00002-of-00002.gguf")
    add_files(folder, "a.gguf", "other.gguf")
    found = find_by_name(name, imported(folder))
    assert found.parts == tuple(parts)


def test_the_exact_name_wins_over_one_in_another_case(folder: Path) -> None:
    add_files(folder, "one/Model.gguf", "two/model.gguf")
    found = find_by_name("model", imported(folder / "one", folder / "two"))
    assert found.path.name == "model.gguf"


@pytest.mark.parametrize("name", ["", "mod", "../model", "two/model", "model.ggu", "/"])
def test_no_model_of_a_folder_has_an_unknown_name(folder: Path, name: str) -> None:
    add_files(folder, "one/x.gguf", "model.gguf")
    with pytest.raises(ModelNotFoundError):
        find_by_name(name, imported(folder / "one", folder))


@pytest.fixture
def studio(folder: Path) -> Path:
    add_files(
        folder / "Own/Repo-GGUF", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m.Q8_0.gguf", "m-Q4_K_S.gguf", "mmproj-f16.gguf"
    )
    add_files(folder / "Own/Repo-GGUF/BF16", "m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf")
    add_files(folder / "own2/one", "only-IQ2_M.gguf")
    return folder


@pytest.mark.parametrize(
    ("repo", "quant", "file", "found"),
    [
        ("Own/Repo-GGUF", "Q4_K_M", None, "m-Q4_K_M.gguf"),
        ("own/repo-gguf", "q4_k_m", None, "m-Q4_K_M.gguf"),
        ("Own/Repo-GGUF", "UD-Q4_K_M", None, "m-UD-Q4_K_M.gguf"),
        ("Own/Repo-GGUF", "Q8_0", None, "m.Q8_0.gguf"),
        ("Own/Repo-GGUF", "BF16", None, "m-BF16-00001-of-00002.gguf"),
        ("Own/Repo-GGUF", None, "m-Q4_K_S.gguf", "m-Q4_K_S.gguf"),
        ("Own/Repo-GGUF", None, "M-q4_k_s.GGUF", "m-Q4_K_S.gguf"),
        ("Own/Repo-GGUF", None, "BF16/m-BF16-00002-of-00002.gguf", "m-BF16-00001-of-00002.gguf"),
        ("Own/Repo-GGUF", None, None, "m-Q4_K_M.gguf"),
        ("own2/one", None, None, "only-IQ2_M.gguf"),
    ],
)
def test_lmstudio_finds_file_by_hub_name(
    studio: Path, repo: str, quant: str | None, file: str | None, found: str
) -> None:
    model = find_in_studio(HubReference(repo, quant, file), studio / "nowhere", studio)
    assert model
    assert model.path.name == found


@pytest.mark.parametrize(
    ("repo", "quant", "file"),
    [
        ("Own/Repo-GGUF", "Q4_K", None),
        ("Own/Repo-GGUF", "K_M", None),
        ("Own/Repo-GGUF", "Q4.K.M", None),
        ("Own/Repo-GGUF", None, "mmproj-f16.gguf"),
        ("Own/Repo-GGUF", None, "m-Q2_K.gguf"),
        ("own2/one", "Q4_K_M", None),
        ("own2/one", None, "../../Own/Repo-GGUF/m-Q4_K_M.gguf"),
        ("own2/..", None, None),
        ("../models", None, None),
        ("own2", None, "one/only-IQ2_M.gguf"),
        ("own2/one/x", None, None),
        ("/own2/one", None, None),
        ("own2/one\0", None, None),
        ("", None, None),
    ],
)
def test_lmstudio_finds_nothing_for_missing_or_unsafe_paths(
    studio: Path, repo: str, quant: str | None, file: str | None
) -> None:
    assert find_in_studio(HubReference(repo, quant, file), studio) is None


def test_two_hundred_models_are_found_quickly(folder: Path) -> None:
    add_files(folder, *(f"owner{number % 20}/repo{number}/model{number}-Q4_K_M.gguf" for number in range(200)))
    took = []
    for _ in range(5):
        start = time.thread_time()
        assert len(models_in_folder(folder)) == 200
        took.append(time.thread_time() - start)
    assert min(took) < 0.1  # 15 ms where it is alone
