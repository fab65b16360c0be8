"""Several answers to one question of a conversation; the one that is kept becomes a message."""

from collections.abc import Sequence

from llmcli.chat.controller import ChatController, Turn
from llmcli.chat.conversation import Message
from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError
from llmcli.inference.comparison import Comparison, Variant


class CompareSession:
    """`path` ends with the question; with `new`, the question is a draft that is not in the session yet."""

    def __init__(
        self, controller: ChatController, path: Sequence[Message], new: bool, variants: Sequence[Variant], seed: int
    ) -> None:
        """Make the requests; `seed` is for variants without their own. Raises as `ChatController.answer` does."""
        self.session = controller.session
        self.question = path[-1]
        self._new = new
        self.cancellation = Cancellation()  # of all answers
        self.turns: list[Turn] = []
        for one in variants:
            turn = controller.answer(path, {"seed": seed, **one.values}, cancellation=self.cancellation)
            turn.answer.request.label = one.label
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
        if self._new:
            self.session.conversation.move(self.question.parent)
            self.question = self.session.add("user", self.question.content, attachments=self.question.attachments)
            self._new = False
        turn.keep(self.question.id)
        return turn
