"""Character cards, the JSON files that roleplay programs exchange (version 1 to 3), as texts for a model."""

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
    """Whether a JSON object is a card: it says so, or has a key that only cards have."""
    return str(data.get("spec", "")).startswith("chara_card") or any(key in data for key in _V1)


def read_card(data: Mapping[str, Any], source: str) -> tuple[str, str, str, Examples]:
    """Name, system prompt, first message and examples of a card.

    Raises:
        UsageError: that begins with `source`, when a part is no text.
    """
    inner = data.get("data", data)
    if not isinstance(inner, dict):
        raise UsageError(f"{source}: the card's data must be an object")
    card = {key: inner.get(key) or "" for key in _TEXTS}
    for key, value in card.items():
        if not isinstance(value, str):
            raise UsageError(f"{source}: {key} must be a text")
    name = " ".join(card["name"].split())
    examples = _examples(card["mes_example"])
    pairs = tuple((_filled(asked, name), _filled(said, name)) for asked, said in examples)
    return name, _filled(_system(card, bool(examples)), name), _filled(card["first_mes"], name), pairs


def _system(card: Mapping[str, str], has_examples: bool) -> str:
    parts = [
        card["system_prompt"] or "You are {{char}}, and answer as {{char}} would.",
        card["description"],
        f"Personality: {card['personality']}" if card["personality"] else "",
        f"Scenario: {card['scenario']}" if card["scenario"] else "",
        "" if has_examples else _START.sub("", card["mes_example"]),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _filled(text: str, name: str) -> str:
    def put(found: re.Match[str]) -> str:
        word = (found[1] or found[2]).lower()
        return {"user": _USER, "original": ""}.get(word, name or "the character")

    return _PLACEHOLDER.sub(put, text).strip()


def _examples(text: str) -> list[tuple[str, str]]:
    """The turns of the user that the character answers; none where the text is written in another way."""
    pairs = []
    for block in _START.split(text):
        marks = list(_SPEAKER.finditer(block))
        ends = [*(mark.start() for mark in marks[1:]), len(block)]
        turns = [(mark[1] or mark[2], block[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=False)]
        for (who, asked), (then, said) in pairwise(turns):
            if who.lower() == "user" and then.lower() != "user":
                pairs.append((asked, said))
    return pairs
