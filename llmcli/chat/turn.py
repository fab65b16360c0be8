"""One answer in a session: streamed, saved while it is generated, and kept when it is stopped."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import TemperatureShift
from llmcli.inference.answer import Answer, Part
from llmcli.inference.answer_json import replay_data
from llmcli.params.settings import ResolvedSettings, fields, to_datum

_NOT_RECORDED = ("prompt", "file", "pull", "offline", "model_folders")  # they do not describe how an answer is made


@dataclass
class Turn:
    """Iterate over `parts()`; afterwards `message` is what was saved (None: the answer is empty).

    `continued` is the answer that this one continues; its text is in the prompt already.
    """

    session: Session
    answer: Answer
    live_shift: TemperatureShift
    resolved: ResolvedSettings
    parent: int | None
    continued: Message | None = None
    first: int | None = None  # the first message in the prompt, if it does not contain all
    message: Message | None = field(init=False, default=None)

    def parts(self) -> Generator[Part, None, None]:
        """The parts of the answer as they are generated, without those of `continued`.

        Raises:
            LlmcliError: see `Answer.parts`; the text so far is saved before.
        """
        session, answer = self.session, self.answer
        session.begin_answer(self.parent, model=self.answer.engine.name, params=_params(self.resolved))
        reason = "error"
        try:
            if answer.reasoning:
                session.add_piece("think", answer.reasoning)
            is_prefill = bool(self.continued and self.continued.content)  # it comes first and is on the screen already
            for kind, text in answer.parts():
                session.add_piece(kind, text)
                if is_prefill:
                    is_prefill = False
                    continue
                yield kind, text
            reason = answer.finish_reason
        except (KeyboardInterrupt, GeneratorExit):
            reason = "interrupt"
            raise
        finally:
            self.message = self._save(reason)

    def keep(self, parent: int | None) -> Message | None:
        """Save the answer, which is one of several, as an answer to message `parent`; None: it is empty."""
        self.session.begin_answer(parent, model=self.answer.engine.name, params=_params(self.resolved))
        self.parent, self.message = parent, self._save(self.answer.finish_reason)
        return self.message

    def _save(self, reason: str) -> Message | None:
        answer, before = self.answer, self.continued
        if before and len(answer.text) <= len(before.content) and len(answer.reasoning) == len(before.reasoning):
            self.session.end_answer("")  # no new text: the answer that was to be continued stays as it is
            return None
        timings = answer.timings() if answer.started else {}
        replay = replay_data(answer, self.first, before.id if before else None)
        return self.session.end_answer(
            answer.text, answer.reasoning, finish_reason=reason, timings=timings, replay=replay
        )


def _params(resolved: ResolvedSettings) -> dict[str, Any]:
    """The settings that differ from their defaults, and the seed, as JSON data for the record of an answer."""
    chosen = [key for key, origin in resolved.origins.items() if origin != "default" and key not in _NOT_RECORDED]
    return {key: to_datum(fields()[key], getattr(resolved.settings, key)) for key in dict.fromkeys([*chosen, "seed"])}
