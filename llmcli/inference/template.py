"""Chat templates: how messages become a prompt, by a Jinja text in a sandbox or by a template of llama.cpp."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables

from llmcli.engine.events import Message, Prompt
from llmcli.engine.llama.bindings import apply_chat_template
from llmcli.errors import LlmcliError, ModelInvalidError, UsageError
from llmcli.inference.request import is_builtin_template
from llmcli.inference.sandbox import Sandbox
from llmcli.params.generation import NOT_TEMPLATE_ARGS, template_args_as_data
from llmcli.params.settings import Settings
from llmcli.text import did_you_mean

_HINT = "use another template with --chat-template"
_GIVEN_HINT = (
    "correct the template, which gets messages, add_generation_prompt, bos_token, eos_token and --template-arg"
)
_MAX_SOURCE = 1 << 17  # characters; the longest published template has 20,000
_ROOM = 1 << 25  # characters that a rendering may produce in all, beyond 128 times its input
_SPARE_OUTPUT = 1 << 20  # characters of output beyond eight times the input
_NEEDLES = ("5830472916", "7264910835")  # a system prompt and a message, in digits, which no filter changes


class ChatTemplate:
    """A compiled chat template. Raises ModelInvalidError when it is not Jinja; UsageError, when the user gave it."""

    def __init__(self, source: str, special: Mapping[str, str], origin: str, is_given: bool = False) -> None:
        """`source` is Jinja or the name of a template of llama.cpp; `special` has `bos_token` and `eos_token`.

        `origin` names the template in errors.
        """
        self.source = source
        self.time: float | None = None  # the time for the template (seconds since 1970); None: now
        self._special = dict(special)
        self._origin, self._is_given = origin, is_given
        self._is_probed = False
        self._takes_parts = False  # whether it iterates over a content, which must be a list of typed parts
        # Whether tools are a text in it, as in FireFunction.
        self._takes_functions = bool(re.search(r"\bfunctions\b", source)) and not re.search(r"\btools\b", source)
        self._omits_system = False  # whether it takes a system message, and does not write it
        self._sandbox = Sandbox()
        self._template = None
        if is_builtin_template(source):
            return
        if len(source) > _MAX_SOURCE:
            raise self._error(ModelInvalidError(f"{origin} has more than {_MAX_SOURCE} characters", _HINT))
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as error:  # of Jinja, or of Python, which compiles the code that Jinja makes
            reason = self._describe(error).rstrip(".")
            raise self._error(ModelInvalidError(f"{origin} is not valid Jinja: {reason}", _HINT)) from None

    def render(self, messages: Sequence[Message], arguments: Mapping[str, object] | None = None) -> str:
        """The prompt text for `messages`; `arguments` are further variables of the template.

        A message has `role` and `content`, and what a template reads beside them: `reasoning_content`, `tool_calls`.
        Where a template refuses or omits a system message, it comes before the first user message, as in llama.cpp.
        Raises LlmcliError when the template fails, exceeds the limits of time and text, or omits the last message of
        the user.
        """
        self._sandbox.time = time.time() if self.time is None else self.time
        arguments = arguments or {}
        variables = {"add_generation_prompt": True, **self._usual(arguments), **arguments, **self._special}
        if not self._is_probed:
            self._probe(variables)
        attempts = [messages]
        if messages and messages[0]["role"] == "system":
            attempts = [_without_system(messages)] if self._omits_system else [messages, _without_system(messages)]
        if any("tool_calls" in message for message in messages):
            attempts = [form for attempt in attempts for form in (attempt, _with_texts_of_calls(attempt))]
        for attempt in attempts:
            try:
                text = self._render(attempt, variables)
                if self._has_question(attempt, text, variables):
                    return text
            except Exception as error:  # of the template, or of Python code that it runs
                failure = error
                if not isinstance(failure, (TemplateError, TypeError)) or isinstance(failure, SecurityError):
                    break
            else:
                reason = f"{self._origin} does not write the last message of the user into the prompt"
                raise self._error(LlmcliError(reason, f"{_HINT}, or use --raw"))
        raise self._error(LlmcliError(f"{self._origin} fails: {self._describe(failure)}", f"{_HINT}, or use --raw"))

    def _usual(self, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """What llama.cpp gives each template: the date, without which Llama 3 writes one of 2024 into its prompt."""
        now, tools = datetime.fromtimestamp(self._sandbox.time), arguments.get("tools")
        dates = {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
        if not self._takes_functions:
            return dates
        return {**dates, "functions": json.dumps(tools, ensure_ascii=False, indent=2) if tools else ""}

    def _error(self, error: LlmcliError) -> LlmcliError:
        return UsageError(str(error), _GIVEN_HINT) if self._is_given else error

    def _describe(self, error: Exception) -> str:
        """The error in one line; with the line of the template, if that has several."""
        line, text, trace = None, str(error), error.__traceback__
        while trace:  # Jinja writes the lines of the template into it
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<template>" else line
            trace = trace.tb_next
        if isinstance(error, TemplateSyntaxError):
            line, text = error.lineno, error.message or ""
        place = f"line {line}: " if line and "\n" in self.source.strip() else ""
        return place + " ".join((text or type(error).__name__).split())[:160]

    def _probe(self, variables: Mapping[str, object]) -> None:
        """Find out, with one short conversation, what the template does with the contents of messages.

        That is done once, as a short message of a user may stand in any prompt by chance.
        """
        self._is_probed = True
        system, user = (
            {"role": role, "content": text} for role, text in zip(("system", "user"), _NEEDLES, strict=True)
        )
        for self._takes_parts in (False, True):
            for conversation in ([system, user], [user]):
                try:
                    text = self._render(conversation, variables)
                except SecurityError:  # which the messages of the user will get too
                    self._takes_parts = False
                    return
                except Exception:  # it refuses a system message, or a content of this type
                    continue
                if _NEEDLES[1] in text:
                    self._omits_system = len(conversation) > 1 and _NEEDLES[0] not in text
                    return
        self._takes_parts = False

    def _has_question(self, messages: Sequence[Message], text: str, variables: Mapping[str, object]) -> bool:
        """Whether the last message, if the user wrote it, stands in the prompt, as it is or changed by a filter."""
        if not messages or messages[-1]["role"] != "user" or str(messages[-1]["content"]).strip() in text:
            return True
        changed = [*messages[:-1], {**messages[-1], "content": _NEEDLES[1]}]
        return _NEEDLES[1] in self._render(changed, variables)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, object]) -> str:
        if self._template is None:
            return apply_chat_template(self.source, messages, bool(variables["add_generation_prompt"]))
        size = sum(len(str(message["content"])) for message in messages) + sum(len(str(v)) for v in variables.values())
        self._sandbox.start(_ROOM + 128 * size)
        limit = 8 * size + _SPARE_OUTPUT
        pieces = []
        given = [{**message, "content": self._content(message)} for message in messages]
        for piece in self._template.generate({**variables, "messages": given}):
            pieces.append(piece)
            limit -= len(piece)
            if limit < 0:
                raise SecurityError("it produces too much text")
        return "".join(pieces)

    def _content(self, message: Message) -> object:
        return [{"type": "text", "text": message["content"]}] if self._takes_parts else message["content"]


def unread_arguments(prompt: Prompt, settings: Settings) -> tuple[str, str] | None:
    """A warning, and its hint, of variables in the settings that the chat template of a prompt does not read."""
    names = template_args_as_data(settings.template_arg)
    if not names or not prompt.template:
        return None
    read = _variables_of(prompt.template)
    unread, others = [name for name in names if name not in read], sorted(read - {*NOT_TEMPLATE_ARGS})
    if not unread:
        return None
    hint = did_you_mean(unread[0], others) or (f"it reads {', '.join(others[:8])}" if others else "")
    return f"template_arg {', '.join(unread)} has no effect: the chat template does not read it", hint


@lru_cache(maxsize=8)
def _variables_of(source: str) -> frozenset[str]:
    """The variables that a valid chat template can read; a template of llama.cpp reads none."""
    if is_builtin_template(source):
        return frozenset()
    return frozenset(find_undeclared_variables(Sandbox().parse(source)))


def _without_system(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with the system message as the beginning of the first user message."""
    content, rest = messages[0]["content"], messages[1:]
    if rest and rest[0]["role"] == "user":
        content, rest = f"{content}\n\n{rest[0]['content']}", rest[1:]
    return [{"role": "user", "content": content}, *rest]


def _with_texts_of_calls(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with the arguments of tool calls as texts of JSON: most templates take objects, some only texts."""

    def as_text(call: object) -> object:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            return call
        return {
            **call,
            "function": {**function, "arguments": json.dumps(function.get("arguments"), ensure_ascii=False)},
        }

    return [
        {**one, "tool_calls": [as_text(call) for call in calls]}
        if isinstance(calls := one.get("tool_calls"), list)
        else one
        for one in messages
    ]
