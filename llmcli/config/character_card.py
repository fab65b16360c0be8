"""Character cards, the JSON files that roleplay programs exchange (version 1 to 3), converted to text for a model."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from llmcli.errors import UsageError

_V1 = ("first_mes", "description", "personality", "scenario", "mes_example")
_TEXTS = ("name", "system_prompt", *_V1)
_USER = "User"
_PLACEHOLDER = re.compile(r"\{\{(char|user|original)\}\}|<(BOT|CHAR|USER)>", re.IGNORECASE)
_SPEAKER = re.compile(r"^(?:\{\{(user|char)\}\}|<(user|bot|char)>)\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_START = re.compile(r"<START>", re.IGNORECASE)

Examples = tuple[tuple[str, str], ...]


def is_card(data: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a card: it names the card format, or has a key that only cards have."""
    return str(data.get("spec", "")).startswith("chara_card") or any(key in data for key in _V1)


def read_card(data: Mapping[str, Any], source: str) -> tuple[str, str, str, Examples]:
    """Name, system prompt, greeting and examples of a card.

    Raises:
        UsageError: that begins with `source`, if a part is not text.
    """
    inner = data.get("data", data)
    if not isinstance(inner, dict):
        raise UsageError(f"{source}: `data` of the card must be a JSON object")
    card = {key: inner.get(key) or "" for key in _TEXTS}
    for key, value in card.items():
        if not isinstance(value, str):
            raise UsageError(f"{source}: {key} must be a string")
    name = " ".join(card["name"].split())
    examples = _examples(card["mes_example"])
    pairs = tuple(
        (_fill_placeholders(question, name), _fill_placeholders(answer, name)) for question, answer in examples
    )
    return (
        name,
        _fill_placeholders(_system_prompt(card, bool(examples)), name),
        _fill_placeholders(card["first_mes"], name),
        pairs,
    )


def _system_prompt(card: Mapping[str, str], has_examples: bool) -> str:
    parts = [
        card["system_prompt"] or "You are {{char}}, and answer as {{char}} would.",
        card["description"],
        f"Personality: {card['personality']}" if card["personality"] else "",
        f"Scenario: {card['scenario']}" if card["scenario"] else "",
        "" if has_examples else _START.sub("", card["mes_example"]),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _fill_placeholders(text: str, name: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        word = (match[1] or match[2]).lower()
        return {"user": _USER, "original": ""}.get(word, name or "the character")

    return _PLACEHOLDER.sub(replacement, text).strip()


def _examples(text: str) -> list[tuple[str, str]]:
    """Pairs of a question and the answer of the character; empty if the text has another form."""
    pairs = []
    for block in _START.split(text):
        marks = list(_SPEAKER.finditer(block))
        ends = [*(mark.start() for mark in marks[1:]), len(block)]
        turns = [(mark[1] or mark[2], block[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=False)]
        for (speaker, question), (next_speaker, answer) in pairwise(turns):
            if speaker.lower() == "user" and next_speaker.lower() != "user":
                pairs.append((question, answer))
    return pairs
