"""The choke point: nothing that reaches a terminal can drive it."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.text import escape_json, sanitize


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext é 日本 🙂", "plain\n\ttext é 日本 🙂"),
        ("\x1b]52;c;evil\x07", "␛]52;c;evil␇"),
        ("\x1b[2J", "␛[2J"),
        ("over\rwritten", "overwritten"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "␡"),
        ("a\u202eb", "a\\u202eb"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\ufffd"),
        ("", ""),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@given(st.text(st.characters()))
def test_no_control_character_but_line_feed_and_tab_passes(text: str) -> None:
    shown = sanitize(text)
    assert all(char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_json_has_its_value_and_drives_nothing(text: str) -> None:
    escaped = escape_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(escaped) == [text]
    assert sanitize(escaped) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("é 日本 🙂", "é 日本 🙂"),
        ("\x9b31m\x7f\u202e", "\\u009b31m\\u007f\\u202e"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("\ud800", "\ufffd"),
    ],
)
def test_control_characters_are_escapes_in_json(text: str, escaped: str) -> None:
    assert escape_json(text) == escaped


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_splitting_a_text_changes_nothing(text: str, at: int) -> None:
    assert sanitize(text[:at]) + sanitize(text[at:]) == sanitize(text)
