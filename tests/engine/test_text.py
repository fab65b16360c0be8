"""From tokens to text: split characters, stop strings, and several ends of an answer at once."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.answer_text import StopScanner, held_back
from llmcli.engine.events import FinishReason
from tests.engine.scripted import run_to_end, script_pieces, text_of


def split_at(data: Any, positions: Sequence[int]) -> list[Any]:
    """Bytes or a text, split at these positions."""
    ends = sorted({min(position, len(data)) for position in positions} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)] or [data]


PLACES = st.lists(st.integers(0, 60), max_size=30)
BYTES = st.binary(max_size=60) | st.text(max_size=20).map(str.encode)
TEXT = st.text("ab\u00e9", max_size=40)
STOPS = st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=3) | st.just(["abaab", "ba", "aa"])


@given(BYTES, PLACES)
def test_split_characters_are_joined_and_bad_bytes_replaced(data: bytes, positions: list[int]) -> None:
    records = run_to_end(script_pieces(split_at(data, positions)))
    assert text_of(records) == data.decode("utf-8", "replace")
    assert records[-1].finish_reason == "stop"


@given(BYTES, PLACES)
def test_stops_and_bans_that_never_match_change_no_text(data: bytes, positions: list[int]) -> None:
    # \x01 is no part of them, so these phrases hold text back without ever matching.
    phrases = tuple(text + "\x01" for text in {data.decode("utf-8", "replace")[:n] for n in (1, 3, 9)} if text)
    if b"\x01" not in data:
        records = run_to_end(script_pieces(split_at(data, positions), stop=phrases, banned_strings=phrases))
        assert text_of(records) == data.decode("utf-8", "replace")


def text_before_first_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the earliest match."""
    return text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]


@given(TEXT, PLACES, STOPS)
def test_a_stop_string_does_not_depend_on_the_pieces(text: str, positions: list[int], stops: list[str]) -> None:
    scanner, out, stop = StopScanner(stops), "", None
    for piece in split_at(text, positions):
        new, stop = scanner.push(piece)
        out += new
        if stop:
            break
    if stop is None:
        out += scanner.push("", is_last=True)[0]
    assert out == text_before_first_stop(text, stops)


@given(TEXT, PLACES, STOPS)
def test_no_part_of_a_stop_string_is_shown_early(text: str, positions: list[int], stops: list[str]) -> None:
    scanner, out = StopScanner(stops), ""
    for piece in split_at(text, positions):
        new, stop = scanner.push(piece)
        out += new
        assert text_before_first_stop(text, stops).startswith(out)
        if stop:
            break


@given(TEXT, PLACES, STOPS)
def test_a_generation_stops_where_its_scanner_stops(text: str, positions: list[int], stops: list[str]) -> None:
    pieces = split_at(text.encode(), positions)
    records = run_to_end(script_pieces(pieces, stop=tuple(stops)))
    assert text_of(records) == text_before_first_stop(text, stops)
    assert records[-1].finish_reason == "stop"
    watched = run_to_end(script_pieces(pieces, stop=tuple(stops), banned_strings=("aaaaaaa\x01",)))
    assert text_of(watched) == text_of(records)


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["a END b"], ["END"], "a "),
        (["a E", "N", "D b"], ["END"], "a "),
        (["a E", "N", "X b"], ["END"], "a ENX b"),
        (["one two"], ["two", "one"], ""),
        (["b a"], ["a", "b"], ""),
        (["xab", "c", "d"], ["abcd", "bc"], "x"),  # abcd begins first, though bc is complete before it
        (["xab", "ce"], ["abcd", "bc"], "xa"),
        (["aa", "ab"], ["aab"], "a"),
        (["a\n", "\nb"], ["\n\n"], "a"),
        (["END"], ["END"], ""),
        (["a EN"], ["END"], "a EN"),  # the held-back end comes out
        (["a", " b"], ["c"], "a b"),
        (["caf", "\u00e9!"], ["\u00e9"], "caf"),
    ],
)
def test_text_ends_before_the_earliest_stop_string(pieces: list[str], stops: list[str], text: str) -> None:
    records = run_to_end(script_pieces([piece.encode() for piece in pieces], stop=tuple(stops)))
    assert text_of(records) == text


