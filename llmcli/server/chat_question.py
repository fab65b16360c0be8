"""The question of a chat: messages, tools, and whether the last message is the beginning of the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmcli.engine.events import Message, Prompt
from llmcli.errors import UsageError
from llmcli.files import encode
from llmcli.inference.answer import begun_answer
from llmcli.inference.engine import Engine, TemplateOptions
from llmcli.inference.question_data import parse_messages
from llmcli.inference.request import build_prompt, template_options
from llmcli.params.settings import Settings
from llmcli.server.http import Values, take

_MOST_BESIDE = 1 << 20  # bytes of all that is not the content of a message, whose tokens are counted
_NO_TOOLS = "leave it out, or use tool_choice none: this server makes no tool calls"


@dataclass(frozen=True)
class ChatQuestion:
    """Messages, and variables of the chat template beside those of the settings."""

    messages: Sequence[Message]
    arguments: Mapping[str, object] = field(default_factory=dict)
    begun: Message | None = None  # the beginning of the answer, which follows the messages

    @property
    def reasoning(self) -> str:
        """The reasoning that the answer continues."""
        return str(self.begun.get("reasoning_content", "")) if self.begun else ""

    @property
    def text(self) -> str:
        """The text that the answer continues."""
        return str(self.begun["content"]) if self.begun else ""

    def prompt(
        self, engine: Engine, settings: Settings, system: str | None, options: TemplateOptions | None = None
    ) -> Prompt:
        """The prompt, up to the place where the answer begins or continues. Raises as `build_prompt`."""
        options = options or template_options(engine, settings)
        options = replace(options, arguments={**options.arguments, **self.arguments})
        if self.begun:
            if options.prefill:
                raise UsageError("prefill and a last message of the assistant both begin the answer", "remove one")
            before = build_prompt(engine, settings, self.messages, system, options=options)
            so_far = begun_answer(self.reasoning, self.text, options.source, before.text)
            options = replace(options, prefill=so_far)
        return build_prompt(engine, settings, self.messages, system, options=options)


def take_chat(body: Values, is_answered: bool = True) -> ChatQuestion:
    """Remove the question from a body in OpenAI's form, and return it. Raises UsageError.

    A last message of the assistant is continued, unless `add_generation_prompt` says that an answer comes after it.
    With `is_answered`, tools are refused where the model may call them; otherwise they only count.
    """
    messages = list(parse_messages(body.pop("messages", None)))
    tools = take(body, "tools", list, []) or take(body, "functions", list, [])
    beside = len(encode([tools, *({**message, "content": ""} for message in messages)]))
    if beside > _MOST_BESIDE:
        raise UsageError(f"tools, calls and reasoning have {beside} bytes, and at most {_MOST_BESIDE} are possible")
    choice = body.pop("tool_choice", None) or body.pop("function_call", None) or "auto"
    if tools and choice != "none" and is_answered:
        raise UsageError("tools are not supported", _NO_TOOLS)
    if choice not in ("none", "auto"):
        raise UsageError("tool_choice must be none: tool calls are not supported", _NO_TOOLS)
    new_turn, continues = (
        take(body, "add_generation_prompt", bool, None),
        take(body, "continue_final_message", bool, None),
    )
    if new_turn and continues:
        raise UsageError("add_generation_prompt and continue_final_message cannot both be true", "set one of them")
    arguments: Values = {"tools": tools} if tools and choice != "none" else {}
    roles = [message["role"] for message in messages[-2:]]
    if roles == ["assistant", "assistant"]:
        raise UsageError("messages must not end with two messages of the assistant", "join them")
    is_begun = roles[-1] == "assistant" and len(messages) > 1 and "tool_calls" not in messages[-1]
    if continues and not is_begun:
        raise UsageError("continue_final_message needs a last message of the assistant, after others")
    if continues is False or new_turn or not is_begun:
        return ChatQuestion(
            messages, {**arguments, **({} if new_turn is None else {"add_generation_prompt": new_turn})}
        )
    return ChatQuestion(messages[:-1], arguments, messages[-1])
