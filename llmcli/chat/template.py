"""Chat templates: the model's own Jinja text, rendered in a sandbox with limits."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from types import FrameType
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmcli.errors import LlmcliError, ModelInvalidError

Message = Mapping[str, Any]
_SECONDS = 2.0
_SPARE_OUTPUT = 1 << 20  # characters beyond eight times the input
_MAX_VALUE = 1 << 24  # length of any text or list that an operator makes


class _OverLimitError(Exception):
    """The template took too long or wrote too much."""


class ChatTemplate:
    """A compiled chat template.

    Raises:
        ModelInvalidError: when the text is no Jinja template.
    """

    def __init__(self, source: str, special: Mapping[str, str], origin: str) -> None:
        """`special` holds `bos_token` and `eos_token`; `origin` names the template in errors."""
        self.source = source
        self._special = dict(special)
        self._origin = origin
        try:
            self._template = _environment().from_string(source)
        except (TemplateSyntaxError, RecursionError) as error:
            raise ModelInvalidError(f"{origin} does not parse: {error}", "give another with --chat-template") from None

    @cached_property
    def supports_thinking_switch(self) -> bool:
        """Whether the template reads a variable that turns reasoning off."""
        return "enable_thinking" in self.source or "thinking" in self.source

    def render(self, messages: Sequence[Message], thinking: bool = True, generation_prompt: bool = True) -> str:
        """The prompt text for `messages` of {"role", "content"}.

        A template that refuses a system message gets it in front of the first user message, as llama.cpp does.

        Raises:
            LlmcliError: when the template fails, loops or writes without end.
        """
        variables = {"add_generation_prompt": generation_prompt, **self._special}
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

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        limit = 8 * sum(len(str(message["content"])) for message in messages) + _SPARE_OUTPUT
        out, size = [], 0
        try:
            with _deadline(_SECONDS):
                for piece in self._template.generate(messages=[dict(m) for m in messages], **variables):
                    out.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise _OverLimitError(f"it writes more than {limit} characters")
        except (
            _OverLimitError,
            RecursionError,
            MemoryError,
            OverflowError,
            ValueError,
            TypeError,
            LookupError,
        ) as error:
            raise self._failed(error) from None
        return "".join(out)

    def _failed(self, error: BaseException) -> LlmcliError:
        text = " ".join((str(error) or type(error).__name__).split())[:160]
        return LlmcliError(f"{self._origin} fails: {text}", "give another with --chat-template, or use --raw")


def _merge_system(messages: Sequence[Message]) -> list[Message]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose operators cannot make huge values either."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**") and _size(left) * max(_size(right), 1) > _MAX_VALUE:
            raise SecurityError("it makes a value that is too long")
        if operator == "**" and abs(right) > 64:
            raise SecurityError("it makes a number that is too large")
        if operator == "+" and _length(left) + _length(right) > _MAX_VALUE:
            raise SecurityError("it makes a value that is too long")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting is not allowed")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Spell `a ~ b` as `a|string + b|string`, so that it passes `call_binop` too."""
        tree = super()._parse(source, name, filename)
        for concat in list(tree.find_all(nodes.Concat)):
            texts = [nodes.Filter(node, "string", [], [], None, None) for node in concat.nodes]
            joined: nodes.Expr = texts[0]
            for text in texts[1:]:
                joined = nodes.Add(joined, text)
            concat.nodes = [joined]
        return tree


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _size(value: Any) -> int:
    """What a factor can make of the other: a length, or a number's amount when it repeats something."""
    return len(value) if isinstance(value, (str, list, tuple)) else (abs(int(value)) if _is_count(value) else 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    for name in ("center", "indent", "wordwrap", "format", "pprint", "xmlattr", "filesizeformat"):
        environment.filters.pop(name, None)  # makers of long texts that no chat template needs
    environment.filters["indent"] = _indent
    environment.filters["tojson"] = _tojson
    environment.globals.pop("lipsum", None)
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda shape: datetime.now().strftime(shape[:200]),
    }
    return environment


def _indent(text: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's `indent` with a bounded width."""
    pad = " " * min(int(width), 64)
    lines = [pad + line if line or blank else line for line in str(text).split("\n")]
    return "\n".join(lines) if first else "\n".join(lines).removeprefix(pad)


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """JSON as models were trained on it: no HTML escapes, no ASCII escapes."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(int(indent), 16))


def _raise(message: str) -> None:
    raise TemplateError(message)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stop template code after `seconds`, in any thread and on any system, by tracing its lines."""
    end = time.monotonic() + seconds

    def on_line(_frame: FrameType, _event: str, _argument: Any) -> Any:
        if time.monotonic() > end:
            raise _OverLimitError(f"it runs for more than {seconds:g} seconds")
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return on_line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)
