"""A recorded answer with its replay data, read from the output of `--json` or from a session.

Both may come from others. No file that they name is opened, and no code that they name is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, to_builtins

from llmcli.chat.controller import sliding_window
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session
from llmcli.errors import UsageError
from llmcli.files import convert, decode_json
from llmcli.inference.answer_json import ReplayManifest
from llmcli.inference.comparison import MAX_VARIANTS
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import HubParams
from llmcli.params.param import fields_of
from llmcli.params.settings import fields, parse_data

_COMPLETE = ("stop", "length")
_WRITE_JSON = "give a file that `llmcli generate --json` wrote"
# Settings of another machine, and those that may name a file: its content is part of the replay data.
_OMITTED = {*fields_of(HubParams), *fields_of(InterfaceParams), "prompt", "preset", "system", "timeout", "logprobs"}
_OMITTED |= {key for key, field in fields().items() if field.path}


class _ChatMessage(Struct):
    role: Literal["system", "user", "assistant"]
    content: str


class _Output(Struct):
    """An object of `--json` that anybody may have written."""

    text: str
    finish_reason: str
    params: dict[str, Any]
    replay: Any
    reasoning_content: str = ""
    messages: Annotated[list[_ChatMessage], Meta(min_length=1)] | None = None
    prompt: str | None = None
    label: str = ""


class _Variant(_Output, kw_only=True):
    label: str


class _Comparison(Struct):
    variants: Annotated[list[Any], Meta(min_length=1, max_length=MAX_VARIANTS)]


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer with all that is needed to generate it again."""

    source: str
    text: str
    reasoning: str
    is_complete: bool  # the model or a limit ended it
    values: Mapping[str, Any]  # the typed settings by key
    manifest: ReplayManifest
    request: Sequence[Mapping[str, Any]] | str | None = None  # as in `Prompt`; None: it is made of the messages
    path: Sequence[Message] = ()  # the messages of a session
    system: str | None = None
    continued: Message | None = None  # the answer that this one continues
    label: str = ""


def from_output(text: str, source: str, policy_file: str = "") -> list[RecordedAnswer]:
    """The answer in one JSON object of `llmcli generate --json`, or all answers of `compare --json`, with their labels.

    `policy_file` (FILE.py:NAME) is the one that the user allows; UsageError is raised if another one is needed, or the
    text is not such an object.
    """
    answers: list[RecordedAnswer] = []
    where = source  # as an error names it
    try:
        data = convert(decode_json(text), dict[str, Any])
        if "variants" not in data:
            return [_from_data(data, _Output, source, policy_file)]
        for number, variant in enumerate(convert(data, _Comparison).variants, 1):
            where = f"answer {number} of {source}"
            answers.append(_from_data(variant, _Variant, where, policy_file))
    except ValueError as error:
        raise UsageError(f"{where}: {error}", _WRITE_JSON) from None
    return answers


def _from_data(data: Any, kind: type[_Output], source: str, policy_file: str) -> RecordedAnswer:
    if isinstance(data, dict) and "replay" not in data:
        raise UsageError(f"{source} has no replay data", "create it with `llmcli generate --json`")
    output = convert(data, kind)
    manifest = ReplayManifest.from_data(output.replay)
    values = _settings(output.params, source, policy_file)
    request = output.prompt if values.get("raw") else to_builtins(output.messages)
    if request is None:
        raise UsageError(f"{source}: {'prompt' if values.get('raw') else 'messages'} is missing", _WRITE_JSON)
    is_complete = output.finish_reason in _COMPLETE
    return RecordedAnswer(
        source, output.text, output.reasoning_content, is_complete, values, manifest, request, label=output.label
    )


def from_session(session: Session, number: int | None, policy_file: str = "") -> RecordedAnswer:
    """An answer of the current branch: the one of message `number` as /history counts (from 1), or the last one.

    Raises UsageError if there is none, it has no replay data, or it needs a policy file that is not allowed.
    """
    path = session.conversation.path()
    message = _find_answer(path, number, session.name)
    source = f"answer {path.index(message) + 1} of {session.name}"
    if not message.replay:
        reason = "an older version wrote it, it is a copy from another branch, or a kill stopped it"
        if message.finish_reason in ("edited", "greeting"):
            reason = "no model wrote it"
        raise UsageError(f"{source} has no replay data: {reason}", "choose another answer")
    manifest = ReplayManifest.from_data(message.replay)
    values = _settings(message.params, source, policy_file)
    continued = session.conversation.messages.get(manifest.begun) if manifest.begun else None
    if manifest.begun and not continued:
        raise UsageError(f"{source} continues message {manifest.begun}, which does not exist", "choose another answer")
    return RecordedAnswer(
        source,
        message.content,
        message.reasoning,
        message.finish_reason in _COMPLETE,
        values,
        manifest,
        path=sliding_window(path[: path.index(message)], manifest.first),
        system=recorded_system(message),
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


def _settings(data: Mapping[str, Any], source: str, policy_file: str) -> dict[str, Any]:
    values = recorded_settings(data, source, policy_file)
    if policy_file and not values["temp_policy_file"]:
        raise UsageError(f"{source} has no policy file", "remove --temp-policy-file")
    if values.get("seed") is None:
        raise UsageError(f"{source}: params have no seed", _WRITE_JSON)
    return values


def recorded_settings(data: Mapping[str, Any], source: str, policy_file: str) -> dict[str, Any]:
    """The typed settings without those that may name a file, with the policy file that the user allows, if one is used.

    Raises UsageError for a setting that is not valid, or a policy file that is not allowed.
    """
    values = parse_data(data, f"{source}: params")
    recorded = values.get("temp_policy_file")
    if recorded and not policy_file:
        hint = "if you trust it, allow it with --temp-policy-file FILE.py:NAME"
        raise UsageError(f"{source} needs the policy file {str(recorded)[:200]}, which is code", hint)
    kept = {key: value for key, value in values.items() if key not in _OMITTED}
    return {**kept, "temp_policy_file": policy_file if recorded else None}


def recorded_system(message: Message) -> str | None:
    """The system prompt of an answer; one from a file is in its replay data."""
    system = message.params.get("system")
    is_text = isinstance(system, str) and not system.startswith("@")
    return str(message.replay.get("system") or "") or (system if is_text else None)