def test_a_stop_string_can_be_split_inside_a_character() -> None:
    word = "z\u00e9ro"
    records = run_to_end(script_pieces([b"a z\xc3", b"\xa9", b"ro b"], stop=(word,)))
    assert text_of(records) == "a "


@pytest.mark.parametrize(
    ("text", "phrases", "length"),
    [
        ("abc", ["cd"], 1),
        ("abc", ["bcd", "cd"], 2),
        ("abc", ["abc"], 0),
        ("aaa", ["aaaa"], 3),
        ("abc", ["x"], 0),
        ("", ["x"], 0),
        ("abc", [], 0),
    ],
)
def test_the_longest_possible_prefix_is_held_back(text: str, phrases: list[str], length: int) -> None:
    assert held_back(text, phrases) == length


@pytest.mark.parametrize(
    ("pieces", "max_tokens", "settings", "text", "reason"),
    [
        (["a", "b", "c"], 2, {}, "ab", "length"),
        (["a", "b", "c"], 3, {}, "abc", "length"),
        (["a", "b", "c"], 4, {}, "abc", "stop"),
        (["a", "b", "c"], 2, {"stop": ("b",)}, "a", "stop"),
        (["a", "b", "c"], 2, {"stop": ("bc",)}, "ab", "length"),
        (["a", "b", "c"], 2, {"banned_strings": ("bc",)}, "ab", "length"),
        (["a", "b", "c"], 2, {"banned_strings": ("bc",), "stop": ("b",)}, "a", "stop"),
        (["a", "b", "c"], 2, {"banned_strings": ("bcd",), "stop": ("bc",)}, "ab", "length"),
        (["a", "b", "c"], 3, {"banned_strings": ("bcd",), "stop": ("bc",)}, "a", "stop"),
        (["a", "b", "c"], 9, {"banned_strings": ("bcd",), "stop": ("bc",)}, "a", "stop"),
        (["xab", "c"], 2, {"stop": ("abcd", "bc")}, "xa", "stop"),
        (["xab", "c"], 9, {"stop": ("abcd", "bc")}, "xa", "stop"),
    ],
)
def test_the_reason_is_right_when_several_ends_coincide(
    pieces: list[str], max_tokens: int, settings: dict[str, Any], text: str, reason: str
) -> None:
    generation = script_pieces([piece.encode() for piece in pieces], max_tokens=max_tokens, **settings)
    records = run_to_end(generation)
    assert (text_of(records), records[-1].finish_reason) == (text, reason)
    assert all(record.finish_reason is None for record in records[:-1])
    assert not generation.script.open


@pytest.mark.parametrize("reason", ["interrupt", "timeout"])
def test_held_back_text_is_released_when_an_answer_is_aborted(reason: FinishReason) -> None:
    generation = script_pieces([b"a", b"b", b"\xc3"], stop=("bX",), banned_strings=("abY",))
    texts = [generation.advance(0, 0, 99).text for _ in range(3)]
    last = generation.finish(reason)
    generation.close()
    assert "".join(texts) + last.text == "ab\ufffd"
    assert (last.finish_reason, last.id, generation.timings.predicted_n) == (reason, None, 3)
    assert not generation.script.open


@pytest.mark.parametrize(("n_ctx", "count"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_a_full_context_still_draws_the_last_token(n_ctx: int, count: int) -> None:
    generation = script_pieces([b"a", b"b", b"c"])  # the prompt takes one position, the last token drawn takes none
    records = run_to_end(generation, n_ctx)
    assert len(text_of(records)) == count
    assert records[-1].finish_reason == ("length" if n_ctx < 4 else "stop")
