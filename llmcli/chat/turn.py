"""One answer in a session: streamed, on disk as it comes, and kept when it is cut."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from llmcli.chat.answer import Answer, Part
from llmcli.chat.local import LocalModel, Prompt
from llmcli.chat.recording import replay_data
from llmcli.chat.session import Session
from llmcli.chat.tree import Message
from llmcli.engine.dial import Dial
from llmcli.params.layers import Resolved
from llmcli.params.settings import Settings, fields, to_datum

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
    dial: Dial = field(default_factory=Dial)
    first: int | None = None  # the first message that the model reads, where it does not read all
    answer: Answer = field(init=False)
    message: Message | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        settings = self.resolved.settings
        self.answer = answer_to(self.local, self.prompt, settings, self.grammar, self.begun)
        self.answer.progress, self.answer.dial, self.answer.trace = self.progress, self.dial, 0

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

    def keep(self, parent: int | None) -> Message | None:
        """Keep the answer, which was written beside others, as one to message `parent`; None: nothing came."""
        self.session.begin_answer(parent, model=self.local.name, params=_params(self.resolved))
        self.parent, self.message = parent, self._keep(self.answer.finish_reason)
        return self.message

    def _keep(self, reason: str) -> Message | None:
        answer = self.answer
        grown = len(answer.text) > len(self.begun.content) if self.begun else bool(answer.text)
        if self.begun and not grown and len(answer.reasoning) == len(self.begun.reasoning):
            self.session.end_answer("")  # nothing came: the answer that was to go on stays what it is
            return None
        timings = answer.timings() if answer.started else {}
        replay = replay_data(answer, self.first, self.begun.id if self.begun else None)
        return self.session.end_answer(
            answer.text, answer.reasoning, finish_reason=reason, timings=timings, replay=replay
        )


def answer_to(
    local: LocalModel, prompt: Prompt, settings: Settings, grammar: str | None, begun: Message | None
) -> Answer:
    """An answer that begins where `begun` ended, whose text is in the prompt already."""
    if not begun:
        return Answer(local, prompt, settings, grammar)
    thinking = bool(begun.reasoning and not begun.content)
    settings = replace(settings, prefill=None if thinking else begun.content or None)
    answer = Answer(local, prompt, settings, grammar, inside=thinking)
    answer.reasoning = begun.reasoning
    return answer


def _params(resolved: Resolved) -> dict[str, Any]:
    """The settings that are no defaults, as JSON data, for the record of an answer; the seed is always among them."""
    chosen = [key for key, origin in resolved.origins.items() if origin != "default" and key not in _NOT_KEPT]
    return {key: to_datum(fields()[key], getattr(resolved.settings, key)) for key in dict.fromkeys([*chosen, "seed"])}
