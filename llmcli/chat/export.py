"""A conversation as Markdown, plain text, JSON or a page for a browser."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.text import ellipsize

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_FORMATS = {".md": "md", ".markdown": "md", ".txt": "txt", ".json": "json"}
_FORMATS |= {".html": "html", ".htm": "html", ".svg": "svg"}
_SPEAKERS = {"user": "You", "assistant": "Model", "summary": "Summary of the earlier conversation"}
# Why an answer ended, if a reader should know that it is not complete.
ENDINGS = {
    "length": "stopped at the token limit",
    "timeout": "stopped at the time limit",
    "interrupt": "interrupted",
    "edited": "edited",
}
_LINK = re.compile(r"(?i)(https?://|mailto:)")
_MAX_MARKDOWN = 200_000  # characters; a longer text is not rendered


def format_of(path: Path) -> str:
    """The format of a file: md, txt, json, html, or svg (which `ui` draws). Raises UsageError for another suffix."""
    if name := _FORMATS.get(path.suffix.lower()):
        return name
    hint = "use a name that ends in .md, .txt, .json, .html or .svg (a picture)"
    raise UsageError(f"unknown export format: {path.name!r}", hint)


def export(
    messages: Sequence[Message],
    title: str,
    system: str | None,
    format_name: str,
    everything: Mapping[int, Message] | None = None,
) -> str:
    """The document in one of the formats md, txt, json and html; `everything` adds all branches, in JSON only."""
    if format_name == "json":
        text = _json(messages, title, system, everything)
    else:
        text = {"md": _markdown, "txt": _plain_text, "html": _web_page}[format_name](messages, title, system)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate, from a name or a model, is not UTF-8


def _iso_time(message: Message) -> str:
    """The time of a message; empty if it is not known."""
    return datetime.fromtimestamp(message.time, UTC).isoformat(timespec="seconds") if message.time else ""


def _markdown(messages: Sequence[Message], title: str, system: str | None) -> str:
    parts = [f"# {' '.join(title.split())}"]
    if system:
        parts += ["## System prompt", _close_fence(system)]
    for message in messages:
        parts.append(f"## {_speaker(message)}")
        if message.reasoning:
            inside = re.sub("(?i)<(?=/?(?:details|summary))", "&lt;", _close_fence(message.reasoning))
            parts.append(f"<details>\n<summary>Reasoning</summary>\n\n{inside}\n\n</details>")
        parts.append(_close_fence(message.text))
        if message.finish_reason in ENDINGS:
            parts.append(f"*({ENDINGS[message.finish_reason]})*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain_text(messages: Sequence[Message], title: str, system: str | None) -> str:
    parts = [" ".join(title.split())]
    if system:
        parts.append(f"System prompt:\n{system}")
    for message in messages:
        ending = ENDINGS.get(message.finish_reason)
        parts.append(f"{_speaker(message)}:\n" + message.text.strip("\n") + (f"\n({ending})" if ending else ""))
    return "\n\n".join(part for part in parts if part) + "\n"


def _speaker(message: Message) -> str:
    return _SPEAKERS[message.role] + (f" ({message.model})" if message.model else "")


def _close_fence(text: str) -> str:
    """`text` with its last code fence closed, so that a cut answer does not swallow the next turn."""
    from markdown_it import MarkdownIt

    text = text.strip("\n")
    if "```" not in text and "~~~" not in text:
        return text
    tokens = MarkdownIt("commonmark").disable("inline").parse(f"{text}\n\nx")
    return f"{text}\n{tokens[-1].markup}" if tokens[-1].type == "fence" else text


def _json(messages: Sequence[Message], title: str, system: str | None, everything: Mapping[int, Message] | None) -> str:
    listed = [{"role": "system", "content": system}] if system else []
    entries = [*listed, *map(_entry, messages)]
    data: dict[str, Any] = {"version": 1, "title": title, "system": system, "messages": entries}
    if everything is not None:
        data["tree"] = [message.to_data() for message in everything.values()]
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def _entry(message: Message) -> dict[str, Any]:
    """The message in the form of the OpenAI API, with attachments as text, without empty fields."""
    is_summary = message.role == "summary"
    more: dict[str, Any] = {
        "summary": is_summary,
        "reasoning_content": message.reasoning,
        "time": _iso_time(message),
        "model": message.model,
        "finish_reason": message.finish_reason,
        "params": dict(message.params),
        "timings": dict(message.timings),
    }
    role = "system" if is_summary else message.role
    return {"role": role, "content": message.text, **{key: value for key, value in more.items() if value}}


def _web_page(messages: Sequence[Message], title: str, system: str | None) -> str:
    """The page: rendered Markdown, everything else escaped, and a Content-Security-Policy as the second barrier."""
    import base64
    import hashlib

    import jinja2

    folder = Path(__file__).parent
    style = (folder / "export.css").read_text(encoding="utf-8") + _code_style()
    pages = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    pages.filters["markdown"] = partial(_render, markdown=_renderer())
    return pages.from_string((folder / "export.html").read_text(encoding="utf-8")).render(
        digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        style=style,
        title=title,
        system=system,
        messages=messages,
        speakers=_SPEAKERS,
        iso_time=_iso_time,
        facts=_facts,
    )


def _facts(message: Message) -> str:
    """Why the answer ended, its speed, and its settings that are not defaults."""
    speed = message.timings.get("predicted_per_second", 0)
    settings = (f"{key} {value}" for key, value in message.params.items())
    facts = (ENDINGS.get(message.finish_reason, ""), f"{speed:.1f} tokens/s" if speed else "", *settings)
    return " · ".join(ellipsize(fact, 80) for fact in facts if fact)


def _render(text: str, markdown: "MarkdownIt") -> str:
    from markupsafe import Markup

    if len(text) > _MAX_MARKDOWN:
        return Markup('<div class="plain">{}</div>').format(text)
    tokens = markdown.parse(text)
    for token in tokens:
        if style := token.attrs.pop("style", ""):  # the alignment of a column: the policy refuses inline styles
            token.attrSet("class", str(style).rpartition(":")[2])
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer")
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # raw HTML is off: see `_renderer`


def _renderer() -> "MarkdownIt":
    """Markdown without HTML and images; links to web and mail addresses only."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False, "highlight": _highlight})
    markdown.enable(["table", "strikethrough"]).disable("image")
    # A relative link has no target in a single page.
    markdown.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    return markdown


def _highlight(code: str, language: str, _attributes: str) -> str:
    """The code with colors; "" leaves it as it is."""
    from pygments import formatters, highlight, lexers, util

    try:
        lexer = lexers.get_lexer_by_name(language, stripnl=False)
    except util.ClassNotFound:
        return ""
    return str(highlight(code, lexer, formatters.HtmlFormatter(nowrap=True)))


def _code_style() -> str:
    """The colors of code, for light and dark."""
    from pygments import formatters

    def rules(style: str) -> str:
        lines = formatters.HtmlFormatter(style=style).get_token_style_defs("pre")
        return "\n".join(re.sub(r" /\*.*?\*/", "", line) for line in lines)

    dark = f"@media (prefers-color-scheme: dark) {{\n{rules('github-dark')}\n}}"
    return f"{rules('default')}\n{dark}\npre .err {{ border: 0; background: none; }}\n"
