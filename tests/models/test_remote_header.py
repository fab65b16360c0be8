"""read_remote_header: few bytes, none of them twice, and the result of read_header for the whole file."""

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import LlmcliError, ModelInvalidError
from llmcli.models.gguf import parser
from llmcli.models.gguf.header import GGUFHeader, TruncatedHeaderError
from llmcli.models.gguf.parser import MAX_READ, parse_header, read_header, read_remote_header
from tests.models.gguf_writer import ARRAY, MODEL, STRING, U8, U32, Raw, Tensor, Typed, write_gguf
from tests.models.test_gguf import BROKEN, OTHERS, busy_file

MIB = 1 << 20
GIB40 = 40 << 30


class Server:
    """A file that lies elsewhere: `data` is its beginning, zeros follow up to `size`; `log` tells what was asked."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data, self.size = data, len(data) if size is None else size
        self.log: list[tuple[int, int]] = []

    def fetch(self, start: int, end: int) -> bytes:
        self.log.append((start, end))
        end = min(end, self.size)
        return self.data[start:end].ljust(end - start, b"\0")

    def header(self) -> GGUFHeader:
        return read_remote_header(self.fetch, self.size, "far.gguf")

    @property
    def n_read(self) -> int:
        """The bytes asked for, after a check that they follow one another."""
        ends = [0, *(end for _, end in self.log)]
        assert [start for start, _ in self.log] == ends[:-1]
        return ends[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# --- sound files ---


def test_remote_header_of_the_starter_equals_the_local_one(starter: Path) -> None:
    server = Server(starter.read_bytes()[: 4 * MIB], starter.stat().st_size)
    assert server.header() == read_header(starter)
    assert server.n_read == 2 * MIB  # its header takes 1.7 MiB


def test_a_model_of_40_gb_is_described_after_one_mib(file: Path) -> None:
    data = write_gguf(file, tensors=[Tensor("a", (1 << 33,)), Tensor("b", (1 << 31,))]).read_bytes()
    server = Server(data, GIB40 + 4096)
    header = server.header()
    assert (header.file_size, header.n_tensor_bytes) == (GIB40 + 4096, GIB40)
    assert server.log == [(0, MIB)]


@pytest.mark.slow
def test_a_vocabulary_of_300_000_with_merges_is_read(file: Path) -> None:
    metadata = MODEL | {
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(300_000)],
        "tokenizer.ggml.scores": Raw(ARRAY, struct.pack("<IQ", 6, 300_000) + bytes(1_200_000)),
        "tokenizer.ggml.merges": [f"tok {i}" for i in range(290_000)],
        "after": "still in step",
    }
    server = Server(write_gguf(file, metadata).read_bytes())
    assert server.header() == read_header(file)
    assert server.log == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 4 * MIB), (4 * MIB, 8 * MIB), (8 * MIB, server.n_read)]


def test_a_huge_chat_template_is_read(file: Path) -> None:
    metadata = MODEL | {"tokenizer.chat_template": "é" * MIB, "tokenizer.chat_template.tools": "x" * MIB}
    server = Server(write_gguf(file, metadata).read_bytes(), 1 << 34)
    assert server.header().chat_template == "é" * MIB
    assert server.n_read == 4 * MIB


def test_remote_header_needs_only_first_part(file: Path) -> None:
    write_gguf(file, MODEL | {"split.count": Typed(2, 3), "split.no": Typed(2, 0)})
    assert Server(file.read_bytes()).header().split_count == 3


# --- headers that are too long, and hostile ones ---


def test_remote_header_over_32_mib_fails_after_six_pieces(file: Path) -> None:
    metadata = MODEL | {f"k{i}": Raw(ARRAY, struct.pack("<IQ", U8, MIB) + bytes(MIB)) for i in range(40)}
    server = Server(write_gguf(file, metadata).read_bytes())
    with pytest.raises(ModelInvalidError, match=r"the header of far\.gguf is longer than 32 MiB"):
        server.header()
    assert server.n_read == MAX_READ
    assert len(server.log) == 6
    assert read_header(file).tensors  # nothing else is wrong with it


LONG = {
    "a string": Raw(STRING, struct.pack("<Q", 50 * MIB)),
    "numbers": Raw(ARRAY, struct.pack("<IQ", U32, 1 << 30)),
    "strings": Raw(ARRAY, struct.pack("<IQ", STRING, 1 << 30)),
    "one of many strings": Raw(ARRAY, struct.pack("<IQQ", STRING, 65, 1 << 30) + bytes(520)),
}


@pytest.mark.parametrize("what", LONG)
def test_a_length_over_32_mib_is_refused_before_more_is_fetched(file: Path, what: str) -> None:
    server = Server(write_gguf(file, MODEL | {"x": LONG[what]}).read_bytes(), GIB40)
    with pytest.raises(ModelInvalidError, match="longer than 32 MiB"):
        server.header()
    assert server.log == [(0, MIB)]


@pytest.mark.parametrize("what", LONG)
def test_length_beyond_the_file_is_damage_at_once(file: Path, what: str) -> None:
    server = Server(write_gguf(file, MODEL | {"x": LONG[what]}).read_bytes(), 4 * MIB)
    with pytest.raises(ModelInvalidError, match=r"far\.gguf: the header is truncated"):
        server.header()
    assert server.log == [(0, MIB)]


def test_file_shorter_than_its_tensors_is_truncated(file: Path) -> None:
    server = Server(write_gguf(file, tensors=[Tensor("a", (1 << 33,))]).read_bytes(), 1 << 34)
    with pytest.raises(ModelInvalidError, match=r"the file is truncated: 17179869184 of 343\d+ bytes"):
        server.header()


def refusals(file: Path) -> tuple[str, str, str]:
    """What is said of a bad file from near and from afar, without its name, and the hint from afar."""
    with pytest.raises(ModelInvalidError) as near:
        read_header(file)
    with pytest.raises(ModelInvalidError) as far:
        Server(file.read_bytes()).header()
    return str(near.value).removeprefix(f"{file}: "), str(far.value).removeprefix("far.gguf: "), far.value.hint


@pytest.mark.parametrize("fault", BROKEN)
def test_remote_error_equals_local_error(file: Path, fault: str) -> None:
    metadata, tensors, faults, _ = BROKEN[fault]
    near, far, hint = refusals(write_gguf(file, metadata, tensors, **faults))
    assert near == far
    assert hint
    assert "download" not in hint.lower()  # there is no download yet that could be done again


@pytest.mark.parametrize("kind", OTHERS)
def test_remote_file_of_other_format_is_recognized(file: Path, kind: str) -> None:
    file.write_bytes(OTHERS[kind][0])
    near, far, hint = refusals(file)
    assert near == far
    assert "download" not in hint.lower()


def test_remote_header_of_empty_file_makes_no_request() -> None:
    server = Server(b"")
    with pytest.raises(ModelInvalidError, match=r"far\.gguf: the file is empty"):
        server.header()
    assert server.log == []


# --- servers that fail ---


@pytest.mark.parametrize("good", [0, 1])
def test_an_error_of_the_fetch_passes_through(starter: Path, good: int) -> None:
    fault = LlmcliError("the hub is away")
    whole = Server(starter.read_bytes()[: 2 * MIB])

    def fetch(start: int, end: int) -> bytes:
        if len(whole.log) == good:
            raise fault
        return whole.fetch(start, end)

    with pytest.raises(LlmcliError) as caught:
        read_remote_header(fetch, starter.stat().st_size, "far.gguf")
    assert caught.value is fault


# --- properties ---


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file with every kind of content; its header takes some 7 KiB, its tensors 1.5 KiB."""
    path = tmp_path_factory.mktemp("busy") / "busy.gguf"
    busy_file(path)
    return path


