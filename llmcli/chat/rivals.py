"""Answers to one question of a conversation, written side by side: none of them is said until one is kept."""

from collections.abc import Sequence

from llmcli.chat.comparison import Comparison
from llmcli.chat.dialogue import Dialogue
from llmcli.chat.tree import Message
from llmcli.chat.turn import Turn
from llmcli.chat.variants import Variant
from llmcli.errors import UsageError


class Rivals:
    """`path` is what they answer; with `new`, its last message is a draft, and nobody has said it yet."""

    def __init__(
        self,
        dialogue: Dialogue,
        path: Sequence[Message],
        new: bool,
        variants: Sequence[Variant],
        seed: int,
    ) -> None:
        """`seed` is that of the variants that name none.

        Raises:
            ContextOverflowError: when the prompt leaves no room for a single token.
            UsageError: for settings that cannot be.
        """
        self.session = dialogue.session
        self.question = path[-1]
        self._new = new
        self._kept: dict[int, int] = {}  # the messages that answers became
        self.turns: list[Turn] = [dialogue.answer(path, {"seed": seed, **one.values}) for one in variants]
        pairs = [(one, turn.answer) for one, turn in zip(variants, self.turns, strict=True)]
        self.comparison = Comparison(self.turns[0].local, pairs)

    def keep(self, number: int) -> Turn:
        """Go on with answer `number`, from 1: it follows the question, in a branch of its own.

        Raises:
            UsageError: when there is no such answer, or nothing came of it.
        """
        if not 0 < number <= len(self.turns):
            raise UsageError(f"there is no answer {number}", f"they are 1 to {len(self.turns)}")
        turn = self.turns[number - 1]
        if number in self._kept:
            self.session.move(self._kept[number])
            return turn
        if not turn.answer.text and not turn.answer.reasoning:
            raise UsageError(f"nothing came of answer {number}", "keep another one")
        if self._new:
            self.session.move(self.question.parent)
            self.question = self.session.say("user", self.question.content, attachments=self.question.attachments)
            self._new = False
        message = turn.keep(self.question.id)
        assert message
        self._kept[number] = message.id
        return turn
