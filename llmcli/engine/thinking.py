"""Telling a model's reasoning from its answer by the tags it writes around it."""

from collections.abc import Iterator

from llmcli.engine.stops import held_back
from llmcli.engine.vocab import Vocab

# Opening and closing tags, as the families of models write them.
TAGS = (
    ("<think>", "</think>"),  # DeepSeek R1, Qwen 3, QwQ, SmolLM3, GLM, MiniMax
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel|>final<|message|>", ""),  # gpt-oss without reasoning
    ("<|channel>thought", "<channel|>"),  # Gemma
    ("◁think▷", "◁/think▷"),  # Kimi
)
_OPENERS = tuple(opener for opener, _ in TAGS)


def show_tags(vocab: Vocab) -> None:
    """Reasoning tags made of control tokens would vanish from the text: let them show."""
    for token in {token for pair in TAGS for tag in pair for token in vocab.tokenize(tag, parse_special=True)}:
        if vocab.is_control(token) and not vocab.ends(token):
            vocab.show_control(token)


class ThinkingSplitter:
    """Splits streamed text into ("think", text) and ("answer", text); the tags themselves vanish.

    Only a tag at the very beginning opens the reasoning: the same letters later are the answer's own. Templates
    that write the opening tag into the prompt are seen by the prompt's end. Blank lines next to a tag vanish too.
    """

    def __init__(self, prompt: str = "", inside: bool = False) -> None:
        """`inside` says that the prompt ends somewhere in the reasoning, not just behind its opening tag."""
        tail = prompt.rstrip()
        self._closer = next((closer for opener, closer in TAGS if tail.endswith(opener)), "")
        if inside:
            self._closer = max(TAGS, key=lambda pair: prompt.rfind(pair[0]))[1]
        self._state = "think" if inside else "opened" if self._closer else "start"
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether what comes next is reasoning, as far as the text shows."""
        return self._state in ("opened", "think")

    def push(self, text: str) -> Iterator[tuple[str, str]]:
        """The parts of the next piece of text that are certain."""
        self._held += text
        if self._state == "start":
            self._open()
        if self._state == "opened":
            self._skip_lines("think")
        if self._state == "think":
            yield from self._think()
        if self._state == "gap":
            self._skip_lines("answer")
        if self._state == "answer" and self._held:
            yield "answer", self._held
            self._held = ""

    def _open(self) -> None:
        begun = self._held.lstrip()
        pair = next(((o, c) for o, c in TAGS if begun.startswith(o)), None)
        if pair:
            self._closer = pair[1]
            self._held = begun[len(pair[0]) :]
            self._state = "opened"
        elif not any(opener.startswith(begun) for opener in _OPENERS):
            self._state = "answer"

    def _think(self) -> Iterator[tuple[str, str]]:
        at = self._held.find(self._closer)
        end = at if at >= 0 else len(self._held) - held_back(self._held, (self._closer,))
        certain = self._held[:end].rstrip("\n")
        if at < 0:
            self._held = self._held[len(certain) :]
        else:
            self._held = self._held[at + len(self._closer) :]
            self._state = "gap"
        if certain:
            yield "think", certain

    def _skip_lines(self, then: str) -> None:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = then

    def flush(self) -> Iterator[tuple[str, str]]:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        if held and self._state != "gap":
            yield ("think" if self._state == "think" else "answer"), held
