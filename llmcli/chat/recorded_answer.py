"""A recorded answer with its replay data, read from the output of `--json` or from a session.

Both may come from others. No file that they name is opened, and no code that they name is run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcli.chat.controller import sliding_window
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session
from llmcli.errors import UsageError
from llmcli.inference.answer_json import ReplayManifest
from llmcli.inference.comparison import MAX_VARIANTS
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import HubParams
from llmcli.params.param import fields_of
from llmcli.params.settings import fields, parse_data

_COMPLETE = ("stop", "length")
_ROLES = ("system", "user", "assistant")
_WRITE_JSON = "give a file that `llmcli generate --json` wrote"
# Settings of another machine, and those that may name a file: its content is part of the replay data.
_OMITTED = {*fields_of(HubParams), *fields_of(InterfaceParams), "prompt", "preset", "system", "timeout", "logprobs"}
_OMITTED |= {key for key, field in fields().items() if field.param.path}


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer with all that is needed to generate it again; `values` are the typed settings by key.

    `request` is as in `Prompt`; or it is None, and `path` has the messages of a session, `system` its system prompt and
    `continued` the answer that this one continues.
    """

    source: str
    text: str
    reasoning: str
    is_complete: bool  # the model or a limit ended it
    values: Mapping[str, Any]
    manifest: ReplayManifest
    request: Sequence[Mapping[str, Any]] | str | None = None
    path: Sequence[Message] = ()
    system: str | None = None
    continued: Message | None = None
    label: str = ""


def from_output(text: str, source: str, policy_file: str = "") -> list[RecordedAnswer]:
    """The answer in one JSON object of `llmcli generate --json`, or all answers of `compare --json`, with their labels.

    `policy_file` (FILE.py:NAME) is the one that the user allows.

    Raises:
        UsageError: when it is not such an object, or needs a policy file that is not allowed.
    """
    data = _object(text, source)
    variants = data.get("variants")
    if variants is None:
        return [_from_object(data, source, policy_file)]
    if not isinstance(variants, list) or not 0 < len(variants) <= MAX_VARIANTS:
        raise UsageError(f"{source}: variants must be a list of 1 to {MAX_VARIANTS} answers", _WRITE_JSON)
    answers = []
    for number, one in enumerate(variants, 1):
        if not isinstance(one, dict):
            raise UsageError(f"answer {number} of {source} is not a JSON object", _WRITE_JSON)
        answer = _from_object(one, f"answer {number} of {source}", policy_file)
        answers.append(replace(answer, label=_text(one, "label", source)))
    return answers


def _from_object(data: Mapping[str, Any], source: str, policy_file: str) -> RecordedAnswer:
    if "replay" not in data:
        raise UsageError(f"{source} has no replay data", "create it with `llmcli generate --json`")
    values = _settings(data.get("params"), source, policy_file)
    return RecordedAnswer(
        source,
        _text(data, "text", source),
        _text(data, "reasoning_content", source, optional=True),
        _text(data, "finish_reason", source) in _COMPLETE,
        values,
        _manifest(data["replay"], source),
        _request(data, source, bool(values.get("raw"))),
    )


def from_session(session: Session, number: int | None, policy_file: str = "") -> RecordedAnswer:
    """An answer of the current branch: the one of message `number` as /history counts (from 1), or the last one.

    Raises:
        UsageError: when there is none, it has no replay data, or it needs a policy file that is not allowed.
    """
    path = session.conversation.path()
    message = _find_answer(path, number, session.name)
    source = f"answer {path.index(message) + 1} of {session.name}"
    if not message.replay:
        raise UsageError(f"{source} has no replay data: {_missing_reason(message)}", "choose another answer")
    manifest = _manifest(message.replay, source)
    values = _settings(message.params, source, policy_file)
    continued = session.conversation.messages.get(manifest.begun) if manifest.begun else None
    if manifest.begun and not continued:
        raise UsageError(f"{source} continues message {manifest.begun}, which does not exist", "choose another answer")
    system = message.params.get("system")
    return RecordedAnswer(
        source,
        message.content,
        message.reasoning,
        message.finish_reason in _COMPLETE,
        values,
        manifest,
        path=sliding_window(path[: path.index(message)], manifest.first),
        system=manifest.system or (system if isinstance(system, str) and not system.startswith("@") else None),
        continued=continued,
    )


def _find_answer(path: Sequence[Message], number: int | None, name: str) -> Message:
    if number is None:
        last = next((message for message in reversed(path) if message.role == "assistant"), None)
        if not last:
            raise UsageError(f"{name} has no answer", "choose another session")
        return last
    if not 0 < number <= len(path):
        raise UsageError(f"{name} has no message {number}", f"give a number from 1 to {len(path)}, as in /history")
    message = path[number - 1]
    if message.role == "user" and number < len(path):
        message = path[number]
    if message.role != "assistant":
        raise UsageError(f"message {number} of {name} has no answer", "choose another message")
    return message


def _missing_reason(message: Message) -> str:
    if message.finish_reason in ("edited", "greeting"):
        return "no model wrote it"
    return "an older version wrote it, it is a copy from another branch, or a kill stopped it"


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise UsageError(f"{source} is not valid JSON", _WRITE_JSON) from None
    if not isinstance(data, dict):
        raise UsageError(f"{source} is not a JSON object", _WRITE_JSON)
    return data


def _reject_constant(text: str) -> None:
    raise ValueError(text)


def _settings(data: Any, source: str, policy_file: str) -> dict[str, Any]:
    """The typed settings, with the policy file that the user allows."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: params must be an object", _WRITE_JSON)
    recorded = data.get("temp_policy_file")
    if recorded and not policy_file:
        raise UsageError(
            f"{source} needs the policy file {str(recorded)[:200]}, which is code",
            "if you trust it, allow it with --temp-policy-file FILE.py:NAME",
        )
    if policy_file and not recorded:
        raise UsageError(f"{source} has no policy file", "remove --temp-policy-file")
    values = parse_data({key: value for key, value in data.items() if key not in _OMITTED}, f"{source}: params")
    if values.get("seed") is None:
        raise UsageError(f"{source}: params have no seed", _WRITE_JSON)
    return {**values, "temp_policy_file": policy_file or None}


def _request(data: Mapping[str, Any], source: str, raw: bool) -> Sequence[Mapping[str, Any]] | str:
    if raw:
        return _text(data, "prompt", source)
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{source}: messages must be a list of at least one message", _WRITE_JSON)
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise UsageError(f"{source}: each message must have a role: {', '.join(_ROLES)}", _WRITE_JSON)
        _text(message, "content", source)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _text(data: Mapping[str, Any], key: str, source: str, optional: bool = False) -> str:
    value = data.get(key, "" if optional else None)
    if not isinstance(value, str):
        raise UsageError(f"{source}: {key} must be a string", _WRITE_JSON)
    return value


def _manifest(data: Any, source: str) -> ReplayManifest:
    try:
        return ReplayManifest.from_data(data)
    except ValueError as error:
        raise UsageError(f"cannot replay {source}: {error}", _WRITE_JSON) from None
