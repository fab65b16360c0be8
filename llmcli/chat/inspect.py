"""The tokens of the last answer, and the candidates of each of them."""

import codecs
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.chat.replay import recorded_settings, recorded_system
from llmcli.chat.sessions.session import Turn
from llmcli.engine.events import Cancellation, Progress, Request, TokenChunk, TokenTrace, common_prefix
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer, ReasoningSplitter, text_and_reasoning
from llmcli.inference.constraints import read_constraint, recorded_constraint
from llmcli.inference.request import system_text
from llmcli.params.settings import Settings

if TYPE_CHECKING:
    from llmcli.inference.engine import TokenInspector


@dataclass(frozen=True)
class AnswerInspector:
    """An answer as the tokens that follow its prompt; the number of a token is that of its trace, from 0.

    `answer` has its settings and its prompt. Without `traces` it is from an earlier chat: its tokens are made from its
    text, and may differ from those that were sampled.
    """

    message: Message
    answer: Answer
    tokens: Sequence[int]
    traces: Sequence[TokenTrace] = ()
    is_continued: bool = False  # its beginning is a part of the prompt

    @cached_property
    def inspector(self) -> "TokenInspector":
        """How the engine sampled the tokens. Raises UsageError when the engine cannot tell."""
        engine = self.answer.engine
        if not engine.capabilities.inspection:
            raise UsageError(f"{engine.name} does not support /why", "use a model of this machine")
        return engine.inspector(self.answer.request, self.tokens)

    def text(self, number: int) -> str:
        """The text of a token, with control tokens by their names."""
        return self.answer.engine.tokenizer.label(self.tokens[number])

    def find(self, text: str) -> int | None:
        """The first token that contains a text, or the first of the tokens that spell it together."""
        vocab = self.answer.engine.tokenizer
        single = next((number for number in range(len(self.tokens)) if text in self.text(number)), None)
        if single is not None:
            return single
        pieces = [vocab.piece(token, special=True) for token in self.tokens]
        position = b"".join(pieces).find(text.encode())
        return None if position < 0 else bisect_right(list(accumulate(map(len, pieces))), position)

    def least_sure(self, cancellation: Cancellation, progress: Progress) -> int | None:
        """The token with the highest entropy before the temperature step; None when the search was stopped."""
        sampled = [trace.entropy or 0.0 for trace in self.traces]
        values = sampled or self.inspector.entropies(cancellation, progress)
        return values.index(max(values)) if values else None

    def candidate(self, number: int, rank: int, cancellation: Cancellation, progress: Progress) -> int | None:
        """The candidate of this rank (1 is the most likely) at token `number`; None when the search was stopped.

        Raises UsageError if there are not so many.
        """
        if not 0 < rank <= self.answer.engine.tokenizer.n_tokens:
            raise UsageError(f"candidate {rank} does not exist", f"list the candidates with /alternatives {number}")
        return self.inspector.token_at_rank(number, rank, cancellation, progress)

    def text_before(self, number: int, token: int) -> tuple[str, str]:
        """Answer and reasoning before token `number`, followed by `token`.

        Raises UsageError if the model cannot continue this text.
        """
        answer, vocab = self.answer, self.answer.engine.tokenizer
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(b"".join(vocab.piece(one) for one in [*self.tokens[:number], token]))
        if decoder.getstate()[0]:
            raise UsageError("this token ends within a character", "choose another token")
        splitter = ReasoningSplitter.of_request(answer.request)
        if not splitter:
            return (answer.settings.prefill or "") + text, answer.request.reasoning
        content, reasoning = text_and_reasoning([*splitter.push(text), *splitter.flush()])
        reasoning = answer.request.reasoning + reasoning
        if not content and (not splitter.thinking or not reasoning):
            raise UsageError("no text before this token", "choose a later token")
        return content, reasoning


def last_answer(controller: ChatController, turn: Turn | None) -> AnswerInspector:
    """The last answer of the current branch; `turn` is the last one of this chat.

    Raises UsageError if there is none, or it has no tokens.
    """
    path = controller.session.conversation.path()
    index = next((index for index in reversed(range(len(path))) if path[index].role == "assistant"), None)
    if index is None:
        raise UsageError("no answer yet", "send a message first")
    message, before = path[index], path[:index]
    if turn and turn.message == message and turn.answer.engine is controller.engine and turn.answer.traces:
        traces = [trace for trace in turn.answer.traces if trace.id is not None]
        tokens = [trace.id for trace in traces if trace.id is not None]
        inspector = AnswerInspector(message, turn.answer, tokens, traces, turn.continued is not None)
    else:
        inspector = _from_text(controller, message, before)
    if not inspector.tokens:
        raise UsageError("the last answer has no tokens", "generate another one with /retry")
    return inspector


def _from_text(controller: ChatController, message: Message, before: Sequence[Message]) -> AnswerInspector:
    """An answer of which only the text and the settings are known."""
    assert controller.engine
    settings = controller.settings
    if message.params:  # the session may come from others
        values = recorded_settings(message.params, "this answer", settings.temp_policy_file or "")
        settings, system = Settings(**values), recorded_system(message)
        grammar, schema = (str(message.replay.get(key) or "") for key in ("grammar", "schema"))
        constraint = recorded_constraint(grammar, schema, settings)
    else:
        system, constraint = system_text(settings), read_constraint(settings)
    settings = controller.prompt_builder.with_plain_stop(replace(settings, seed=settings.seed or 0))
    window = controller.window(before)
    prompt = controller.prompt_builder.prompt(window, system, settings)
    whole = controller.prompt_builder.prompt(window, system, settings, message)
    start = common_prefix(prompt.tokens, whole.tokens)
    shared = replace(prompt, chunks=(TokenChunk(prompt.tokens[:start]),))
    answer = Answer(controller.engine, Request(shared, settings, constraint))
    return AnswerInspector(message, answer, whole.tokens[start:])
