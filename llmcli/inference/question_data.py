"""Questions that come as JSON data, from whoever wrote it: their messages, and settings of their own."""

import json
from collections.abc import Mapping, Sequence

from llmcli.engine.events import Message
from llmcli.errors import UsageError
from llmcli.files import is_inline
from llmcli.inference.constraints import is_inline_schema
from llmcli.inference.request import is_builtin_template
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import EndpointParams, HubParams, ModelParams, StateParams
from llmcli.params.param import Field, SettingValue, fields_of
from llmcli.params.policies.policy import names_in
from llmcli.params.policies.rules import BUILTIN, Policy
from llmcli.params.policies.user_functions import package_source
from llmcli.params.settings import CODE_KEYS, Settings, find

# What all questions share: one model in one context.
_SHARED = {*fields_of(ModelParams), *fields_of(StateParams), *fields_of(HubParams), *fields_of(InterfaceParams)}
_SHARED |= {*fields_of(EndpointParams), "encoding"}
# Texts of a message beside its content, with their names in chat templates.
_MESSAGE_TEXTS = {"reasoning_content": "reasoning_content", "reasoning": "reasoning_content"}
_MESSAGE_TEXTS |= {name: name for name in ("name", "tool_call_id")}
# What names a file, with what to do instead.
_FILES = {"file": "put the text into prompt", "grammar_file": "put the grammar into grammar"}
_FILES |= dict.fromkeys(CODE_KEYS, "give it as a flag")


def parse_messages(value: object) -> Sequence[Message]:
    """Messages in OpenAI's form, with texts only. Raises UsageError, which names the place, for what is not valid.

    Beside `role` and `content` they have what a chat template can read: `reasoning_content`, `name`, and the calls of
    tools with their results; the arguments of a call become an object.
    """
    if not isinstance(value, list) or not value:
        raise UsageError("messages must be a list of objects with role and content")
    return [_message(one, f"messages[{number}]") for number, one in enumerate(value)]


def _message(value: object, place: str) -> Message:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(role, str):
        raise UsageError(f"{place} must be an object with role and content")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise UsageError(f"{place}.role must be system, user, assistant or tool, got {role[:40]!r}")
    calls = value.get("tool_calls") or []
    content = _content(value.get("content"), place)
    if content is None and not (role == "assistant" and calls):
        raise UsageError(f"{place}.content must be a string, or a list of texts")
    message = {"role": "system" if role == "developer" else role, "content": content or ""}
    for key, name in _MESSAGE_TEXTS.items():
        text = value.get(key)
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{place}.{key} must be a string")
        message |= {name: text} if text else {}
    if calls:
        if not isinstance(calls, list):
            raise UsageError(f"{place}.tool_calls must be a list")
        return {**message, "tool_calls": [_call(one, f"{place}.tool_calls[{n}]") for n, one in enumerate(calls)]}
    return message


def _content(value: object, place: str) -> str | None:
    """The text of a content; None if it is of another type."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else None
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image_url", "image", "input_image", "input_audio", "audio", "file", "input_file"):
            noun = str(kind).removeprefix("input_").removesuffix("_url")
            raise UsageError(f"{noun} input is not supported ({place}.content): this model reads texts")
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


def _call(value: object, place: str) -> Mapping[str, object]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(f"{place} must be an object with a function, which has a name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise UsageError(f"{place}.function.arguments must be JSON") from None
    return {**value, "type": "function", "function": {**function, "arguments": arguments}}


def parse_own_settings(own: Mapping[str, object], common: Settings, noun: str) -> dict[str, SettingValue]:
    """The typed settings of one question above those that all share; `noun` names it in errors: a line, a request.

    Raises UsageError for one that is unknown or not valid, that all share, or that names a file or code.
    """
    values: dict[str, SettingValue] = {}
    for name, value in own.items():
        setting = find(name)
        if value is None and setting.default is not None:
            continue  # not set: tables that were made into JSON have nulls
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
    if key == "temperature" and isinstance(parsed, Policy):
        _check_no_code(parsed, common, noun)
    return parsed


def _check_no_code(policy: Policy, common: Settings, noun: str) -> None:
    """A function of a user's file or package runs only where the command itself names it."""
    known = {*BUILTIN, *names_in(common.temperature), (common.temp_policy_file or "").rpartition(":")[2]}
    for name in names_in(policy):
        if name not in known and package_source(name):
            reason = f"temperature of a {noun} cannot name {name!r}: it is the function of a package"
            raise UsageError(reason, "name it in the command: --temperature")


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
