"""The web page of a conversation: it shows everything, and no text in it becomes part of the page."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.chat.conversation import Attachment, Message
from llmcli.ui.export_file import page
from tests.chat.test_export import MESSAGES, answer

ELEMENTS = {
    "html",
    "meta",
    "title",
    "style",
    "main",
    "h1",
    "article",
    "div",
    "b",
    "time",
    "p",
    "pre",
    "code",
    "span",
} | {
    *("details", "summary", "a", "em", "strong", "s", "ul", "ol", "li", "blockquote", "hr", "br"),
    *("h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {
    "class",
    "dir",
    "href",
    "rel",
    "datetime",
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "start",
    "title",
}


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(text: str) -> Page:
    return Page(page([answer(text)], "t", None))


def test_a_page_shows_the_whole_conversation() -> None:
    shown = Page(page(MESSAGES, "On one", "Be brief."))
    for text in (
        "On one",
        "Be brief.",
        "What is *it*?",
        "a.py",
        "x = 1",
        "They ask.",
        "starter",
        "2023-11-14 22:13 UTC",
    ):
        assert text in shown.text
    assert "interrupted · 101.3 tokens/s · temperature 1.2 · seed 3" in shown.text
    assert [article["class"] for article in shown.all("article")] == ["user", "assistant"]
    assert len(shown.all("strong")) == 1
    assert shown.all("em") == []  # the text of a user is not rendered


def test_the_policy_of_a_page_allows_its_own_style_only() -> None:
    text = page(MESSAGES, "t", None)
    policy = next(meta["content"] for meta in Page(text).all("meta") if "http-equiv" in meta)
    style = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert len(style) == 1
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert text.index("http-equiv") < text.index("<style>")
    assert "prefers-color-scheme: dark" in style[0]
    assert not re.search(r"(?i)url\(|@import|https?:", style[0])


HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)><style>*{}</style></article></main>&amp;" onclick="x'


@pytest.mark.parametrize(
    "place",
    [
        lambda x: page([answer(x)], "t", None),
        lambda x: page([answer("a", reasoning=x)], "t", None),
        lambda x: page([answer("a", model=x)], "t", None),
        lambda x: page([answer(f"```{x}\n{x}\n```")], "t", None),
        lambda x: page([answer(f"```html\n{x}\n```")], "t", None),
        lambda x: page([answer(f"[a](http://b '{x}') | `{x}`\n\n- {x}")], "t", None),
        lambda x: page([Message(1, None, "user", x, attachments=(Attachment(x, x),))], "t", None),
        lambda x: page([Message(1, None, "assistant", "a", params={x: x})], "t", None),
        lambda x: page([], x, x),
    ],
)
def test_no_text_becomes_part_of_the_page(place: Callable[[str], str]) -> None:
    hostile, tame = Page(place(HOSTILE)), Page(place("tame"))
    assert {tag for tag, _ in hostile.elements} <= ELEMENTS
    assert {name for _, attributes in hostile.elements for name in attributes} <= ATTRIBUTES
    assert [tag for tag, _ in hostile.elements if tag != "span"] == [tag for tag, _ in tame.elements if tag != "span"]


@pytest.mark.slow
@settings(deadline=None)
@given(st.text("<>&\"'`[]()!|-:\n\\ahtpsijv1#*_~/\0"))
def test_any_markdown_becomes_known_elements_only(text: str) -> None:
    shown = page_of(text)
    assert {tag for tag, _ in shown.elements} <= ELEMENTS
    assert {name for _, attributes in shown.elements for name in attributes} <= ATTRIBUTES


@pytest.mark.parametrize("url", ["http://a.b/c", "HTTPS://a.b", "mailto:a@b.c"])
def test_a_link_to_the_web_sends_no_referrer(url: str) -> None:
    for text in (f"[a]({url})", f"<{url}>", f"[a][1]\n\n[1]: {url}"):
        (link,) = page_of(text).all("a")
        assert link["href"] is not None
        assert link["href"].lower() == url.lower()
        assert "noopener" in str(link["rel"])


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JavaScript&colon;alert(1)", "data:text/html,x", "file:///etc/passwd", "//a.b", "x.html"],
)
def test_other_links_and_images_are_not_rendered(url: str) -> None:
    assert page_of(f"[a]({url}) <{url}>\n\n[b][1]\n\n[1]: {url}").all("a") == []
    assert page_of("![a](http://a.b/c.png)").all("img") == []


def test_the_columns_of_a_table_are_aligned_by_a_class() -> None:
    shown = page_of("|a|b|\n|:-:|--:|\n|1|2|")
    assert [cell["class"] for cell in shown.all("td")] == ["center", "right"]


def test_only_code_of_a_known_language_has_colors() -> None:
    assert len(page_of("```python\nif x: pass\n```").all("span")) > 3
    assert page_of("```nothing-known\nif x\n```").all("span") == []
    assert "if x: pass" in page_of("```python\nif x: pass\n```").text


def test_a_summary_has_a_class_of_its_own() -> None:
    assert '<article class="summary"' in page([Message(1, None, "summary", "We greeted.")], "t", None)


def test_extreme_values_fit_a_page() -> None:
    extreme = Message(
        1, None, "assistant", "\ud800 \0", time=253402300799, params={"a": [None]}, timings={"b": float("inf")}
    )
    page([extreme], "\udcff", "\ud800").encode()
    assert page([], "", None).endswith("\n")
    assert "a" * 300_000 in page([answer("a" * 300_000)], "t", None)


def test_a_page_takes_markdown_and_languages_as_the_chat_does() -> None:
    assert r"\(x_1\) and \[y_1\]" in page_of(r"\(x_1\) and \[y_1\]").text
    assert len(page_of("```node\nlet x = 1\n```").all("span")) > 3


def test_a_page_of_brackets_that_never_close_is_drawn_at_once() -> None:
    assert "[" * 100_000 in page_of("[" * 100_000).text
