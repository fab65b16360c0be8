"""Making room: the model summarizes the oldest turns, and the conversation goes on from the summary."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmcli.chat.answer import Answer, Part
from llmcli.chat.dialogue import Dialogue
from llmcli.chat.local import with_model
from llmcli.chat.tree import Message
from llmcli.errors import UsageError
from llmcli.params.layers import Layer
from llmcli.params.settings import Settings

_ASK = (
    "Summarize the conversation below for somebody who has to go on with it. Keep names, numbers, decisions, "
    "code that is still needed and open questions; leave out greetings. Write in the language of the conversation.\n\n"
)
_KEPT_TURNS = 2  # at the end, which stay as they are
_SHARE = 0.25  # of the context, at most, for the summary


class Compaction:
    """Iterate over `parts()` to write the summary, change `text` if you like, then `use` it."""

    def __init__(self, dialogue: Dialogue, path: Sequence[Message], keep: int | None = None) -> None:
        """`path` is what was said; its last `keep` turns stay, two where that is None.

        Raises:
            UsageError: when there is nothing to summarize.
        """
        starts = [index for index, message in enumerate(path) if message.role == "user"]
        keep = min(_KEPT_TURNS if keep is None else keep, len(starts) - 1)
        cut = starts[-keep] if keep > 0 else len(path)
        if cut < 2:
            raise UsageError("there is too little to summarize", "/context shows what fills the context")
        self._dialogue = dialogue
        self.old, self._kept = path[:cut], path[cut:]
        self.text = ""
        self.left_out = 0  # messages, the oldest, for which there was no room in the question
        self.interrupted = False

    def parts(self) -> Iterator[Part]:
        """The summary as it comes."""
        dialogue, local = self._dialogue, self._dialogue.local
        assert local
        settings = self._settings(local.n_ctx)
        old = list(self.old)
        while True:  # what is too long to be summarized at once loses its own beginning
            question = Message(0, None, "user", _ASK + _written(old))
            prompt = dialogue.transcript.prompt([question], None, settings)
            if len(prompt.tokens) + settings.max_tokens < local.n_ctx or len(old) < 2:
                break
            old = old[1:]
        self.left_out = len(self.old) - len(old)
        answer = Answer(local, prompt, dialogue.transcript.adjusted(settings))
        for kind, text in answer.parts():
            if kind == "answer":
                yield kind, text
        self.text = answer.text.strip()
        self.interrupted = answer.finish_reason == "interrupt"

    def _settings(self, n_ctx: int) -> Settings:
        layers = self._dialogue.layers.above(self._dialogue.session.overrides)
        assert self._dialogue.local
        quiet = Layer("compact", {"max_tokens": int(n_ctx * _SHARE), "think": "off", "prefill": None, "raw": False})
        settings = with_model(self._dialogue.local.target, [*layers, quiet]).settings
        return replace(settings, grammar=None, grammar_file=None, json_schema=None, stop=())

    def use(self) -> int:
        """Go on from the summary, in a branch of its own; returns how many messages it stands for."""
        session = self._dialogue.session
        session.move(None)
        session.say("summary", self.text)
        for message in self._kept:
            session.add_copy(message)
        self._dialogue.first = None
        return len(self.old)


def _written(messages: Sequence[Message]) -> str:
    names = {"user": "User", "assistant": "Assistant", "summary": "Earlier"}
    return "\n\n".join(f"{names[message.role]}: {message.text}" for message in messages)
