"""The fenced code blocks of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.ui.commands.files import code_blocks


@pytest.mark.parametrize(
    ("answer", "blocks"),
    [
        ("", []),
        ("no code, `a` only", []),
        ("    indented\n", []),
        ("```python\nx = 1\n```", ["x = 1\n"]),
        ("a\n```\none\n```\nb\n~~~sh\ntwo\n\nthree\n~~~\nc", ["one\n", "two\n\nthree\n"]),
        ("````md\n```\ninner\n```\n````", ["```\ninner\n```\n"]),
        ("1. first\n\n   ```\n   a\n     b\n   ```\n2. second", ["a\n  b\n"]),
        ("> ```\n> quoted\n> ```", ["quoted\n"]),
        ("```\n```", [""]),
        ("```c\ncut off", ["cut off"]),
        ("a ``` b ``` c", []),
        ("```\r\nwindows\r\n```\r\n", ["windows\n"]),
    ],
)
def test_the_fenced_blocks_are_found_in_order(answer: str, blocks: list[str]) -> None:
    assert code_blocks(answer) == blocks


@given(st.text("`~> -\n\0\x1b1.ab"))
def test_any_answer_can_be_searched_for_code(answer: str) -> None:
    for line in "\n".join(code_blocks(answer)).split("\n"):
        assert line.strip(" ") in answer.replace("\0", "\ufffd")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["```\n", "- ", "> ", "`", "[", "a\n"])
def test_endless_repetition_is_searched_in_time(piece: str) -> None:
    answer = piece * 20_000 + "```"
    assert sum(map(len, code_blocks(answer))) < len(answer)
