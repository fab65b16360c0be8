"""The quantizations of a repository: the list of them, and the selection of one."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import LlmcliError, ModelNotFoundError, UsageError
from llmcli.models.hub.repo_files import (
    Quantization,
    RepoFile,
    best_fit,
    fits_memory,
    is_safe_path,
    memory_needed,
    nominal_bits,
    projectors,
    quantization_of,
    quantizations,
    select_quantization,
)

GIB = 1 << 30
REPO = "owner/Model-GGUF"


def files(*named: str, size: int = GIB) -> list[RepoFile]:
    return [RepoFile(path, size, "") for path in named]


def offer(**sizes: float) -> list[Quantization]:
    """Variants by quantization and GiB; `UD_` in front stands for `UD-`."""
    names = {quantization.replace("UD_", "UD-"): int(size * GIB) for quantization, size in sizes.items()}
    return quantizations(RepoFile(f"model-{name}.gguf", size, "") for name, size in names.items())


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-1.7b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("cloud-Q8_0.gguf", "Q8_0"),
        ("model-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("model-F16-Q6_K_L.gguf", "Q6_K_L"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("BF16/model-00001-of-00002.gguf", "BF16"),
        ("BF16/model-Q8_0-00001-of-00002.gguf", "Q8_0"),
        ("Q4_FREE/modelQ8_0.gguf", ""),
    ],
)
def test_quantization_is_found_in_the_name(name: str, quantization: str) -> None:
    assert quantization_of(name) == quantization


def test_a_quantization_has_its_usual_bits_in_any_spelling() -> None:
    assert nominal_bits("ud-q8_0") == nominal_bits("Q8_0") == 8.5
    assert nominal_bits("Q9_Z") is None


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("X-Q4_K_M-fp16.gguf", "Q4_K_M"),
        ("X-fp16-Q4_K_M.gguf", "Q4_K_M"),
        ("X-Q8_0-BF16.gguf", "Q8_0"),
        ("X-bf16-F16.gguf", "F16"),
        ("F16/X-Q5_K.gguf", "Q5_K"),
        ("X-Q8_0_L.gguf", "Q8_0_L"),
        ("X-Q4_K_R4.gguf", ""),
    ],
)
def test_type_of_the_source_file_is_not_the_quantization(name: str, quantization: str) -> None:
    assert quantization_of(name) == quantization


@pytest.mark.parametrize("wanted", ["Q8_0_L", "q4_k_r4", "FP8", "iq4_ks"])
def test_every_listed_type_is_found_by_its_name(wanted: str) -> None:
    found = quantizations(files("m-Q8_0.gguf", "m-Q8_0_L.gguf", "m-Q4_K_R4.gguf", "m-FP8.gguf", "IQ4_KS/m.gguf"))
    assert wanted.upper() in select_quantization(found, wanted, None, REPO).path.upper()
    with pytest.raises(ModelNotFoundError, match="no 'Q6_K', only"):
        select_quantization(quantizations(files("m-Q6_K-Q4_0.gguf")), "Q6_K", None, REPO)
    with pytest.raises(UsageError, match="2 files for FP8"):
        select_quantization(quantizations(files("a-FP8.gguf", "b-FP8.gguf")), "FP8", None, REPO)


def test_adapters_and_encoders_are_no_quantizations() -> None:
    beside = ["clip-vit-large-patch14-F16.gguf", "lora-x-F16.gguf", "x-LoRA-f16.gguf", "sub/adapter.gguf"]
    kept = ["x-Q4_0.gguf", "explora-Q4_0.gguf", "eclipse-clip-Q4_0.gguf"]
    assert {variant.path for variant in quantizations(files(*beside, *kept))} == set(kept)
    assert {variant.path for variant in quantizations(files(*beside))} == set(beside)


@pytest.mark.parametrize(
    ("names", "taken", "reason"),
    [
        (("x.gguf", "x-Q3_K_M.gguf"), "x-Q3_K_M.gguf", "the only file with a known quantization"),
        (("x-FP8.gguf", "x-Q3_K_M.gguf", "x-Q2_K.gguf"), "x-Q3_K_M.gguf", "no Q4_K_M, the nearest is Q3_K_M"),
        (("x-Q4_0_4_4.gguf", "x-Q8_0.gguf", "x-Q6_K.gguf"), "x-Q6_K.gguf", "no Q4_K_M, the nearest is Q6_K"),
        (("x-Q4_0_4_4.gguf",), "x-Q4_0_4_4.gguf", "the only file"),
        (("x.gguf",), "x.gguf", "the only file"),
    ],
)
def test_known_quantizations_come_before_other_files(names: tuple[str, ...], taken: str, reason: str) -> None:
    large = [RepoFile(name, (4 if "Q" in name else 9) * GIB, "") for name in names]
    variant, why = best_fit(quantizations(large), 0)
    assert (variant.path, why) == (taken, reason)
    assert best_fit(quantizations(large), 64 * GIB)[0].quantization not in ("FP8", "") or len(names) == 1


def test_bits_are_computed_from_known_parameters() -> None:
    (variant,) = offer(Q8_0=1)
    assert variant.bits_per_weight(2 * GIB) == 4.0
    assert variant.bits_per_weight(None) == 8.5


def test_variants_are_sorted_by_size_without_companions() -> None:
    beside = ["mmproj-F16.gguf", "x-mmproj-f16.gguf", "imatrix_x.gguf", "ggml-vocab-x.gguf", "mtp-x-Q8_0.gguf"]
    beside += ["draft/x-Q4_0.gguf", "README.md", "imatrix.dat", "x.gguf.part"]
    found = quantizations([RepoFile("b-Q8_0.gguf", 9, ""), RepoFile("a-MTP-Q4_0.GGUF", 5, ""), *files(*beside)])
    assert [(variant.name, variant.quantization, variant.size) for variant in found] == [
        ("a-MTP-Q4_0", "Q4_0", 5),
        ("b-Q8_0", "Q8_0", 9),
    ]


def test_parts_of_split_model_are_one_variant_per_folder() -> None:
    found = quantizations(
        files(
            "a/x-00002-of-00002.gguf", "a/x-00001-of-00002.gguf", "Q8_0/x-00001-of-00002.gguf", "x-00003-of-00002.gguf"
        )
    )
    whole = next(variant for variant in found if variant.complete)
    (cut,) = (variant for variant in found if not variant.complete)
    assert (whole.path, whole.name, whole.size) == ("a/x-00001-of-00002.gguf", "x", 2 * GIB)
    assert [part.path[-19:-14] for part in whole.parts] == ["00001", "00002"]
    assert (cut.quantization, cut.missing) == ("Q8_0", ("Q8_0/x-00002-of-00002.gguf",))


def test_split_with_too_many_parts_is_not_a_model() -> None:
    assert quantizations(files("x-00001-of-99999.gguf")) == []


def test_the_projector_nearest_to_f16_comes_first() -> None:
    found = files("mmproj-F32.gguf", "mmproj-Q8_0.gguf", "mmproj-x.gguf", "mmproj-BF16.gguf", "x-mmproj-f16.gguf")
    assert [file.path for file in projectors([*found, *files("model-F16.gguf", "../mmproj-F16.gguf")])] == [
        "x-mmproj-f16.gguf",
        "mmproj-BF16.gguf",
        "mmproj-Q8_0.gguf",
        "mmproj-F32.gguf",
        "mmproj-x.gguf",
    ]


def test_projector_of_folder_comes_before_that_of_root() -> None:
    (variant,) = quantizations(files("a/model-Q8_0.gguf"))
    beside, root, elsewhere = files("a/mmproj-F32.gguf", "mmproj-F16.gguf", "b/mmproj-F16.gguf")
    assert variant.projector([elsewhere, root, beside]) == beside
    assert variant.projector([elsewhere, root]) == root
    assert variant.projector([elsewhere]) is None


def test_model_fits_free_or_unknown_memory() -> None:
    assert fits_memory(10 * GIB, memory_needed(10 * GIB))
    assert not fits_memory(10 * GIB, memory_needed(10 * GIB) - 1)
    assert memory_needed(10 * GIB) == 11.5 * GIB
    assert fits_memory(10 * GIB, 0)


@pytest.mark.parametrize(
    ("found", "memory", "taken", "reason"),
    [
        (offer(Q2_K=3, Q4_K_M=5, Q8_0=8), 32, "Q4_K_M", "Q4_K_M is the default"),
        (offer(Q2_K=3, Q4_K_M=5, Q8_0=8), 0, "Q4_K_M", "Q4_K_M is the default"),
        (offer(UD_Q4_K_M=4, Q4_K_M=5), 32, "Q4_K_M", "Q4_K_M is the default"),
        (offer(UD_Q4_K_M=4, Q8_0=5), 32, "UD-Q4_K_M", "Q4_K_M is the default"),
        (
            offer(Q2_K=3, Q3_K_S=4, Q4_K_M=20),
            6,
            "Q3_K_S",
            "Q4_K_M needs 22.5 GiB and 6.0 GiB are free, the largest that fits is Q3_K_S",
        ),
        (offer(Q2_K=3, Q8_0=8, F16=15), 32, "Q8_0", "no Q4_K_M, the largest that fits is Q8_0"),
        (offer(Q8_0=8, UD_Q8_0=8.5, F16=15), 32, "Q8_0", "no Q4_K_M, the largest that fits is Q8_0"),
        (offer(Q2_K=3, Q4_K_S=4, Q8_0=8), 0, "Q4_K_S", "no Q4_K_M, the nearest is Q4_K_S"),
        (offer(F16=15, F32=30), 64, "F16", "no Q4_K_M, the smallest is F16"),
        (offer(F16=15), 64, "F16", "the only file"),
        (offer(F16=15), 4, "F16", "the only file needs 17.0 GiB and 4.0 GiB are free"),
        (offer(Q2_K=3, Q8_0=8), 1, "Q2_K", "no file fits; the smallest, Q2_K, needs 3.8 GiB and 1.0 GiB are free"),
    ],
)
def test_best_fit_is_the_default_or_the_best_that_fits(
    found: list[Quantization], memory: int, taken: str, reason: str
) -> None:
    variant, why = best_fit(found, memory * GIB)
    assert (variant.quantization, why) == (taken, reason)


def test_incomplete_model_is_never_selected() -> None:
    cut = files("x-Q4_K_M-00001-of-00003.gguf")
    assert best_fit(quantizations([*cut, *files("x-Q2_K.gguf")]), 0)[0].quantization == "Q2_K"
    with pytest.raises(ModelNotFoundError, match=r"x-Q4_K_M-00002-of-00003\.gguf and 1 more"):
        best_fit(quantizations(cut), 0)


def test_by_name_ignores_case_and_prefers_plain_name() -> None:
    found = offer(Q4_K_M=5, UD_Q4_K_M=4, UD_Q2_K=2)
    assert select_quantization(found, "q4_k_m", None, REPO).quantization == "Q4_K_M"
    assert select_quantization(found, "ud-q4_k_m", None, REPO).quantization == "UD-Q4_K_M"
    assert select_quantization(found, "Q2_K", None, REPO).quantization == "UD-Q2_K"
    assert select_quantization(found, None, None, REPO).quantization == "Q4_K_M"


@pytest.mark.parametrize(
    "others",
    [
        ["m-v2-Q4_K_M.gguf"],
        ["m-Q4_K_M-imat.gguf"],
        ["old/m-Q4_K_M.gguf"],
        ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"],
    ],
)
def test_by_name_takes_shortest_name_of_same_quantization(others: list[str]) -> None:
    found = quantizations(files(*others, "m-Q4_K_M.gguf"))
    assert select_quantization(found, "Q4_K_M", None, REPO).path == "m-Q4_K_M.gguf"
    assert best_fit(found, 0)[0].path == "m-Q4_K_M.gguf"


def test_complete_model_comes_before_incomplete_one() -> None:
    found = quantizations(files("m-Q8_0-00001-of-00002.gguf", "other-Q8_0.gguf"))
    assert select_quantization(found, "Q8_0", None, REPO).path == "other-Q8_0.gguf"


@pytest.mark.parametrize("names", [("m-1b-Q8_0.gguf", "m-12b-Q8_0.gguf"), ("a/m-Q8_0.gguf", "b/m-Q8_0.gguf")])
def test_by_name_refuses_different_models(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="2 files for Q8_0: ") as caught:
        select_quantization(quantizations(files(*names)), "Q8_0", None, REPO)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("file", ["a/x-00001-of-00002.gguf", "a/x-00002-of-00002.gguf", "x-00002-of-00002.gguf"])
def test_by_name_finds_model_by_any_part(file: str) -> None:
    found = quantizations(files("a/x-00001-of-00002.gguf", "a/x-00002-of-00002.gguf", "y.gguf"))
    assert select_quantization(found, None, file, REPO).name == "x"


def test_by_name_refuses_file_name_in_two_folders() -> None:
    twice = files("a/x.gguf", "b/x.gguf")
    with pytest.raises(UsageError, match=r"a/x\.gguf, b/x\.gguf"):
        select_quantization(quantizations(twice), None, "x.gguf", REPO)
    assert select_quantization(quantizations([*twice, *files("x.gguf")]), None, "x.gguf", REPO).path == "x.gguf"


def test_by_name_error_lists_nearest_names_first() -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no 'Q5_K_M', only Q5_K_S, Q4_0, Q2_K, Q8_0$") as caught:
        select_quantization(offer(Q8_0=8, Q2_K=3, Q5_K_S=5, Q4_0=4), "Q5_K_M", None, REPO)
    assert f"{REPO}:Q5_K_S" in caught.value.hint
    with pytest.raises(ModelNotFoundError, match=r"no file 'modle-Q8_0\.gguf', only model-Q8_0\.gguf"):
        select_quantization(offer(Q8_0=8, Q2_K=3), None, "modle-Q8_0.gguf", REPO)
    with pytest.raises(ModelNotFoundError) as many:
        select_quantization(quantizations(files(*(f"m{k}.gguf" for k in range(99)))), "Q8_0", None, REPO)
    assert str(many.value).count(", ") == 8


def test_a_repository_without_gguf_files_tells_how_to_search() -> None:
    with pytest.raises(ModelNotFoundError, match=r"^owner/Model has no GGUF files$") as caught:
        select_quantization([], "Q4_K_M", None, "owner/Model")
    assert 'llmcli models search "Model GGUF"' in caught.value.hint


@pytest.mark.parametrize(("quantization", "file"), [("Q8_0", None), (None, "x-Q8_0-00002-of-00003.gguf")])
def test_incomplete_model_is_refused_by_name(quantization: str | None, file: str | None) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Q8_0 is incomplete, x-Q8_0-00002-of-00003\.gguf and 1 more"):
        select_quantization(quantizations(files("x-Q8_0-00001-of-00003.gguf")), quantization, file, REPO)


ESCAPING = ["", "/x", "../x", "a/../x", "a//x", "./x", "a/", "a\\x", "C:x", "-x"]
UNREADABLE = ["x\n", "x\x9b", "x\u202e", "x\ud800", "a" * 256, "\u00e9" * 128, "a/" * 600 + "x"]
NOT_ON_WINDOWS = ["x.", "x /y", "a/CON", "nul.gguf", "com1.x/y"]


@pytest.mark.parametrize("path", [*ESCAPING, *UNREADABLE, *NOT_ON_WINDOWS])
def test_path_that_leaves_the_folder_is_not_safe(path: str) -> None:
    assert not is_safe_path(path)
    assert quantizations(files(f"{path}/x.gguf" if path else "/x.gguf")) == []


@pytest.mark.parametrize(
    "path", ["x.gguf", "a/b/x.gguf", "con-1.gguf", "..x", "\u043c\u043e\u0434\u0435\u043b\u044c", "a b"]
)
def test_ordinary_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)


@example([""], " ")
@given(st.lists(st.text("aQ48_0KM-./\\of12\u0130\u00df\ud800", max_size=24), max_size=6), st.text(max_size=8))
def test_by_name_gives_a_quantization_or_clear_error(names: list[str], wanted: str) -> None:
    found = quantizations(files(*(f"{name}.gguf" for name in names)))
    assert all(is_safe_path(part.path) for variant in found for part in variant.parts)
    for quantization, file in ((wanted, None), (None, wanted), (None, f"{names[0] if names else ''}.gguf")):
        with suppress(LlmcliError):
            assert select_quantization(found, quantization, file, REPO) in found
