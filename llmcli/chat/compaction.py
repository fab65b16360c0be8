"""Compaction: the model summarizes the oldest turns, and the conversation continues from the summary."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmcli.chat.controller import ChatController
from llmcli.chat.conversation import Message
from llmcli.engine.events import Cancellation, Request
from llmcli.errors import UsageError
from llmcli.inference.engine import Answer, Part
from llmcli.params.settings import Layer, resolve

_REQUEST = (
    "Summarize the conversation below, so that it can continue from the summary. Keep names, numbers, decisions, "
    "code that is still needed and open questions. Omit greetings. Write in the language of the conversation.\n\n"
)
_NAMES = {"user": "User", "assistant": "Assistant", "summary": "Earlier"}
_KEPT_TURNS = 2  # the last turns are not summarized
_SHARE = 0.25  # of the context that the summary may fill


class Compaction:
    """A summary of the oldest messages of `path`. Iterate over `parts()`, change `text` if needed, then call `use`."""

    def __init__(self, controller: ChatController, path: Sequence[Message], keep: int | None = None) -> None:
        """Summarize `path` without the last `keep` turns (None = 2). Raises UsageError if there is too little."""
        starts = [index for index, message in enumerate(path) if message.role == "user"]
        keep = min(_KEPT_TURNS if keep is None else keep, len(starts) - 1)
        cut = starts[-keep] if keep > 0 else len(path)
        if cut < 2:
            raise UsageError("the conversation is too short to summarize", "see what fills the context with /context")
        self._controller = controller
        self.old, self._kept = path[:cut], path[cut:]
        self.text = ""
        self.n_skipped = 0  # number of the oldest messages that did not fit into the request
        self.interrupted = False
        self.cancellation = Cancellation()

    def parts(self) -> Iterator[Part]:
        """Stream the summary."""
        controller, engine = self._controller, self._controller.engine
        assert engine
        limit, layers = int(engine.n_ctx * _SHARE), controller.layers.above(controller.session.overrides)
        quiet = Layer("compact", {"max_tokens": limit, "think": "off", "prefill": None, "raw": False})
        settings = resolve([engine.defaults, *layers, quiet]).with_seed().settings
        settings = replace(settings, grammar=None, grammar_file=None, json_schema=None, stop=())
        old = list(self.old)
        while True:  # without the oldest messages, until the request fits
            texts = "\n\n".join(f"{_NAMES[message.role]}: {message.text}" for message in old)
            question = Message(0, None, "user", _REQUEST + texts)
            prompt = controller.prompt_builder.prompt([question], None, settings)
            if len(prompt.tokens) + settings.max_tokens < engine.n_ctx or len(old) < 2:
                break
            old = old[1:]
        self.n_skipped = len(self.old) - len(old)
        settings = controller.prompt_builder.with_plain_stop(settings)
        answer = Answer(engine, Request(prompt, settings, cancellation=self.cancellation))
        yield from (part for part in answer.parts() if part[0] == "answer")
        self.text = answer.text.strip()
        self.interrupted = answer.finish_reason == "interrupt"

    def use(self) -> int:
        """Continue from the summary in a new branch; returns the number of messages that it replaces."""
        session = self._controller.session
        session.conversation.move(None)
        session.add("summary", self.text)
        for message in self._kept:
            session.add_copy(message)
        self._controller.window_start = None
        return len(self.old)
