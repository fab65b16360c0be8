"""The catalog: its entries are plausible, and the recommendation suits the machine."""

import re

import pytest

from llmcli.models.catalog import AS_OF, CatalogEntry, catalog, expected_speed, find_entry, recommend
from llmcli.models.hub.repo_files import fits_memory, nominal_bits

GIB = 1 << 30


@pytest.mark.parametrize("one", catalog(), ids=lambda one: one.name)
def test_catalog_entries_are_plausible(one: CatalogEntry) -> None:
    bits = nominal_bits(one.quantization)
    assert bits is not None
    assert one.size == pytest.approx(one.parameters * 1e9 * bits / 8, rel=0.25)
    assert re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", one.repo, re.ASCII)
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]+", one.name)
    assert 4096 <= one.context <= 1 << 20
    assert one.license
    assert 0 < len(one.note) <= 40


def test_catalog_is_short_dated_and_without_duplicates() -> None:
    assert 10 <= len(catalog()) <= 14
    assert len({one.name for one in catalog()}) == len({one.repo for one in catalog()}) == len(catalog())
    assert re.fullmatch(r"20\d\d-\d\d", AS_OF)


def test_model_name_is_not_a_path_or_the_starter() -> None:
    assert not [one.name for one in catalog() if one.name == "starter" or one.name.endswith(".gguf")]


def test_catalog_lookup_ignores_case() -> None:
    assert find_entry("Qwen3-4B") is find_entry("qwen3-4b") is not None
    assert find_entry("starter") is None
    assert find_entry("") is None


@pytest.mark.parametrize("memory", [GIB, 2 * GIB, 4 * GIB, 16 * GIB])
def test_only_models_that_fit_are_recommended(memory: int) -> None:
    named = recommend(memory, cores=4)
    assert named
    assert all(fits_memory(one.size, memory) for one in named)
    assert len(named) == sum(fits_memory(one.size, memory) for one in catalog())


def test_few_cores_get_a_fast_model_first() -> None:
    assert recommend(16 * GIB, cores=2)[0].parameters <= 4.5
    assert recommend(16 * GIB, cores=8)[0].parameters > 7
    assert (
        0
        < expected_speed(catalog()[0], cores=0)
        < expected_speed(catalog()[0], cores=2)
        < expected_speed(catalog()[0], cores=4)
        == expected_speed(catalog()[0], cores=64)
    )


def test_models_too_slow_for_the_cores_are_last() -> None:
    sizes = [one.parameters for one in recommend(16 * GIB, cores=2)]
    large = [size for size in sizes if size > 5]
    assert large
    assert sizes[-len(large) :] == large


@pytest.mark.parametrize("cores", [-1, 0, 1])
def test_too_little_memory_recommends_the_smallest(cores: int) -> None:
    assert len(recommend(16 * GIB, cores)) == len(catalog())
    assert recommend(GIB // 8, cores) == [min(catalog(), key=lambda one: one.size)]


def test_unknown_memory_excludes_no_model() -> None:
    assert len(recommend(0, cores=4)) == len(catalog())
