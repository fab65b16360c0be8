"""Export a conversation as Markdown, plain text, JSON or a web page."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmcli.chat.conversation import Message
from llmcli.chat.sessions.format import to_event
from llmcli.errors import UsageError

FORMS = {
    ".md": "md",
    ".markdown": "md",
    ".txt": "txt",
    ".json": "json",
    ".html": "html",
    ".htm": "html",
    ".svg": "svg",
}
SPEAKERS = {"user": "You", "assistant": "Model", "summary": "Summary of the earlier conversation"}
# Why an answer ended, if a reader should know that it is not complete.
ENDINGS = {
    "length": "stopped at the token limit",
    "timeout": "stopped at the time limit",
    "interrupt": "interrupted",
    "edited": "edited",
}


def form_of(path: Path) -> str:
    """The form of a file name: md, txt, json, html, or svg (which `ui` draws).

    Raises:
        UsageError: if the suffix is not one of these forms.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"unknown export format: {path.name!r}",
            "use a name that ends in .md, .txt, .json, .html or .svg (a picture)",
        )
    return form


def export(
    messages: Sequence[Message],
    title: str,
    system: str | None,
    form: str,
    everything: Mapping[int, Message] | None = None,
) -> str:
    """The document; `everything` adds all branches, in JSON only.

    Raises:
        UsageError: for a form that is not md, txt, json or html.
    """
    if form == "md":
        text = _markdown(messages, title, system)
    elif form == "txt":
        text = _plain_text(messages, title, system)
    elif form == "json":
        text = _json(messages, title, system, everything)
    elif form == "html":
        from llmcli.chat.web_page import web_page

        text = web_page(messages, title, system)
    else:
        raise UsageError(f"unknown export format: {form!r}", "use md, txt, json or html")
    return text.encode("utf-8", "replace").decode()  # a lone surrogate, from a name or a model, is not UTF-8


def moment(message: Message) -> datetime | None:
    """The time of a message; None if it is not known."""
    try:
        return datetime.fromtimestamp(message.time, UTC) if message.time else None
    except (ValueError, OverflowError, OSError):  # a file that was edited
        return None


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
    return SPEAKERS[message.role] + (f" ({message.model})" if message.model else "")


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
    """The message in the form of the OpenAI API, with attachments as text, without empty fields."""
    is_summary, time = message.role == "summary", moment(message)
    more: dict[str, Any] = {
        "summary": is_summary,
        "reasoning_content": message.reasoning,
        "time": time.isoformat(timespec="seconds") if time else "",
        "model": message.model,
        "finish_reason": message.finish_reason,
        "params": dict(message.params),
        "timings": dict(message.timings),
    }
    role = "system" if is_summary else message.role
    return {"role": role, "content": message.text, **{key: value for key, value in more.items() if value}}
