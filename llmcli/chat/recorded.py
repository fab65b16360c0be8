"""An answer of an earlier time with all it carries, read from the output of `--json` or from a session.

Both may come from elsewhere. No file that they name is opened, and no code that they name is run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcli.chat.circumstances import Circumstances, from_data
from llmcli.chat.dialogue import window
from llmcli.chat.session import Session
from llmcli.chat.tree import Message
from llmcli.chat.variants import MOST
from llmcli.errors import UsageError
from llmcli.params.hub import HubParams
from llmcli.params.interface import InterfaceParams
from llmcli.params.param import describe
from llmcli.params.settings import fields, parse_data

_WHOLE = ("stop", "length")
_ROLES = ("system", "user", "assistant")
# What belongs to another day, and whatever may name a file: what stood in it is among the circumstances.
_LEFT_OUT = {*describe(HubParams), *describe(InterfaceParams), "prompt", "preset", "system", "timeout", "logprobs"}
_LEFT_OUT |= {key for key, field in fields().items() if field.param.path}


@dataclass(frozen=True)
class Recorded:
    """`values` are the typed settings by key.

    `asked` is what was asked, as in `Prompt`; or it is None, and `path` holds the messages of a session, `system` its
    system prompt and `begun` the answer that this one goes on with.
    """

    source: str
    text: str
    reasoning: str
    whole: bool  # it ended by itself, or at its limit
    values: Mapping[str, Any]
    circumstances: Circumstances
    asked: Sequence[Mapping[str, Any]] | str | None = None
    path: Sequence[Message] = ()
    system: str | None = None
    begun: Message | None = None
    label: str = ""


def from_output(text: str, source: str, own: str = "") -> list[Recorded]:
    """What one JSON object of `llmcli generate --json` says: an answer, or of `compare --json`: all, with their labels.

    `own` is the file of a policy that the user allows.

    Raises:
        UsageError: when it is none, or was made with a policy that was not allowed.
    """
    data = _object(text, source)
    variants = data.get("variants")
    if variants is None:
        return [_answer_of(data, source, own)]
    if not isinstance(variants, list) or not 0 < len(variants) <= MOST:
        raise UsageError(f"{source} holds no answers that could be compared")
    found = []
    for number, one in enumerate(variants, 1):
        if not isinstance(one, dict):
            raise UsageError(f"answer {number} of {source} is no JSON object")
        answer = _answer_of(one, f"answer {number} of {source}", own)
        found.append(replace(answer, label=_text(one, "label", source)))
    return found


def _answer_of(data: Mapping[str, Any], source: str, own: str) -> Recorded:
    if "replay" not in data:
        raise UsageError(f"{source} carries nothing for a replay", "`llmcli generate --json` writes what does")
    values = _settings(data.get("params"), source, own)
    asked = _asked(data, source, bool(values.get("raw")))
    return Recorded(
        source,
        _text(data, "text", source),
        _text(data, "reasoning_content", source, optional=True),
        _text(data, "finish_reason", source) in _WHOLE,
        values,
        _circumstances(data["replay"], source),
        asked,
    )


def from_session(session: Session, number: int | None, own: str = "") -> Recorded:
    """An answer of the present branch: that of message `number` as /history counts (from 1), or the last one.

    Raises:
        UsageError: when there is none, it carries nothing for a replay, or its policy was not allowed.
    """
    path = session.conversation.path()
    message = _answer(path, number, session.name)
    source = f"answer {path.index(message) + 1} of {session.name}"
    if not message.replay:
        raise UsageError(f"{source} carries nothing for a replay", _why_not(message))
    known = _circumstances(message.replay, source)
    values = _settings(message.params, source, own)
    begun = session.conversation.messages.get(known.begun) if known.begun else None
    if known.begun and not begun:
        raise UsageError(f"{source} goes on with message {known.begun}, which is not there")
    system = message.params.get("system")
    return Recorded(
        source,
        message.content,
        message.reasoning,
        message.finish_reason in _WHOLE,
        values,
        known,
        path=window(path[: path.index(message)], known.first),
        system=known.system or (system if isinstance(system, str) and not system.startswith("@") else None),
        begun=begun,
    )


def _answer(path: Sequence[Message], number: int | None, name: str) -> Message:
    if number is None:
        last = next((message for message in reversed(path) if message.role == "assistant"), None)
        if not last:
            raise UsageError(f"{name} holds no answer")
        return last
    if not 0 < number <= len(path):
        raise UsageError(f"{name} has no message {number}", f"it has {len(path)}; `/history` shows their numbers")
    message = path[number - 1]
    if message.role == "user" and number < len(path):
        message = path[number]
    if message.role != "assistant":
        raise UsageError(f"message {number} of {name} has no answer")
    return message


def _why_not(message: Message) -> str:
    if message.finish_reason in ("edited", "greeting"):
        return "no model gave it"
    return "it was given before there were replays, copied from another branch, or cut off by a kill"


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise UsageError(f"{source} is no JSON", "give a file that `llmcli generate --json` wrote") from None
    if not isinstance(data, dict):
        raise UsageError(f"{source} is no JSON object", "give a file that `llmcli generate --json` wrote")
    return data


def _no_number(text: str) -> None:
    raise ValueError(text)


def _settings(data: Any, source: str, own: str) -> dict[str, Any]:
    """The typed settings, with the user's own policy as it was given now."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: its params are no object")
    policy = data.get("temp_policy_file")
    if policy and not own:
        raise UsageError(
            f"{source} was drawn with a temperature policy of the user's own, {str(policy)[:200]}: that is code",
            "if you trust it, give it with --temp-policy-file FILE.py:NAME",
        )
    if own and not policy:
        raise UsageError(f"{source} was drawn without a policy file", "leave out --temp-policy-file")
    values = parse_data({key: value for key, value in data.items() if key not in _LEFT_OUT}, f"{source}: params")
    if values.get("seed") is None:
        raise UsageError(f"{source}: its params have no seed")
    return {**values, "temp_policy_file": own or None}


def _asked(data: Mapping[str, Any], source: str, raw: bool) -> Sequence[Mapping[str, Any]] | str:
    if raw:
        return _text(data, "prompt", source)
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{source}: its messages are no list")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise UsageError(f"{source}: one of its messages has no role")
        _text(message, "content", source)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _text(data: Mapping[str, Any], key: str, source: str, optional: bool = False) -> str:
    value = data.get(key, "" if optional else None)
    if not isinstance(value, str):
        raise UsageError(f"{source}: its {key} is no text")
    return value


def _circumstances(data: Any, source: str) -> Circumstances:
    try:
        return from_data(data)
    except ValueError as error:
        raise UsageError(f"{source} cannot be replayed: {error}") from None
