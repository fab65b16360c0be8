"""Compaction: the model summarizes the oldest turns, and the conversation continues from the summary."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.engine.events import Prompt, Request
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.answer import Answer

_REQUEST = (
    "Summarize the conversation below, so that it can continue from the summary. Keep names, numbers, decisions, "
    "code that is still needed and open questions. Omit greetings. Write in the language of the conversation.\n\n"
)
_NAMES = {"user": "User", "assistant": "Assistant", "summary": "Earlier"}
_KEPT_TURNS = 2  # the last turns are not summarized
_SHARE = 0.25  # of the context that the summary may fill


def n_summarized(path: Sequence[Message], keep: int | None = None) -> int:
    """How many messages a summary of `path` replaces: all before the last `keep` turns (None = 2)."""
    starts = [index for index, message in enumerate(path) if message.role == "user"]
    keep = min(_KEPT_TURNS if keep is None else keep, len(starts) - 1)
    return starts[-keep] if keep > 0 else len(path)


class Compaction:
    """A summary of the oldest messages of `path`: generate `answer`, then `use` its text or another one."""

    def __init__(self, controller: ChatController, path: Sequence[Message], keep: int | None = None) -> None:
        """Summarize `path` without the last `keep` turns (None = 2). Raises UsageError for less than two messages.

        Raises ContextOverflowError if the last one of them does not fit into the request.
        """
        cut = n_summarized(path, keep)
        if cut < 2:
            raise UsageError("the conversation is too short to summarize", "see what fills the context with /context")
        self._controller = controller
        self.old, self._kept = path[:cut], path[cut:]
        engine = controller.engine
        assert engine
        free = {
            "raw": False,
            "prefill": None,
            "stop": (),
            "grammar": None,
            "grammar_file": None,
            "json_schema": None,
            "regex": None,
        }
        n_ctx = engine.n_ctx or engine.context_size(controller.settings)
        quiet = {"max_tokens": int(n_ctx * _SHARE), "think": "off", "drop_unsupported": True, **free}
        settings = controller.resolved(quiet).with_seed().settings

        def prompt_without(n_oldest: int) -> Prompt:
            texts = "\n\n".join(f"{_NAMES[message.role]}: {message.text}" for message in self.old[n_oldest:])
            question = Message(0, None, "user", _REQUEST + texts)
            return controller.prompt_builder.prompt([question], None, settings)

        def fits(n_oldest: int) -> bool:
            return engine.count_prompt(prompt_without(n_oldest)) + settings.max_tokens < n_ctx

        # How many of the oldest messages do not fit into the request. The search reads a half of them, a quarter, ...
        self.n_skipped = bisect_left(range(len(self.old) - 1), True, key=fits)
        prompt = prompt_without(self.n_skipped)
        if (n_tokens := engine.count_prompt(prompt)) >= n_ctx:
            message = f"the last message to summarize has {n_tokens} tokens, the context has {n_ctx}"
            raise ContextOverflowError(message, "drop it with /overflow oldest, or use a larger /n_ctx")
        self.answer = Answer(engine, Request(prompt, controller.prompt_builder.with_plain_stop(settings)))

    def use(self, text: str) -> int:
        """Continue from the summary in a new branch; returns the number of messages that it replaces."""
        session = self._controller.session
        session.conversation.move(None)
        head = session.add("summary", text).id
        for message in self._kept:  # the copies have no replay data, which names messages of the old branch
            head = session.append(replace(message, id=session.conversation.next_id, parent=head, replay={})).id
        self._controller.window_start = None
        return len(self.old)
