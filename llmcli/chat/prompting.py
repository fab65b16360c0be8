"""The prompts of a conversation; text that was tokenized for an earlier prompt is not tokenized again."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import groupby

from llmcli.chat.conversation import Message
from llmcli.engine.events import Cancellation, Prompt, common_prefix
from llmcli.errors import LlmcliError
from llmcli.inference.answer import begun_answer
from llmcli.inference.engine import Engine, TemplateOptions
from llmcli.inference.request import template_arguments, template_options, with_plain_stop
from llmcli.params.settings import Settings

_SUMMARY = "What was said before, in summary:"
_Messages = list[dict[str, str]]
# A turn that a template can render, for its compilation and its control tokens.
_SAMPLE = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "a"))]


class PromptBuilder:
    """Builds the prompts of a conversation for one engine."""

    def __init__(self, engine: Engine, template: TemplateOptions | None = None) -> None:
        """`template` is used in place of the one of the settings or the model."""
        self.engine = engine
        self._given = template
        # The settings `chat_template` and `raw` (a summary is never raw), and what they stand for.
        self._options: tuple[tuple[str | None, bool], TemplateOptions] | None = None
        self._last: tuple[tuple[_Messages, TemplateOptions], Prompt] | None = None
        self.count_tokens = cache(engine.count_tokens)  # of a text, which is counted once

    def read_ahead(
        self, path: Sequence[Message], system: str | None, settings: Settings, cancellation: Cancellation | None = None
    ) -> None:
        """Evaluate the beginning of the next prompt, which is the same whatever the user writes, to save time later."""
        if not self.engine.capabilities.tokens:
            return
        if not settings.raw:
            with suppress(LlmcliError):  # the first prompt reports an error of the template
                for _ in range(2):  # the tokens of the first one tell the renderer where to cut
                    self.engine.render(_SAMPLE, self.template(settings))
        question = Message(0, None, "user", "a")
        shortest, longer = (self._render(messages, system, settings) for messages in (path, [*path, question]))
        self.engine.warm(shortest.tokens[: common_prefix(shortest.tokens, longer.tokens)], cancellation)

    def prompt(
        self, path: Sequence[Message], system: str | None, settings: Settings, continued: Message | None = None
    ) -> Prompt:
        """The prompt for an answer to `path`: a new one, with the prefill of the settings, or the rest of `continued`.

        Raises LlmcliError if the template fails.
        """
        if not continued:
            return self._render(path, system, settings, settings.prefill or "")
        template, before = "", ""
        if not settings.raw:  # the prompt may open the reasoning itself
            template, before = self.template(settings).source, self._text(self._render(path, system, settings))
        so_far = begun_answer(continued.reasoning, continued.content, template, before)
        return self._render(path, system, settings, so_far)

    def _text(self, prompt: Prompt) -> str:
        """The text of a prompt; empty where an endpoint does not tell it."""
        try:
            return self.engine.prompt_text(prompt)
        except LlmcliError:
            return ""

    def _render(self, path: Sequence[Message], system: str | None, settings: Settings, prefill: str = "") -> Prompt:
        if settings.raw:
            text = "".join(message.text for message in path)
            return self.engine.render(text, TemplateOptions("", prefill=prefill))
        options = replace(self.template(settings), prefill=prefill)
        messages = as_messages(path, system)
        inputs = messages, options
        if self._last and self._last[0] == inputs:  # the check of the length has just rendered the same
            return self._last[1]
        try:
            prompt = self.engine.render(messages, options)
        except LlmcliError:
            first = 1 if messages and messages[0]["role"] == "system" else 0
            if len(messages) <= first or messages[first]["role"] == "user":
                raise
            # Many templates require that the user begins; a character's greeting comes before the user.
            messages = [*messages[:first], {"role": "user", "content": "Hello."}, *messages[first:]]
            prompt = self.engine.render(messages, options)
        self._last = inputs, prompt
        return prompt

    def template(self, settings: Settings) -> TemplateOptions:
        """The chat template of the settings or the model, read once; a plain one if there is neither."""
        if self._given:
            return self._given
        asked = settings.chat_template, settings.raw
        if self._options is None or self._options[0] != asked:
            self._options = asked, template_options(self.engine, settings)
        return replace(self._options[1], arguments=template_arguments(settings))

    def with_plain_stop(self, settings: Settings) -> Settings:
        """The settings for an answer: with the plain template it ends where the user's turn would begin."""
        return with_plain_stop(settings, self.template(settings).source)


def as_messages(path: Sequence[Message], system: str | None) -> _Messages:
    """The messages as a template reads them: summaries join the system text, neighbors of one role become one message.

    Strict templates require alternating roles; an answer that was stopped before its first word leaves two questions.
    """
    summaries = [f"{_SUMMARY}\n{message.text}" for message in path if message.role == "summary"]
    texts = [text for text in (system, *summaries) if text]
    messages: _Messages = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    spoken = (message for message in path if message.role != "summary")
    for role, group in groupby(spoken, key=lambda message: message.role):
        messages.append({"role": role, "content": "\n\n".join(message.text for message in group)})
    return messages
