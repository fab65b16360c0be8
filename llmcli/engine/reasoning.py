"""Separation of a model's reasoning from its answer, by the tags around the reasoning."""

from collections.abc import Iterator, Sequence

from llmcli.engine.llama.model import Vocab

# The opening and closing tags of model families.
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
    """Include control tokens of reasoning tags in the text, which omits control tokens otherwise."""
    for token in {token for pair in TAGS for tag in pair for token in vocab.tokenize(tag, parse_special=True)}:
        if vocab.is_control(token) and not vocab.ends(token):
            vocab.show_control(token)


class ReasoningSplitter:
    """Splits streamed text into ("think", text) and ("answer", text), without tags and the line breaks next to them.

    Only a tag at the start of the text opens the reasoning; later it is part of the answer. Some templates end the
    prompt with the opening tag, so the end of the prompt is checked too.
    """

    def __init__(self, prompt: str = "", inside: bool = False) -> None:
        """`inside`: the prompt ends in the middle of the reasoning, not just after its opening tag."""
        tail = prompt.rstrip()
        self._closer = next((closer for opener, closer in TAGS if tail.endswith(opener)), "")
        if inside:
            self._closer = max(TAGS, key=lambda pair: prompt.rfind(pair[0]))[1]
        # start -> opened -> think -> gap -> answer; "opened" and "gap" skip line breaks after a tag
        self._state = "opened" if self._closer else "start"
        if inside:
            self._state = "think"
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether the next text is reasoning, as far as is known."""
        return self._state in ("opened", "think")

    def push(self, text: str) -> Iterator[tuple[str, str]]:
        """Add a piece of text; yields the parts that are final."""
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
        text = self._held.lstrip()
        pair = next(((opener, closer) for opener, closer in TAGS if text.startswith(opener)), None)
        if pair:
            self._closer = pair[1]
            self._held = text[len(pair[0]) :]
            self._state = "opened"
        elif not any(opener.startswith(text) for opener in _OPENERS):
            self._state = "answer"

    def _think(self) -> Iterator[tuple[str, str]]:
        at = self._held.find(self._closer)
        end = at if at >= 0 else len(self._held) - held_back(self._held, (self._closer,))
        final = self._held[:end].rstrip("\n")
        if at < 0:
            self._held = self._held[len(final) :]
        else:
            self._held = self._held[at + len(self._closer) :]
            self._state = "gap"
        if final:
            yield "think", final

    def _skip_lines(self, next_state: str) -> None:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = next_state

    def flush(self) -> Iterator[tuple[str, str]]:
        """The text that was held back, at the end."""
        held, self._held = self._held, ""
        if held and self._state != "gap":
            yield ("think" if self._state == "think" else "answer"), held


def held_back(text: str, phrases: Sequence[str]) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of one of `phrases`."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0
