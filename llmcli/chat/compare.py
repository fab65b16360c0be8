"""Several answers to one question of a conversation, of which one is kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Turn
from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.inference.comparison import Variant


class CompareSession:
    """Several answers to one question; the one that is kept becomes a message."""

    def __init__(
        self, controller: ChatController, path: Sequence[Message], variants: "Sequence[Variant]", seed: int
    ) -> None:
        """`path` ends with the question, maybe a draft; `seed` is for variants without one. Raises as `answer`."""
        from llmcli.inference.comparison import Comparison

        self.session = controller.session
        self.question = path[-1]
        self._is_draft = self.question.id not in self.session.conversation.messages
        self.cancellation = Cancellation()  # of all answers
        self.turns: list[Turn] = []
        for one in variants:
            turn = controller.answer(path, {"seed": seed, **one.values})
            turn.answer.request.label, turn.answer.request.cancellation = one.label, self.cancellation
            self.turns.append(turn)
        self.comparison = Comparison([turn.answer for turn in self.turns])

    def keep(self, number: int) -> Turn:
        """Continue with answer `number`, from 1, in its own branch. Raises UsageError if it is missing or empty."""
        if not 0 < number <= len(self.turns):
            raise UsageError(f"answer {number} does not exist", f"give a number from 1 to {len(self.turns)}")
        turn = self.turns[number - 1]
        if turn.message:
            self.session.conversation.move(turn.message.id)
            return turn
        if not turn.answer.text and not turn.answer.reasoning:
            raise UsageError(f"answer {number} is empty", "keep another answer")
        if self._is_draft:
            self.session.conversation.move(self.question.parent)
            self.question = self.session.add("user", self.question.content, attachments=self.question.attachments)
            self._is_draft = False
        turn.parent = self.question.id
        turn.begin()
        turn.save(turn.answer.finish_reason)
        return turn
