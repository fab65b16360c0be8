"""The prompts of a conversation; text that was tokenized for an earlier prompt is not tokenized again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmcli.chat.conversation import Message
from llmcli.engine.llama.context import common_prefix
from llmcli.engine.reasoning import TAGS
from llmcli.errors import LlmcliError
from llmcli.inference.engine import Prompt
from llmcli.inference.local import LocalModel
from llmcli.inference.prompt_tokens import TokenCache, raw_prompt, template_prompt, warm_cache
from llmcli.inference.request import PLAIN_TEMPLATE, plain_template, template_of, with_plain_stop
from llmcli.params.settings import Settings

if TYPE_CHECKING:  # jinja2 takes its time, and is imported where the model is loaded
    from llmcli.inference.template import ChatTemplate

_SUMMARY = "What was said before, in summary:"
_RenderInputs = tuple["ChatTemplate", list[dict[str, Any]], str, bool]  # template, messages, prefill, thinking


class PromptBuilder:
    """Builds the prompts of a conversation for one model."""

    def __init__(self, local: LocalModel, template: "ChatTemplate | None" = None) -> None:
        """`template` is used instead of the one of the settings or the model."""
        self.local = local
        self._fixed_template = template
        self._vocab = local.model.vocab
        self._cache = TokenCache(self._vocab)
        self._compiled: tuple[str | None, ChatTemplate] | None = None
        self._last: tuple[_RenderInputs, Prompt] | None = None
        self._counts: dict[int, tuple[str, int]] = {}

    def read_ahead(self, path: Sequence[Message], system: str | None, settings: Settings) -> None:
        """Evaluate the beginning of the next prompt, which is the same whatever the user writes, to save time later."""
        if not settings.raw:
            warm_cache(self.template(settings), self._cache)
        question = Message(0, None, "user", "a")
        shortest, longer = (self.prompt(messages, system, settings).tokens for messages in (path, [*path, question]))
        self.local.prefill(shortest[: common_prefix(shortest, longer)])

    def prompt(self, path: Sequence[Message], system: str | None, settings: Settings, prefill: str = "") -> Prompt:
        """The prompt for an answer to `path`, which begins with `prefill`.

        Raises:
            LlmcliError: when the template fails.
        """
        if settings.raw:
            return raw_prompt(self._vocab, "".join(message.text for message in path), prefill)
        inputs = self.template(settings), as_messages(path, system), prefill, settings.think != "off"
        if self._last is None or self._last[0] != inputs:  # the check of the length has just rendered the same
            self._last = inputs, self._render(*inputs)
        return self._last[1]

    def prompt_for(
        self, path: Sequence[Message], system: str | None, settings: Settings, continued: Message | None = None
    ) -> Prompt:
        """The prompt for an answer to `path`: a new one, with the prefill of the settings, or the rest of `continued`.

        Raises:
            LlmcliError: when the template fails.
        """
        prompt = self.prompt(path, system, settings, "" if continued else settings.prefill or "")
        if not continued:
            return prompt
        return self.prompt(path, system, settings, self._text_so_far(continued, prompt.text, settings))

    def _text_so_far(self, continued: Message, before: str, settings: Settings) -> str:
        """The answer so far, as the model wrote it after the prompt `before`, which may open the reasoning itself."""
        opening_tag, closing_tag = self.thinking_tags(settings)
        is_open = not settings.raw and before.rstrip().endswith(opening_tag)
        if not continued.reasoning and not is_open:
            return continued.content
        gap = "" if is_open and before.endswith("\n") else "\n"
        reasoning = ("" if is_open else opening_tag) + gap + continued.reasoning
        return reasoning + (f"\n{closing_tag}\n\n{continued.content}" if continued.content else "")

    def _render(
        self, template: "ChatTemplate", messages: Sequence[dict[str, Any]], prefill: str, thinking: bool
    ) -> Prompt:
        try:
            return template_prompt(template, self._vocab, messages, prefill, thinking, self._cache)
        except LlmcliError:
            first = 1 if messages and messages[0]["role"] == "system" else 0
            if len(messages) <= first or messages[first]["role"] == "user":
                raise
            # Many templates require that the user begins; a character's greeting comes before the user.
            messages = [*messages[:first], {"role": "user", "content": "Hello."}, *messages[first:]]
            return template_prompt(template, self._vocab, messages, prefill, thinking, self._cache)

    def template(self, settings: Settings) -> "ChatTemplate":
        """The chat template of the settings or the model, compiled once; a plain one if there is neither."""
        if self._fixed_template:
            return self._fixed_template
        if self._compiled is None or self._compiled[0] != settings.chat_template:
            self._compiled = settings.chat_template, template_of(self.local, settings) or plain_template(self.local)
        return self._compiled[1]

    def has_own_template(self, settings: Settings) -> bool:
        """Whether the model or the user brings a template."""
        return settings.raw or self.template(settings).source != PLAIN_TEMPLATE

    def with_plain_stop(self, settings: Settings) -> Settings:
        """The settings for an answer: with the plain template it ends where the user's turn would begin."""
        return settings if self.has_own_template(settings) else with_plain_stop(settings)

    def thinking_tags(self, settings: Settings) -> tuple[str, str]:
        """The tags around the reasoning of this model, if its template contains them; else the most common ones."""
        source = "" if settings.raw else self.template(settings).source
        return next((pair for pair in TAGS if pair[1] and pair[1] in source), TAGS[0])

    def count(self, message: Message) -> int:
        """Tokens of a message's text; counted once."""
        text = message.text
        counted = self._counts.get(message.id)
        if counted is None or counted[0] != text:
            counted = self._counts[message.id] = text, self.local.count_tokens(text)
        return counted[1]


def as_messages(path: Sequence[Message], system: str | None) -> list[dict[str, Any]]:
    """The messages as a template reads them: summaries join the system text, neighbors of one role become one message.

    Strict templates require alternating roles; an answer that was stopped before its first word leaves two questions.
    """
    summaries = [f"{_SUMMARY}\n{message.text}" for message in path if message.role == "summary"]
    texts = [text for text in (system, *summaries) if text]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    for message in path:
        if message.role == "summary":
            continue
        if messages and messages[-1]["role"] == message.role:
            messages[-1]["content"] += f"\n\n{message.text}"
        else:
            messages.append({"role": message.role, "content": message.text})
    return messages
