"""A conversation as Markdown, plain text or JSON; `ui/export_file.py` draws the page and the picture."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.text import escape_json

_FORMATS = {".md": "md", ".markdown": "md", ".txt": "txt", ".json": "json"}
_FORMATS |= {".html": "html", ".htm": "html", ".svg": "svg"}
SPEAKERS = {"user": "You", "assistant": "Model", "summary": "Summary of the earlier conversation"}
# Why an answer ended, if a reader should know that it is not complete.
ENDINGS = {
    "length": "stopped at the token limit",
    "timeout": "stopped at the time limit",
    "interrupt": "interrupted",
    "edited": "edited",
}


def format_of(path: Path) -> str:
    """The format of a file: md, txt, json, html or svg. Raises UsageError for another suffix."""
    if name := _FORMATS.get(path.suffix.lower()):
        return name
    hint = "use a name that ends in .md, .txt, .json, .html or .svg (a picture)"
    raise UsageError(f"unknown export format: {path.name!r}", hint)


def export(
    messages: Sequence[Message], title: str, system: str | None, form: str, tree: Mapping[int, Message] | None = None
) -> str:
    """The document in one of the forms md, txt and json; `tree` adds all branches, in JSON only."""
    if form == "json":
        entries = [*([{"role": "system", "content": system}] if system else []), *map(_entry, messages)]
        data: dict[str, Any] = {"version": 1, "title": title, "system": system, "messages": entries}
        if tree is not None:
            data["tree"] = [message.to_data() for message in tree.values()]
        text = escape_json(json.dumps(data, ensure_ascii=False, indent=2)) + "\n"
    else:
        text = {"md": _markdown, "txt": _plain_text}[form](messages, title, system)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate, from a name or a model, is not UTF-8


def iso_time(message: Message) -> str:
    """The time of a message; empty if it is not known."""
    return datetime.fromtimestamp(message.time, UTC).isoformat(timespec="seconds") if message.time else ""


def _markdown(messages: Sequence[Message], title: str, system: str | None) -> str:
    parts = [f"# {' '.join(title.split())}", *(["## System prompt", _close_fence(system)] if system else [])]
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
    parts = [" ".join(title.split()), f"System prompt:\n{system}" if system else ""]
    for message in messages:
        ending = ENDINGS.get(message.finish_reason)
        parts.append(f"{_speaker(message)}:\n" + message.text.strip("\n") + (f"\n({ending})" if ending else ""))
    return "\n\n".join(part for part in parts if part) + "\n"


def _speaker(message: Message) -> str:
    return SPEAKERS[message.role] + (f" ({message.model})" if message.model else "")


def _close_fence(text: str) -> str:
    """`text` with its last code fence closed, so that a cut answer does not swallow the next turn."""
    from markdown_it import MarkdownIt

    text = text.strip("\n")
    if "```" not in text and "~~~" not in text:
        return text
    tokens = MarkdownIt("commonmark").disable("inline").parse(f"{text}\n\nx")
    return f"{text}\n{tokens[-1].markup}" if tokens[-1].type == "fence" else text


def _entry(message: Message) -> dict[str, Any]:
    """The message in the form of the OpenAI API, with attachments as text, without empty fields."""
    is_summary = message.role == "summary"
    more: dict[str, Any] = {
        "summary": is_summary,
        "reasoning_content": message.reasoning,
        "time": iso_time(message),
        "model": message.model,
        "finish_reason": message.finish_reason,
        "params": dict(message.params),
        "timings": dict(message.timings),
    }
    role = "system" if is_summary else message.role
    return {"role": role, "content": message.text, **{key: value for key, value in more.items() if value}}
