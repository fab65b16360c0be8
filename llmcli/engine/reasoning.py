"""The reasoning before an answer: its tags, its text, and its end, where constraint, stop strings and limits begin."""

import codecs
import re
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Literal

from llmcli.engine.answer_text import held_back
from llmcli.engine.events import Request
from llmcli.engine.llama.model import Vocab

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
_PAIRS = [pair for pair in REASONING_TAGS if pair[1]]
Side = Literal["reasoning", "answer", "both"]
_BREAKS = r"""((?:\\n|['"]\s*[~+]\s*['"])*)"""  # line breaks in a text of a template, also where texts are joined
_LOOKED_FOR = r"""(['"]\s*(?:in\b|[),]))?"""  # behind a text that the template only compares or splits with
_TAG_TOKENS = 64  # more than the tags, their line breaks and the rest of a character take


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

    @classmethod
    def of_request(cls, request: Request) -> "ReasoningSplitter | None":
        """A splitter for the answer to a request; None where all text is the answer."""
        if request.settings.raw or request.settings.prefill:
            return None
        return cls(request.prompt.text, bool(request.reasoning))

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


class ReasoningGate:
    """Follows an answer until its reasoning is over, if there is any.

    `budget` is the number of tokens after which the reasoning is ended with the text `closing`; negative: no limit.
    """

    def __init__(self, vocab: Vocab, splitter: ReasoningSplitter, openers: Sequence[str], budget: int, closing: str):
        self._vocab, self._splitter, self._openers = vocab, splitter, tuple(openers)
        self._budget, self._closing = budget, closing
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_over = False  # whether the budget was used up
        self.n_tokens = 0  # of the reasoning
        self.is_open = False  # whether the answer has begun
        self.completes_tags = False  # whether a first token that begins a tag is followed by the rest of it
        self._is_expected = True  # not if the prompt has ended the reasoning

    @classmethod
    def of_request(cls, vocab: Vocab, request: Request) -> "ReasoningGate | None":
        """The gate of an answer; None if neither its prompt nor the template of that has a tag of reasoning."""
        splitter = ReasoningSplitter.of_request(request)
        template, prompt = request.prompt.template, request.prompt.text
        openers = [opener for opener, _ in _PAIRS if opener in template]
        if not splitter or not (openers or splitter.thinking):
            return None
        closing = closing_text(*model_tags(template, prompt), template, prompt)
        gate = cls(vocab, splitter, openers, request.settings.think_budget, closing)
        gate._is_expected = not prompt.rstrip().endswith(tuple(closer for _, closer in _PAIRS))
        return gate

    @property
    def max_tokens(self) -> int:
        """The number of tokens that the reasoning can take with its tags; -1 if it has no limit."""
        if not self._is_expected:
            return 0
        return self._budget + _TAG_TOKENS if self._budget >= 0 else -1

    @property
    def thinking(self) -> bool:
        """Whether the next token is reasoning."""
        return self._splitter.thinking

    def side(self, token: int) -> Side:
        """What `token` would be next; the end of an answer is not reasoning, and what begins a tag is answer so far."""
        if self._vocab.ends(token):
            return "both" if self.thinking else "answer"
        trial = self.copy()
        text = trial._read(token)
        if trial.thinking or trial._splitter.state == "gap":
            return "reasoning"
        return "both" if self.thinking or (self._splitter.state == "gap" and text.startswith("\n")) else "answer"

    def rest_of_opener(self, token: int) -> list[int]:
        """The tokens that complete the opening tag that `token` begins, as the first one; empty if it begins none."""
        text = self._vocab.piece(token).decode("utf-8", "replace")
        is_first = self._splitter.state == "start" and text
        opener = next((opener for opener in self._openers if is_first and opener.startswith(text)), text)
        return self._vocab.tokenize(opener[len(text) :], parse_special=True)

    def push(self, token: int, is_forced: bool = False) -> list[int]:
        """Add a token; returns the tokens that must follow: the rest of a tag, or those that end the reasoning."""
        rest = self.rest_of_opener(token) if self.completes_tags and not (is_forced or self.is_open) else []
        was_thinking = self.thinking
        self._read(token)
        self.n_tokens += was_thinking and self.thinking
        self.is_open = self.is_open or self._splitter.state == "answer"
        return rest or self.closing_tokens()

    def closing_tokens(self) -> list[int]:
        """The tokens that end the reasoning now; empty while the budget lasts, and afterwards."""
        is_whole = not self._decoder.getstate()[0]  # not in the middle of a character
        if not self.thinking or self._is_over or not 0 <= self._budget <= self.n_tokens or not is_whole:
            return []
        self._is_over = True
        return self._vocab.tokenize(self._closing, parse_special=True)

    def copy(self) -> "ReasoningGate":
        """A gate at the same place that advances alone."""
        other = copy(self)
        other._splitter, other._decoder = copy(self._splitter), codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def _read(self, token: int) -> str:
        text = self._decoder.decode(self._vocab.piece(token))
        for _ in self._splitter.push(text):
            pass
        return text


def model_tags(template: str, prompt: str) -> tuple[str, str]:
    """The tags of a model: those that its prompt ends with, else those of its template, else the last in its prompt.

    A user can write of others.
    """
    end = prompt.rstrip()
    return max(_PAIRS, key=lambda pair: (end.endswith(pair[0]), template.rfind(pair[0]), prompt.rfind(pair[0])))


def begun_answer(reasoning: str, text: str, template: str, prompt: str) -> str:
    """What stands behind `prompt` if an answer has this reasoning and this text so far, as the template writes it."""
    opener, closer = model_tags(template, prompt)
    is_open = prompt.rstrip().endswith(opener)
    if not (reasoning or is_open):
        return text
    closing = closing_text(opener, closer, template, prompt)
    gap = "\n" if closing.startswith("\n") and not (is_open and prompt.endswith("\n")) else ""
    return ("" if is_open else opener) + gap + reasoning + (closing + text if text else "")


def closing_text(opener: str, closer: str, template: str, prompt: str) -> str:
    """The closing tag with the line breaks before and after it that the model is used to.

    They are those with which the template writes earlier or empty reasoning; one that writes none tells by its opening
    tag whether tags have their own lines, which is usual.
    """
    if closer.startswith("<|start|>"):  # gpt-oss: a message of its own, so that the one before it must end
        return "<|end|>" + closer
    written = []
    for found in re.finditer(_BREAKS + re.escape(closer) + _BREAKS + _LOOKED_FOR, template):
        before, after = (found[group].count(r"\n") for group in (1, 2))
        if template[: found.start()].endswith(opener):  # an empty reasoning has the line breaks of both tags
            before = min(before, 1)
        if before + after and not found[3]:
            written.append((before + after, before, after))
    has_lines = opener + "\n" in prompt or opener + r"\n" in template or opener not in template + prompt
    *_, before, after = max(written, default=(3, 1, 2) if has_lines else (0, 0, 0))
    return "\n" * before + closer + "\n" * after
