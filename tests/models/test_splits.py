"""Split models: found from any part, and each part must match its name."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import ModelInvalidError, ModelNotFoundError
from llmcli.models.gguf.parser import is_later_part, parts_of, read_headers, stem_of
from tests.models.gguf_writer import I32, MODEL, U16, Tensor, Typed, write_gguf


def split(number: int, count: int, total: int | None = None) -> dict[str, Any]:
    keys: dict[str, Any] = {"split.no": Typed(U16, number), "split.count": Typed(U16, count)}
    return keys if total is None else keys | {"split.tensors.count": Typed(I32, total)}


@pytest.fixture
def three_parts(tmp_path: Path) -> list[Path]:
    """A sound model in three parts; as llama-gguf-split writes it, only the first describes it."""
    paths = [tmp_path / f"big-{k}-of-00003.gguf" for k in ("00001", "00002", "00003")]
    for number, path in enumerate(paths):
        metadata = (MODEL if number == 0 else {}) | split(number, 3, total=3)
        write_gguf(path, metadata, [Tensor(f"t{number}")])
    return paths


@pytest.mark.parametrize("given", [0, 1, 2])
def test_parts_of_finds_all_parts_from_any_part(three_parts: list[Path], given: int) -> None:
    assert parts_of(three_parts[given]) == tuple(three_parts)


def test_single_file_is_its_only_part(tmp_path: Path) -> None:
    assert parts_of(tmp_path / "model.gguf") == (tmp_path / "model.gguf",)


def test_a_missing_part_is_named(three_parts: list[Path]) -> None:
    three_parts[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"3 parts, but big-00002-of-00003\.gguf is missing"):
        parts_of(three_parts[0])


def test_error_counts_the_missing_parts(three_parts: list[Path]) -> None:
    three_parts[1].unlink()
    three_parts[2].unlink()
    with pytest.raises(ModelNotFoundError, match=r"big-00002-of-00003\.gguf and 1 more is missing"):
        parts_of(three_parts[0])


@pytest.mark.parametrize("name", ["x-00003-of-00002.gguf", "x-00000-of-00002.gguf"])
def test_impossible_part_number_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelInvalidError, match="is not possible"):
        parts_of(tmp_path / name)


def test_sound_parts_give_one_header_each(three_parts: list[Path]) -> None:
    headers = read_headers(parts_of(three_parts[0]))
    assert [header.split_no for header in headers] == [0, 1, 2]
    assert headers[0].architecture == "llama"
    assert sum(header.n_parameters for header in headers) == 96


def test_a_part_with_the_wrong_number_inside_is_refused(three_parts: list[Path]) -> None:
    three_parts[2].write_bytes(three_parts[1].read_bytes())
    with pytest.raises(ModelInvalidError, match=r"big-00003-of-00003\.gguf is part 2 of 3"):
        read_headers(three_parts)


def test_a_part_of_another_split_is_refused(three_parts: list[Path]) -> None:
    write_gguf(three_parts[1], split(1, 4), [Tensor("t1")])
    with pytest.raises(ModelInvalidError, match="is part 2 of 4"):
        read_headers(three_parts)


def test_a_whole_model_named_as_a_part_is_refused(three_parts: list[Path]) -> None:
    write_gguf(three_parts[0])
    with pytest.raises(ModelInvalidError, match="is part 1 of 1"):
        read_headers(three_parts)


def test_renamed_part_error_gives_the_right_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "renamed.gguf", MODEL | split(0, 2))
    with pytest.raises(ModelInvalidError, match="part 1 of 2, but its name has no part number") as caught:
        read_headers((path,))
    assert "NAME-00001-of-00002.gguf" in caught.value.hint


def test_single_part_needs_no_split_keys(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x-00001-of-00001.gguf")
    assert len(read_headers(parts_of(path))) == 1


def test_a_tensor_in_two_parts_is_refused(three_parts: list[Path]) -> None:
    write_gguf(three_parts[2], split(2, 3), [Tensor("t1")])
    with pytest.raises(ModelInvalidError, match="'t1' is in two parts"):
        read_headers(three_parts)


def test_parts_that_lack_tensors_are_refused(three_parts: list[Path]) -> None:
    write_gguf(three_parts[2], split(2, 3), [])
    with pytest.raises(ModelInvalidError, match="the parts have 2 tensors, expected 3"):
        read_headers(three_parts)


def test_the_stem_is_the_name_without_its_ending_and_part() -> None:
    assert stem_of(Path("/m/big-00001-of-00003.gguf")) == "big"
    assert stem_of(Path("/m/small.gguf")) == "small"


def test_only_parts_after_the_first_are_later_parts() -> None:
    assert is_later_part("x-00002-of-00003.gguf")
    assert not is_later_part("x-00001-of-00003.gguf")
    assert not is_later_part("best-of-breed.gguf")
