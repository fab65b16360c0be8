"""Prompts as tokens: the text of a chat template with control tokens, the texts of people without them."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from llmcli.engine.events import Message, Prompt, TokenChunk

if TYPE_CHECKING:
    from llmcli.engine.llama.model import Vocab
    from llmcli.inference.engine import TemplateOptions
    from llmcli.inference.template import ChatTemplate

# llama.cpp takes quadratic time for very many special tokens: half a minute for 1 MiB of them. So they are looked for
# window by window, each with the beginning of the next one, and a long text of a template is cut at them.
_WINDOW, _LONGEST_NAME = 1 << 14, 1 << 8  # characters; no name of a special token is longer
_LONG = 1 << 17  # characters
_CACHE_TEXTS = 4096  # cached texts, of each kind: a batch has any number of short ones
_CACHE_SIZE = 1 << 22  # characters of the cached texts, of each kind; a token takes about 40 bytes
_Value = TypeVar("_Value")


class PromptRenderer:
    """Makes prompts for one vocabulary. What was compiled or tokenized for the last ones is used again.

    llama.cpp first cuts a text at the texts of special tokens, and tokenizes the pieces between them separately
    (`tokenizer_st_partition`). So a text may be cut in front of a control token, and the tokens of the pieces joined,
    if no other special token can overlap that place or strip space there. The tokens of earlier prompts tell which
    control tokens a template writes.
    """

    def __init__(self, vocab: "Vocab") -> None:
        self._vocab = vocab
        self._template: ChatTemplate | None = None
        self._nonce = str(int.from_bytes(os.urandom(8), "big"))  # digits, because `upper` or `title` do not change them
        self._written: dict[str, int] = {}  # the control tokens in the text of users, with their numbers
        self._marked = _Memo(self._mark)
        self._pieces = _Memo(partial(vocab.tokenize, parse_special=True))
        self._plain = _Memo(vocab.tokenize)
        self._last: Sequence[int] = ()  # the tokens of the last prompt
        self._checked: set[int] = set()
        self._cuts: list[str] = []

    def render(self, request: Sequence[Message] | str, options: "TemplateOptions") -> Prompt:
        """The prompt for messages, or for a raw text, whose special tokens count: the user writes the template."""
        if isinstance(request, str):
            text = request + options.prefill
            tokens = self._vocab.tokenize(text, add_special=True, parse_special=True)
            return Prompt.of_tokens(text, self._with_bos(tokens), request)
        if self._template is None or self._template.source != options.source:
            from llmcli.inference.template import ChatTemplate  # Jinja takes its time

            names = {"bos_token": self._vocab.bos, "eos_token": self._vocab.eos}
            special = {name: "" if token is None else _piece(self._vocab, token) for name, token in names.items()}
            self._template = ChatTemplate(options.source, special, options.origin, options.is_given)
        template = self._template
        template.time = time.time() if options.time is None else options.time
        text, tokens = self.apply(template, request, options.prefill, options.arguments)
        return Prompt(text, (TokenChunk(tokens),), request, template.source, options.arguments, template.time)

    def apply(
        self,
        template: "ChatTemplate",
        messages: Sequence[Message],
        prefill: str = "",
        arguments: Mapping[str, object] | None = None,
    ) -> tuple[str, list[int]]:
        """The prompt as text and as tokens, ending where the answer begins (after `prefill`).

        Where a content spells a control token (`<|im_end|>` in a pasted file), a mark that nobody can guess takes its
        place while the template runs, and the text is tokenized as plain text afterwards. Where no content does, the
        tokens are those that llama.cpp makes of the whole text.
        """
        safe = [
            {key: value if key == "role" else self._mark_all(value) for key, value in message.items()}
            for message in messages
        ]
        given = {key: self._mark_all(value) if key == "tools" else value for key, value in (arguments or {}).items()}
        text = template.render(safe, given) + self._marked(prefill)
        names = list(self._written)
        parts = re.split(rf"\ue000{self._nonce}(\d+)\ue001", text)  # every second part is the number of a mark
        parts = [names[int(part)] if index % 2 else part for index, part in enumerate(parts)]
        return "".join(parts), self._with_bos(self.tokenize(parts))

    def tokenize(self, parts: Sequence[str]) -> list[int]:
        """The tokens of the parts, joined; every second part is plain text, whatever control tokens it spells."""
        if any(len(part) > _LONG for part in parts[::2]):
            self._last = [*self._last, *(token for part in parts[::2] for token in self._tokens_in(part))]
        self._update_cuts()
        tokens: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                tokens += self._plain(part)
                continue
            pieces = [part]  # each of them is tokenized on its own
            for name in self._cuts:
                pieces = [piece for text in pieces for piece in _cut_before(name, text)]
            for piece in filter(None, pieces):
                tokens += self._pieces(piece)
        self._last = tokens
        return tokens

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """The tokens with exactly one BOS in front if the model uses one, also where the text has it already."""
        bos = self._vocab.bos
        if not self._vocab.adds_bos or bos is None:
            return tokens
        start = next((index for index, token in enumerate(tokens) if token != bos), len(tokens))
        return [bos, *tokens[start:]]

    def _mark_all(self, value: object) -> object:
        """The value with a mark for each control token in its texts, such as those of tools and their calls."""
        if isinstance(value, str):
            return self._marked(value)
        if isinstance(value, list):
            return [self._mark_all(one) for one in value]
        return {key: self._mark_all(one) for key, one in value.items()} if isinstance(value, dict) else value

    def _mark(self, content: str) -> str:
        """The content with a mark, which nobody can guess, for each text of a control token."""
        vocab = self._vocab
        while control := {token for token in self._tokens_in(content) if vocab.is_control(token)}:
            before = content
            for name in sorted((_piece(vocab, token) for token in control), key=len):
                if name and name in content:
                    number = self._written.setdefault(name, len(self._written))
                    content = content.replace(name, f"\ue000{self._nonce}{number}\ue001")
            if content == before:  # a control token that the tokenizer adds
                break
        return content

    def _tokens_in(self, text: str) -> set[int]:
        """The tokens of a text, among them all special ones that it spells."""
        windows = (text[at : at + _WINDOW + _LONGEST_NAME] for at in range(0, len(text), _WINDOW))
        return {token for window in windows for token in self._vocab.tokenize(window, parse_special=True)}

    def _update_cuts(self) -> None:
        """Cut at special tokens of earlier prompts, where that is safe; not of the first: to list them takes 15 ms."""
        new = set(self._last) - self._checked
        if not new:
            return
        self._checked |= new
        texts = set(self._vocab.special.values())
        for token in new & self._vocab.special.keys():
            name = self._vocab.special[token]
            if not self._vocab.strips_left(token) and _stands_alone(name, texts):
                self._cuts.append(name.decode())


@contextmanager
def open_tokenizer(parts: Sequence[Path]) -> Iterator["Vocab"]:
    """The vocabulary of a model with these files, loaded without its weights for the time of the block."""
    from llmcli.engine.llama.model import Model

    with closing(Model.load(parts, vocab_only=True)) as model:
        yield model.vocab


class _Memo(Generic[_Value]):
    """A function of a text that caches its last results, up to a number and a total size of their texts."""

    def __init__(self, function: Callable[[str], _Value]) -> None:
        self._function = function
        self._results: dict[str, _Value] = {}  # the last used one is the last
        self._room = _CACHE_SIZE

    def __call__(self, text: str) -> _Value:
        if text in self._results:
            result = self._results.pop(text)
        else:
            result = self._function(text)
            self._room -= len(text)
        self._results[text] = result
        while self._room < 0 or len(self._results) > _CACHE_TEXTS:
            oldest = next(iter(self._results))
            del self._results[oldest]
            self._room += len(oldest)
        return result


def _piece(vocab: "Vocab", token: int) -> str:
    return vocab.piece(token, special=True).decode("utf-8", "replace")


def _cut_before(name: str, text: str) -> list[str]:
    first, *others = text.split(name)
    return [first, *(name + other for other in others)]


def _stands_alone(name: bytes, texts: set[bytes]) -> bool:
    """Whether the tokenizer cuts at every `name` in a text: none of `texts` can match a part of it first.

    The tokenizer searches for longer texts first. Some strip the space beside them, so `name` must not have any.
    """
    if name.split() != [name] or name.decode("utf-8", "ignore").encode() != name:  # or it is not UTF-8
        return False
    return not any(_overlap(name, text) for text in texts if text != name and len(text) >= len(name))


def _overlap(name: bytes, text: bytes) -> bool:
    if name in text:
        return True
    if name[:1] in text[1:] and any(name.startswith(text[i:]) for i in range(1, len(text))):
        return True
    return text[:1] in name[1:] and any(text.startswith(name[i:]) for i in range(1, len(name)))