def outcome(data: bytes) -> GGUFHeader | str:
    try:
        return parse_header(data, len(data))
    except ModelInvalidError as error:
        return str(error)


def outcome_in_pieces(data: bytes, ends: Sequence[int]) -> GGUFHeader | str:
    """The same from afar; an error other than ModelInvalidError is left to fail the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser, "_ENDS", ends)
        try:
            return Server(data).header()
        except ModelInvalidError as error:
            return str(error).removeprefix("far.gguf: ")


def more_needed(head: bytes, size: int) -> int:
    """How many bytes the parser asks for when it has `head`; 0 when that is enough."""
    try:
        parse_header(head, size)
    except TruncatedHeaderError as cut:
        return cut.needed
    return 0


@given(st.integers(4, 8832))
def test_truncated_head_asks_for_no_more_than_the_header(busy: Path, kept: int) -> None:
    data = busy.read_bytes()
    header_end = parse_header(data, len(data)).data_offset
    needed = more_needed(data[:kept], len(data))
    assert kept < needed <= header_end if needed else kept > header_end - 32


@pytest.mark.parametrize("last", [["ab"] * 65, 7])
def test_remote_header_is_read_to_the_last_byte_of_file(file: Path, last: object) -> None:
    data = write_gguf(file, MODEL | {"tokenizer.ggml.model": "gpt2", "z": last}, [], align=1).read_bytes()
    assert all(kept < more_needed(data[:kept], len(data)) <= len(data) for kept in range(4, len(data)))
    assert more_needed(data, len(data)) == 0


@given(st.integers(0, 8832))
def test_truncated_file_is_refused(busy: Path, kept: int) -> None:
    data = busy.read_bytes()[:kept]
    near = outcome(data)
    assert isinstance(near, str) or kept > busy.stat().st_size - 32  # the padding at the end may be missing
    assert outcome_in_pieces(data, (64, 128, 256, 1024, 4096, 16384)) == near


@pytest.mark.slow
@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(200, 4000))
def test_damaged_header_has_the_same_error_in_pieces(busy: Path, dice: random.Random, step: int) -> None:
    data = bytearray(busy.read_bytes())
    for _ in range(dice.choice((0, 1, 1, 2, 8))):
        data[dice.randrange(4, 7296)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    assert outcome_in_pieces(bytes(data), range(64, 9000 + step, step)) == outcome(bytes(data))
