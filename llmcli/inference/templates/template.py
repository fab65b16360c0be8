"""Chat templates: Jinja texts, rendered in a sandbox with limits."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from llmcli.chat.metering import Meter, OverLimitError
from llmcli.errors import LlmcliError, ModelInvalidError
from llmcli.inference.templates.sandbox import Sandbox

Message = Mapping[str, Any]
_OTHER = "use another template with --chat-template"
_SECONDS = 2.0
_MOST_SOURCE = 1 << 17  # characters; the longest published template has 20,000
_ROOM = 1 << 25  # characters that a rendering may produce in all, beyond 128 times its input
_SPARE_OUTPUT = 1 << 20  # characters of output beyond eight times the input


class ChatTemplate:
    """A compiled chat template.

    Raises:
        ModelInvalidError: when the text is not a Jinja template.
    """

    def __init__(self, source: str, special: Mapping[str, str], origin: str) -> None:
        """`special` holds `bos_token` and `eos_token`; `origin` names the template in errors."""
        self.source = source
        self.moment: float | None = None  # the time for the template (seconds since 1970); None: now
        self._special = dict(special)
        self._origin = origin
        self._sandbox = Sandbox(Meter(_SPARE_OUTPUT, _SECONDS))
        if len(source) > _MOST_SOURCE:
            raise ModelInvalidError(f"{origin} has more than {_MOST_SOURCE} characters", _OTHER)
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as error:  # of Jinja, or of Python, which compiles the code that Jinja makes
            raise ModelInvalidError(f"{origin} is not valid Jinja: {_line(error)}", _OTHER) from None

    def render(self, messages: Sequence[Message], thinking: bool = True, generation_prompt: bool = True) -> str:
        """The prompt text for `messages` of {"role", "content"}.

        Where a template refuses a system message, it comes before the first user message, as in llama.cpp.

        Raises:
            LlmcliError: when the template fails, or exceeds the limits of time and text.
        """
        variables = {"add_generation_prompt": generation_prompt, **self._special}
        self._sandbox.moment = time.time() if self.moment is None else self.moment
        if not thinking:
            variables |= {"enable_thinking": False, "thinking": False}
        try:
            return self._render(messages, variables)
        except TemplateError as error:
            if not (messages and messages[0]["role"] == "system") or isinstance(error, SecurityError):
                raise self._failed(error) from None
        try:
            return self._render(_merge_system(messages), variables)
        except TemplateError as error:
            raise self._failed(error) from None

    @property
    def told(self) -> float:
        """The time that the last rendering used."""
        return self._sandbox.moment

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        size = sum(len(str(message["content"])) for message in messages)
        self._sandbox.meter = Meter(_ROOM + 128 * size, _SECONDS)
        limit = 8 * size + _SPARE_OUTPUT
        pieces = []
        try:
            for piece in self._template.generate(messages=[dict(m) for m in messages], **variables):
                pieces.append(piece)
                limit -= len(piece)
                if limit < 0:
                    raise OverLimitError("it produces too much text")
        except TemplateError:
            raise
        except Exception as error:  # any error of Python code that the template runs
            raise self._failed(error) from None
        return "".join(pieces)

    def _failed(self, error: Exception) -> LlmcliError:
        return LlmcliError(f"{self._origin} fails: {_line(error)}", f"{_OTHER}, or use --raw")


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:160]


def _merge_system(messages: Sequence[Message]) -> list[Message]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
