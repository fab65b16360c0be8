"""The text of an answer: reasoning, stop strings, banned strings, and the counts of a draw."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import accumulate
from typing import NamedTuple

from llmcli.engine.sentences import TextPosition

# The opening and closing tags of model families.
REASONING_TAGS = (
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
    ("<mm:think>", "</mm:think>"),  # MiniMax M3
    ("<think:opensource>", "</think:opensource>"),  # Hy3
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),  # Apriel
)
# What the answer of a model can begin with: the last one is plain text, which opens the reasoning in a prompt only.
MODEL_TAGS = REASONING_TAGS[:-1]


class ReasoningSplitter:
    """Splits streamed text into ("think", text) and ("answer", text), without tags and the line breaks next to them.

    Only a tag at the start of the text opens the reasoning; later it is part of the answer. Some templates end the
    prompt with the opening tag, so the end of the prompt is checked too.
    """

    def __init__(self, prompt: str = "", inside: bool = False) -> None:
        """`inside`: the prompt ends in the middle of the reasoning, not just after its opening tag."""
        tail = prompt.rstrip()
        self._closer = next((closer for opener, closer in REASONING_TAGS if tail.endswith(opener)), "")
        if inside:
            self._closer = max(REASONING_TAGS, key=lambda pair: prompt.rfind(pair[0]))[1]
        # start -> opened -> think -> gap -> answer; "opened" and "gap" skip line breaks after a tag
        self._state = "opened" if self._closer else "start"
        if inside:
            self._state = "think"
        self._held = ""

    @property
    def state(self) -> str:
        """Where the text is: "start", "opened", "think", "gap" or "answer"."""
        return self._state

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
        pair = next(((opener, closer) for opener, closer in MODEL_TAGS if text.startswith(opener)), None)
        if pair:
            self._closer = pair[1]
            self._held = text[len(pair[0]) :]
            self._state = "opened"
        elif not any(opener.startswith(text) for opener, _ in MODEL_TAGS):
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


class StopScanner:
    """Finds stop strings. It holds back the end of the text while that can be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str, is_last: bool = False) -> tuple[str, str | None]:
        """The text that is final (all of it, if it is the last), and the stop string that was found or None."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        final = len(text) if is_last else len(text) - held_back(text, self._stops)
        at, stop = min(found, default=(len(text), None))
        if stop is not None and at <= final:  # else the end of the text can become a match that starts before `at`
            self._held = ""
            return text[:at], stop
        self._held = text[final:]
        return text[:final], None


class HeldToken(NamedTuple):
    """A token whose text is held back."""

    text: str
    token: int
    restore: Callable[[], None]  # what its draw changed


class BanScanner:
    """Finds banned phrases in the answer; case-insensitive, like KoboldCpp's banned_strings."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = tuple(lower_by_character(phrase) for phrase in phrases)
        self.held: list[HeldToken] = []

    @property
    def _text(self) -> str:
        return "".join(item.text for item in self.held)

    def push(self, held: HeldToken) -> int | None:
        """Add a token; the number of tokens to remove if it completes a phrase, else None."""
        self.held.append(held)
        text = lower_by_character(self._text)
        starts = [at for phrase in self._phrases if (at := text.find(phrase)) >= 0]
        if not starts:
            return None
        # From the token in which the phrase starts. It can be a part of a character, whose text a later token has.
        ends = accumulate(len(item.text) for item in self.held)
        first = next((index for index, end in enumerate(ends) if min(starts) < end), len(self.held) - 1)
        return len(self.held) - first

    def release(self) -> str:
        """The text that can no longer become part of a phrase: of all tokens or none.

        None are released while the end of the text can still become a phrase. If the following tokens are removed, a
        token before them that seemed safe could start a phrase after all.
        """
        return "" if held_back(lower_by_character(self._text), self._phrases) else self.flush()

    def flush(self) -> str:
        """The text of all held tokens, at the end of the answer."""
        text, self.held = self._text, []  # which frees their snapshots
        return text


def lower_by_character(text: str) -> str:
    """`text` in lower case, character by character: positions stay the same, and no letter depends on its neighbors."""
    lower = text.lower().replace("ς", "σ")  # str.lower maps a sigma by its position in the word
    return lower if len(lower) == len(text) else "".join(low if len(low := c.lower()) == 1 else c for c in text)


def held_back(text: str, phrases: Sequence[str]) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of one of `phrases`."""
    longest = max((len(phrase) for phrase in phrases), default=1)
    for size in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-size:]
        if any(phrase.startswith(tail) for phrase in phrases):
            return size
    return 0


class DrawState:
    """Counts tokens, sentences, lines and paragraphs. The counts restart where reasoning ends and the answer starts.

    `splitter` separates the two; without one, all text is answer.
    """

    def __init__(self, splitter: ReasoningSplitter | None = None) -> None:
        self._splitter = splitter
        self.total = 0  # tokens, including the reasoning
        self.index = 0
        self.text = TextPosition()
        self.thinking = bool(splitter and splitter.thinking)

    def read(self, text: str) -> None:
        """Add text before the first token: a prefill, or the answer to continue.

        It is added character by character, because reasoning can both start and end in it.
        """
        for character in text:
            self._push(character)

    def step(self, text: str) -> None:
        """Add a token with its text."""
        self.total += 1
        self.index += 1
        self._push(text)

    def _push(self, text: str) -> None:
        if not text:
            return
        was_thinking = self.thinking
        if self._splitter:
            answer = [part for kind, part in self._splitter.push(text) if kind == "answer"]
            self.thinking = self._splitter.thinking
            if was_thinking != self.thinking:
                self.index, self.text = 0, TextPosition()
                text = "" if self.thinking else "".join(answer)
        self.text.push(text)

    def copy(self) -> "DrawState":
        """A copy, for `restore` after tokens are removed."""
        other = copy(self)
        other._splitter, other.text = copy(self._splitter), copy(self.text)
        return other

    def restore(self, other: "DrawState") -> None:
        """Restore a copy, which must not be used again."""
        vars(self).update(vars(other))
