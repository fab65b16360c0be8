"""A conversation as a document for other programs and people: Markdown, JSON or a web page."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmcli.chat.records import to_event
from llmcli.chat.tree import Message
from llmcli.errors import UsageError

FORMS = {".md": "md", ".markdown": "md", ".json": "json", ".html": "html", ".htm": "html", ".svg": "svg"}
SPEAKERS = {"user": "You", "assistant": "Assistant", "summary": "Summary of what was said before"}
# Why an answer ended, where a reader should know that it is not whole.
ENDINGS = {
    "length": "stopped at the limit of tokens",
    "timeout": "stopped at the limit of time",
    "interrupt": "interrupted",
    "edited": "edited",
}


def form_of(path: Path) -> str:
    """The form that a file's name asks for: md, json, html, or svg, which the terminal's floor draws.

    Raises:
        UsageError: when it asks for none of them.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"cannot tell the form of {path.name!r}", "end its name in .md, .json or .html, or in .svg for a picture"
        )
    return form


def export(
    messages: Sequence[Message],
    title: str,
    system: str | None,
    form: str,
    everything: Mapping[int, Message] | None = None,
) -> str:
    """The document; `everything` adds all branches to JSON, which alone has room for them.

    Raises:
        UsageError: for a form that is not md, json or html.
    """
    if form == "md":
        text = _markdown(messages, title, system)
    elif form == "json":
        text = _json(messages, title, system, everything)
    elif form == "html":
        from llmcli.chat.web_page import web_page

        text = web_page(messages, title, system)
    else:
        raise UsageError(f"cannot export as {form!r}", "choose md, json or html")
    return text.encode("utf-8", "replace").decode()  # half a character, from a name or a model, is no UTF-8


def moment(message: Message) -> datetime | None:
    """When it was said; None where nobody knows."""
    try:
        return datetime.fromtimestamp(message.time, UTC) if message.time else None
    except (ValueError, OverflowError, OSError):  # a file that was changed by hand
        return None


def _markdown(messages: Sequence[Message], title: str, system: str | None) -> str:
    parts = [f"# {' '.join(title.split())}"]
    if system:
        parts += ["## System", _closed(system)]
    for message in messages:
        model = f" ({message.model})" if message.model else ""
        parts.append(f"## {SPEAKERS[message.role]}{model}")
        if message.reasoning:
            inside = re.sub("(?i)<(?=/?(?:details|summary))", "&lt;", _closed(message.reasoning))
            parts.append(f"<details>\n<summary>Reasoning</summary>\n\n{inside}\n\n</details>")
        parts.append(_closed(message.text))
        if message.finish_reason in ENDINGS:
            parts.append(f"*({ENDINGS[message.finish_reason]})*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _closed(text: str) -> str:
    """`text`, with the fence closed that would swallow what follows: of an answer that was cut."""
    from markdown_it import MarkdownIt

    text = text.strip("\n")
    if "```" not in text and "~~~" not in text:
        return text
    tokens = MarkdownIt("commonmark").disable("inline").parse(f"{text}\n\nx")
    return f"{text}\n{tokens[-1].markup}" if tokens[-1].type == "fence" else text


def _json(messages: Sequence[Message], title: str, system: str | None, everything: Mapping[int, Message] | None) -> str:
    listed = [{"role": "system", "content": system}] if system else []
    data: dict[str, Any] = {
        "version": 1,
        "title": title,
        "system": system,
        "messages": [*listed, *map(_entry, messages)],
    }
    if everything is not None:
        data["tree"] = [to_event(message) for message in everything.values()]
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def _entry(message: Message) -> dict[str, Any]:
    """The message as OpenAI's API has it, with attachments as text; what is empty is left out."""
    is_summary, when = message.role == "summary", moment(message)
    more: dict[str, Any] = {
        "summary": is_summary,
        "reasoning_content": message.reasoning,
        "time": when.isoformat(timespec="seconds") if when else "",
        "model": message.model,
        "finish_reason": message.finish_reason,
        "params": dict(message.params),
        "timings": dict(message.timings),
    }
    role = "system" if is_summary else message.role
    return {"role": role, "content": message.text, **{key: value for key, value in more.items() if value}}
