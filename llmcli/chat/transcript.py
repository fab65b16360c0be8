"""A conversation as the prompt that a model reads; what was tokenized before is not tokenized again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmcli.chat.compose import special_texts, template_of
from llmcli.chat.local import LocalModel, Prompt
from llmcli.chat.prompt import raw_tokens, render_prompt, warm
from llmcli.chat.token_cache import TokenCache
from llmcli.chat.tree import Message
from llmcli.engine.context import common_prefix
from llmcli.engine.thinking import TAGS
from llmcli.errors import LlmcliError
from llmcli.params.settings import Settings

if TYPE_CHECKING:  # jinja2 takes its time, and is imported where the model is loaded
    from llmcli.chat.template import ChatTemplate

# For models that bring no template: plain words, which a base model goes on with as well as with anything. An answer
# that the model gave begins with the space behind the colon, and is read again as it was written.
_PLAIN = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}{{ 'User:' if m.role == 'user' else 'Assistant:' }}"
    "{{ '' if m.content[:1] == ' ' else ' ' }}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLAIN_STOP = "\nUser:"
_SUMMARY = "What was said before, in summary:"
_Asked = tuple["ChatTemplate", list[dict[str, Any]], str, bool]  # template, messages, prefill, thinking


class Transcript:
    """Prompts for one model."""

    def __init__(self, local: LocalModel, given: "ChatTemplate | None" = None) -> None:
        """`given` is the template to use, whatever the settings say."""
        self.local = local
        self._given = given
        self._vocab = local.model.vocab
        self._cache = TokenCache(self._vocab)
        self._compiled: tuple[str | None, ChatTemplate] | None = None
        self._last: tuple[_Asked, Prompt] | None = None
        self._counts: dict[int, tuple[str, int]] = {}

    def read_ahead(self, path: Sequence[Message], system: str | None, settings: Settings) -> None:
        """Evaluate what the next prompt will begin with, whatever the user says, so that nobody waits for it then."""
        if not settings.raw:
            warm(self.template(settings), self._cache)
        said = Message(0, None, "user", "a")
        shortest, longer = (self.prompt(messages, system, settings).tokens for messages in (path, [*path, said]))
        self.local.read(shortest[: common_prefix(shortest, longer)])

    def prompt(self, path: Sequence[Message], system: str | None, settings: Settings, prefill: str = "") -> Prompt:
        """The prompt for an answer to `path`, which begins with `prefill`.

        Raises:
            LlmcliError: when the template fails.
        """
        if settings.raw:
            text = "".join(message.text for message in path) + prefill
            return Prompt(text, raw_tokens(self._vocab, text), text)
        asked = self.template(settings), as_messages(path, system), prefill, settings.think != "off"
        if self._last is None or self._last[0] != asked:  # whether it fits is asked right before
            self._last = asked, self._render(*asked)
        return self._last[1]

    def prompt_for(
        self, path: Sequence[Message], system: str | None, settings: Settings, begun: Message | None = None
    ) -> Prompt:
        """The prompt for an answer to `path`: one that begins as the settings say, or goes on with `begun`.

        Raises:
            LlmcliError: when the template fails.
        """
        prompt = self.prompt(path, system, settings, "" if begun else settings.prefill or "")
        if not begun:
            return prompt
        return self.prompt(path, system, settings, self._beginning(begun, prompt.text, settings))

    def _beginning(self, begun: Message, before: str, settings: Settings) -> str:
        """What was answered so far, as the model wrote it after `before`, which may open the reasoning itself."""
        opener, closer = self.thinking_tags(settings)
        opened = not settings.raw and before.rstrip().endswith(opener)
        if not begun.reasoning and not opened:
            return begun.content
        gap = "" if opened and before.endswith("\n") else "\n"
        thought = ("" if opened else opener) + gap + begun.reasoning
        return thought + (f"\n{closer}\n\n{begun.content}" if begun.content else "")

    def _render(
        self, template: "ChatTemplate", messages: Sequence[dict[str, Any]], prefill: str, thinking: bool
    ) -> Prompt:
        try:
            return self._prompt(template, messages, prefill, thinking)
        except LlmcliError:
            begin = messages[0]["role"] == "system" if messages else False
            if len(messages) <= begin or messages[begin]["role"] == "user":
                raise
            # Many templates want the user to begin; a character's greeting does not.
            messages = [*messages[:begin], {"role": "user", "content": "Hello."}, *messages[begin:]]
            return self._prompt(template, messages, prefill, thinking)

    def _prompt(
        self, template: "ChatTemplate", messages: Sequence[dict[str, Any]], prefill: str, thinking: bool
    ) -> Prompt:
        text, tokens = render_prompt(template, self._vocab, messages, prefill, thinking, self._cache)
        return Prompt(text, tokens, messages, template.source, template.told)

    def template(self, settings: Settings) -> "ChatTemplate":
        """The template in force, compiled once; a plain one where the model has none."""
        if self._given:
            return self._given
        if self._compiled is None or self._compiled[0] != settings.chat_template:
            self._compiled = settings.chat_template, template_of(self.local, settings) or _plain(self.local)
        return self._compiled[1]

    def has_own_template(self, settings: Settings) -> bool:
        """Whether the model or the user brings a template; without one, answers stop where the user would speak."""
        return settings.raw or self.template(settings).source != _PLAIN

    def adjusted(self, settings: Settings) -> Settings:
        """The settings for an answer: with the plain template it ends where the user's turn would begin."""
        if self.has_own_template(settings) or _PLAIN_STOP in settings.stop:
            return settings
        return replace(settings, stop=(*settings.stop, _PLAIN_STOP))

    def thinking_tags(self, settings: Settings) -> tuple[str, str]:
        """The tags that this model writes around its reasoning, as far as its template tells."""
        source = "" if settings.raw else self.template(settings).source
        return next((pair for pair in TAGS if pair[1] and pair[1] in source), TAGS[0])

    def count(self, message: Message) -> int:
        """Tokens of a message's text; counted once."""
        text = message.text
        known = self._counts.get(message.id)
        if known is None or known[0] != text:
            known = self._counts[message.id] = text, self.local.count_tokens(text)
        return known[1]


def _plain(local: LocalModel) -> "ChatTemplate":
    from llmcli.chat.template import ChatTemplate

    return ChatTemplate(_PLAIN, special_texts(local), "the plain chat template")


def as_messages(path: Sequence[Message], system: str | None) -> list[dict[str, Any]]:
    """The messages as templates know them: a summary joins the system text, and two of one role become one.

    Strict templates want the roles to alternate; an answer that was cut before its first word leaves two questions.
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
