"""Export of a conversation as Markdown, plain text and JSON; tests/ui/test_export_html.py has the web page."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from llmcli.chat.conversation import Attachment, Message
from llmcli.chat.export import export, format_of
from llmcli.errors import UsageError

MESSAGES = [
    Message(1, None, "user", "What is *it*?", attachments=(Attachment("a.py", "x = 1\n"),), time=1_700_000_000.0),
    Message(
        2,
        1,
        "assistant",
        "It is **one**.",
        reasoning="They ask.",
        time=1_700_000_001.0,
        model="starter",
        params={"temperature": 1.2, "seed": 3},
        finish_reason="interrupt",
        timings={"predicted_per_second": 101.26},
    ),
]


def answer(text: str, **more: str) -> Message:
    return Message(1, None, "assistant", text, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.md", "md"),
        ("a.MARKDOWN", "md"),
        ("x/a.json", "json"),
        ("a.b.html", "html"),
        ("a.htm", "html"),
        ("a.TXT", "txt"),
    ],
)
def test_the_suffix_of_a_file_selects_the_format(name: str, form: str) -> None:
    assert format_of(Path(name)) == form


@pytest.mark.parametrize("name", ["a", "a.pdf", ".md", "a.md.gz"])
def test_another_suffix_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="unknown export format") as caught:
        format_of(Path(name))
    assert ".txt" in caught.value.hint


def test_markdown_has_a_heading_for_each_turn() -> None:
    assert export(MESSAGES, "On\none", "Be brief.", "md") == (
        "# On one\n\n## System prompt\n\nBe brief.\n\n## You\n\nWhat is *it*?\n\nFile a.py:\n```python\nx = 1\n```\n\n"
        "## Model (starter)\n\n<details>\n<summary>Reasoning</summary>\n\nThey ask.\n\n</details>\n\n"
        "It is **one**.\n\n*(interrupted)*\n"
    )


@pytest.mark.parametrize(
    "cut", ["```python\nx = ", "~~~~\na\n```", "1. a\n\n   ```\n   x", "> ```\n> a", "```\na\n```", "a"]
)
@pytest.mark.parametrize("place", ["content", "reasoning"])
def test_a_cut_answer_does_not_swallow_the_next_turn(cut: str, place: str) -> None:
    first = answer(cut) if place == "content" else answer("a", reasoning=cut)
    tokens = MarkdownIt("commonmark").parse(export([first, *MESSAGES], "t", None, "md"))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert headings == ["t", "Model", "You", "Model (starter)"]


def test_reasoning_cannot_end_its_own_fold() -> None:
    text = export([answer("a", reasoning="x </details> <DETAILS open> y")], "t", None, "md")
    assert len(re.findall("(?i)</?details", text)) == 2


def test_plain_text_has_a_line_for_each_speaker() -> None:
    assert export(MESSAGES, "On\none", "Be brief.", "txt") == (
        "On one\n\nSystem prompt:\nBe brief.\n\nYou:\nWhat is *it*?\n\nFile a.py:\n```python\nx = 1\n```\n\n"
        "Model (starter):\nIt is **one**.\n(interrupted)\n"
    )


def test_json_has_the_messages_of_the_openai_api() -> None:
    data = json.loads(export(MESSAGES, "On one", "Be brief.", "json"))
    assert [data["version"], data["title"], data["system"]] == [1, "On one", "Be brief."]
    assert [message["role"] for message in data["messages"]] == ["system", "user", "assistant"]
    assert data["messages"][1]["content"] == "What is *it*?\n\nFile a.py:\n```python\nx = 1\n```"
    assert data["messages"][2] == {
        "role": "assistant",
        "content": "It is **one**.",
        "reasoning_content": "They ask.",
        "time": "2023-11-14T22:13:21+00:00",
        "model": "starter",
        "finish_reason": "interrupt",
        "params": {"temperature": 1.2, "seed": 3},
        "timings": {"predicted_per_second": 101.26},
    }
    assert "tree" not in data


def test_json_can_include_every_branch() -> None:
    other = Message(3, 1, "assistant", "Two.")
    data = json.loads(export(MESSAGES, "t", None, "json", {message.id: message for message in (*MESSAGES, other)}))
    assert [Message.from_data(event) for event in data["tree"]] == [*MESSAGES, other]
    assert [message["role"] for message in data["messages"]] == ["user", "assistant"]


def test_a_summary_is_marked_as_one() -> None:
    summary = [Message(1, None, "summary", "We greeted.")]
    assert json.loads(export(summary, "t", None, "json"))["messages"] == [
        {"role": "system", "content": "We greeted.", "summary": True}
    ]
    assert "## Summary of the earlier conversation\n\nWe greeted." in export(summary, "t", None, "md")


@pytest.mark.parametrize("form", ["md", "txt", "json"])
def test_extreme_values_can_be_exported(form: str) -> None:
    extreme = Message(
        1, None, "assistant", "\ud800 \0", time=253402300799, params={"a": [None]}, timings={"b": float("inf")}
    )
    export([extreme], "\udcff", "\ud800", form).encode()
    assert export([], "", None, form).endswith("\n")
    assert "a" * 300_000 in export([answer("a" * 300_000)], "t", None, form)
