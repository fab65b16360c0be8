"""The file of a state: all of it is checked before any of it is used."""

import math
import os
import random
import struct
from pathlib import Path

import pytest

from llmcli.inference.state_file import read_header, write_state

TOKENS = [5, 7, 11] * 100
BATCHES = [(100, 100, 3)]
IDENTITY = {"model": "abc", "threads": [1, 1]}
DATA = bytearray(random.Random(1).randbytes(20_000))


def write(path: Path) -> None:
    path.write_bytes(DATA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "one.state"
    write_state(path, IDENTITY, TOKENS, BATCHES, 2.5, write)
    return path


def is_usable(path: Path) -> bool:
    stored = read_header(path)
    return stored is not None and stored.is_sound()


def test_a_state_is_read_as_it_was_written(path: Path) -> None:
    stored = read_header(path)
    assert stored
    assert (stored.identity, stored.tokens, stored.batches, stored.seconds) == (IDENTITY, TOKENS, BATCHES, 2.5)
    assert path.read_bytes()[: stored.n_bytes] == DATA
    assert stored.is_sound()
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_flipped_bit_anywhere_is_found(path: Path) -> None:
    whole = path.read_bytes()
    size = len(DATA)
    places = random.Random(2).sample(range(size), 100) + random.Random(3).sample(range(size, len(whole)), 100)
    for number, place in enumerate(places):
        changed = bytearray(whole)
        changed[place] ^= 1 << number % 8
        path.write_bytes(changed)
        assert not is_usable(path), place
    path.write_bytes(whole)
    assert is_usable(path)


@pytest.mark.parametrize("size", [0, 1, 8, 43, 44, 100, 1500, -1, -5000])
def test_a_truncated_file_is_found(path: Path, size: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert not is_usable(path)
    path.write_bytes(whole + b"x")
    assert not is_usable(path)


@pytest.mark.parametrize("content", [b"GGUF" + bytes(100), b"ggsq" * 40, b"\x80\x04cos\nsystem\n", b"{}" * 60])
def test_a_foreign_file_is_not_a_state(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_header(path) is None


def test_a_newer_file_is_not_a_state(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    struct.pack_into("<H", whole, len(whole) - 12, 2)
    path.write_bytes(whole)
    assert read_header(path) is None


def test_a_file_that_is_missing_or_not_a_file_is_not_a_state(path: Path, tmp_path: Path) -> None:
    stored = read_header(path)
    path.unlink()
    assert stored
    assert not stored.is_sound()
    assert read_header(path) is None
    assert read_header(tmp_path) is None


@pytest.mark.parametrize(
    ("tokens", "batches"),
    [
        (TOKENS, [(100, 100, 2)]),
        (TOKENS, [(0, 0, 1), (300, 300, 1)]),
        (TOKENS, [(10, 300, 1)]),
        (TOKENS, [(300, 300, 2), (300, 300, -1)]),
        ([-1, *TOKENS[1:]], BATCHES),
        ([], []),
    ],
)
def test_a_header_that_makes_no_sense_is_not_a_state(
    path: Path, tokens: list[int], batches: list[tuple[int, int, int]]
) -> None:
    write_state(path, IDENTITY, tokens, batches, 2.5, write)
    assert read_header(path) is None


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_time_that_makes_no_sense_is_not_one_of_a_state(path: Path, seconds: float) -> None:
    """It would decide for ever which states are removed first."""
    write_state(path, IDENTITY, TOKENS, BATCHES, seconds, write)
    assert read_header(path) is None


@pytest.mark.parametrize("sizes", [(2**32 - 1, 300, 0), (1, 2**32 - 1, 0), (1 << 22, 1 << 24, 0), (1, 1, 2**63)])
def test_sizes_that_are_not_those_of_the_file_are_found(path: Path, sizes: tuple[int, int, int]) -> None:
    whole = bytearray(path.read_bytes())
    struct.pack_into("<IIQ", whole, len(whole) - 44, *sizes)
    path.write_bytes(whole)
    assert read_header(path) is None
