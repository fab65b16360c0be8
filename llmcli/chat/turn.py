"""One answer in a session: streamed, on disk as it comes, and kept when it is cut."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from llmcli.chat.answer import Answer, Part
from llmcli.chat.local import LocalModel, Prompt
from llmcli.chat.session import Session
from llmcli.chat.tree import Message
from llmcli.params.layers import Resolved
from llmcli.params.settings import fields, to_datum

_NOT_KEPT = ("prompt", "file", "pull", "offline", "model_folders")  # they say nothing about how an answer was made


@dataclass
class Turn:
    """Iterate over `parts()`; afterwards `message` is what was kept (None: nothing came).

    `begun` is the answer that goes on with this one; its text is in the prompt already.
    """

    session: Session
    local: LocalModel
    prompt: Prompt
    resolved: Resolved
    parent: int | None
    grammar: str | None = None
    begun: Message | None = None
    progress: Callable[[int, int], None] | None = None
    answer: Answer = field(init=False)
    message: Message | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        settings = self.resolved.settings
        thinking = bool(self.begun and self.begun.reasoning and not self.begun.content)
        if self.begun:  # the answer begins where that one ended
            settings = replace(settings, prefill=None if thinking else self.begun.content or None)
        self.answer = Answer(self.local, self.prompt, settings, self.grammar, self.progress, thinking)
        if self.begun:
            self.answer.reasoning = self.begun.reasoning

    def parts(self) -> Generator[Part, None, None]:
        """The parts of the answer as they come, without those of `begun`.

        Raises:
            LlmcliError: see `Answer.parts`; what had come is kept before.
        """
        session, answer = self.session, self.answer
        session.begin_answer(self.parent, model=self.local.name, params=_params(self.resolved))
        reason = "error"
        try:
            if self.begun and self.begun.reasoning:
                session.grow("think", self.begun.reasoning)
            known = bool(self.begun and self.begun.content)  # the prefill comes first and is on the screen already
            for kind, text in answer.parts():
                session.grow(kind, text)
                if known:
                    known = False
                    continue
                yield kind, text
            reason = answer.finish_reason
        except (KeyboardInterrupt, GeneratorExit):
            reason = "interrupt"
            raise
        finally:
            self.message = self._keep(reason)

    def _keep(self, reason: str) -> Message | None:
        answer = self.answer
        grown = len(answer.text) > len(self.begun.content) if self.begun else bool(answer.text)
        if self.begun and not grown and len(answer.reasoning) == len(self.begun.reasoning):
            self.session.end_answer("")  # nothing came: the answer that was to go on stays what it is
            return None
        timings = answer.timings() if answer.started else {}
        return self.session.end_answer(answer.text, answer.reasoning, finish_reason=reason, timings=timings)


def _params(resolved: Resolved) -> dict[str, Any]:
    """The settings that are no defaults, as JSON data, for the record of an answer; the seed is always among them."""
    chosen = [key for key, origin in resolved.origins.items() if origin != "default" and key not in _NOT_KEPT]
    return {key: to_datum(fields()[key], getattr(resolved.settings, key)) for key in dict.fromkeys([*chosen, "seed"])}
