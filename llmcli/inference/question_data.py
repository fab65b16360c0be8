"""Questions that come as JSON data, from whoever wrote it: their messages, and settings of their own."""

import json
from collections.abc import Mapping, Sequence

from llmcli.engine.events import Message
from llmcli.errors import UsageError
from llmcli.files import is_inline
from llmcli.inference.constraints import is_inline_schema
from llmcli.inference.request import is_builtin_template
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import HubParams, ModelParams
from llmcli.params.param import Field, SettingValue, fields_of
from llmcli.params.settings import CODE_KEYS, Settings, find

# What all questions share: one model in one context.
_SHARED = {*fields_of(ModelParams), *fields_of(HubParams), *fields_of(InterfaceParams), "encoding"}
# What names a file, with what to do instead.
_FILES = {"file": "put the text into prompt", "grammar_file": "put the grammar into grammar"}
_FILES |= dict.fromkeys(CODE_KEYS, "give it as a flag")


def parse_messages(value: object) -> Sequence[Message]:
    """Messages in OpenAI's form, with texts only. Raises UsageError, which names the place, for what is not valid."""
    if not isinstance(value, list) or not value:
        raise UsageError("messages must be a list of objects with role and content")
    return [_message(one, f"messages[{number}]") for number, one in enumerate(value)]


def _message(value: object, place: str) -> Message:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(role, str):
        raise UsageError(f"{place} must be an object with role and content")
    if role not in ("system", "developer", "user", "assistant"):
        raise UsageError(f"{place}.role must be system, user or assistant, got {role[:40]!r}")
    content = value.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in parts else "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise UsageError(f"{place}.content must be a string, or a list of texts")
    return {"role": "system" if role == "developer" else role, "content": content}


def parse_own_settings(own: Mapping[str, object], common: Settings, noun: str) -> dict[str, SettingValue]:
    """The typed settings of one question above those that all share; `noun` names it in errors: a line, a request.

    Raises UsageError for one that is unknown or not valid, that all share, or that names a file or code.
    """
    values: dict[str, SettingValue] = {}
    for name, value in own.items():
        setting = find(name)
        values[setting.key] = _parse(setting, value, common, noun)
    return values


def _parse(setting: Field, value: object, common: Settings, noun: str) -> SettingValue:
    key = setting.key
    if key in _FILES:
        raise UsageError(f"{key} cannot be set in a {noun}: it names a file", _FILES[key])
    if key == "json_schema" and isinstance(value, (dict, bool)):
        value = json.dumps(value)
    parsed = setting.parse_data(value)
    if key in _SHARED and parsed != getattr(common, key):
        reason = f"{key} cannot be set in a {noun}: all {noun}s share one context"
        raise UsageError(reason, f"give it to the command: {setting.flags[0]}")
    _check_no_file(key, parsed, noun)
    return parsed


def _check_no_file(key: str, value: SettingValue, noun: str) -> None:
    if key == "choices" and isinstance(value, tuple) and any(str(one).startswith("@") for one in value):
        raise UsageError(f"choices of a {noun} cannot be a file", f"write its content into the {noun}")
    if not isinstance(value, str):
        return
    is_schema_file = key == "json_schema" and not is_inline_schema(value)
    is_template_file = key == "chat_template" and value and not (is_inline(value) or is_builtin_template(value))
    if is_schema_file or is_template_file:
        reason = f"{key} of a {noun} cannot be a file, got {value[:60]!r}"
        raise UsageError(reason, f"write its content into the {noun}")
