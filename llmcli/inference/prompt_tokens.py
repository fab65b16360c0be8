"""A rendered prompt as tokens: what is known already is not tokenized again."""

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from llmcli.inference.engine import Message, Prompt, TemplateOptions, TokenChunk, Tokenizer

if TYPE_CHECKING:
    from llmcli.inference.template import ChatTemplate

_CACHE_SIZE = 1 << 22  # characters of the cached texts, of each kind; a token takes about 40 bytes
_Value = TypeVar("_Value")


class PromptRenderer:
    """Makes prompts for one tokenizer; what was compiled or tokenized for the last ones is used again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache = TokenCache(tokenizer)
        self._template: ChatTemplate | None = None

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        """The prompt for messages, or for a raw text; see `render_prompt`."""
        if isinstance(request, str):
            text = request + options.prefill
            return Prompt.of_tokens(text, raw_tokens(self._tokenizer, text), request)
        if self._template is None or self._template.source != options.source:
            from llmcli.inference.template import ChatTemplate  # Jinja takes its time

            names = {"bos_token": self._tokenizer.bos, "eos_token": self._tokenizer.eos}
            special = {name: "" if token is None else _piece(self._tokenizer, token) for name, token in names.items()}
            self._template = ChatTemplate(options.source, special, options.origin, options.is_given)
        template = self._template
        template.time = time.time() if options.time is None else options.time
        text, tokens = render_prompt(template, self._cache, request, options.prefill, options.thinking)
        return Prompt(text, (TokenChunk(tokens),), request, template.source, template.time)


def raw_tokens(vocab: Tokenizer, text: str) -> list[int]:
    """Tokens of a prompt without a template; special tokens in it count, because the user writes the template."""
    return with_bos(vocab, vocab.tokenize(text, add_special=True, parse_special=True))


def render_prompt(
    template: "ChatTemplate",
    cache: "TokenCache",
    messages: Sequence[Message],
    prefill: str = "",
    thinking: bool = True,
) -> tuple[str, list[int]]:
    """The prompt as text and as tokens, ending where the answer begins (after `prefill`).

    Where a content spells a control token (`<|im_end|>` in a pasted file), a mark that nobody can guess takes its place
    while the template runs, and the text is tokenized as plain text afterwards. Where no content does, the tokens are
    those that llama.cpp makes of the whole text. With the same `cache` for the next prompt of a conversation, only new
    text is tokenized; the result is the same.
    """
    safe = [{**m, "content": cache.mark(str(m["content"]))} for m in messages]
    parts = cache.split(template.render(safe, thinking) + cache.mark(prefill))
    return "".join(parts), with_bos(cache.vocab, cache.tokenize(parts))


def with_bos(vocab: Tokenizer, tokens: list[int]) -> list[int]:
    """The tokens with exactly one BOS in front if the model uses one, also where the text has it already."""
    if not vocab.adds_bos or vocab.bos is None:
        return tokens
    start = next((i for i, token in enumerate(tokens) if token != vocab.bos), len(tokens))
    return [vocab.bos, *tokens[start:]]


class TokenCache:
    """Marks and tokenizes the texts of prompts for one vocabulary, each part once as long as it stays in the cache.

    llama.cpp first cuts a text at the texts of special tokens, and tokenizes the pieces between them separately
    (`tokenizer_st_partition`). So a text may be cut in front of a control token, and the tokens of the pieces joined,
    if no other special token can overlap that place or strip space there. The tokens of earlier prompts tell which
    control tokens a template writes.
    """

    def __init__(self, vocab: Tokenizer) -> None:
        self.vocab = vocab
        self._nonce = str(int.from_bytes(os.urandom(8), "big"))  # digits, because `upper` or `title` do not change them
        self._written: dict[str, int] = {}  # the control tokens in the text of users, with their numbers
        self.mark = _Memo(self._mark)  # replaces every text of a control token by a mark that nobody can guess
        self._pieces = _Memo(self._tokenize)
        self._plain = _Memo(vocab.tokenize)
        self._seen: set[int] = set()
        self._checked: set[int] = set()
        self._cuts: list[str] = []

    def split(self, text: str) -> list[str]:
        """The output of a template for marked contents, in parts: every second one is the text of a mark."""
        parts = re.split(rf"\ue000{self._nonce}(\d+)\ue001", text)
        names = list(self._written)
        return [names[int(part)] if i % 2 else part for i, part in enumerate(parts)]

    def tokenize(self, parts: Sequence[str]) -> list[int]:
        """The tokens of the parts, joined; every second part is plain text, whatever control tokens it spells."""
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
        return tokens

    def _mark(self, content: str) -> str:
        vocab = self.vocab
        while control := {
            token for token in set(vocab.tokenize(content, parse_special=True)) if vocab.is_control(token)
        }:
            before = content
            for name in sorted((_piece(vocab, token) for token in control), key=len):
                if name and name in content:
                    number = self._written.setdefault(name, len(self._written))
                    content = content.replace(name, f"\ue000{self._nonce}{number}\ue001")
            if content == before:  # a control token that the tokenizer adds
                break
        return content

    def _tokenize(self, piece: str) -> list[int]:
        tokens = self.vocab.tokenize(piece, parse_special=True)
        self._seen.update(tokens)
        return tokens

    def _update_cuts(self) -> None:
        """Add the special tokens seen since the last call to the cuts, where that is safe."""
        new = self._seen - self._checked
        self._seen.clear()
        if not new:
            return
        self._checked |= new
        texts = set(self.vocab.special.values())
        for token in new & self.vocab.special.keys():
            name = self.vocab.special[token]
            if not self.vocab.strips_left(token) and _stands_alone(name, texts):
                self._cuts.append(name.decode())


class _Memo(Generic[_Value]):
    """A function of a text that caches its last results, up to a total size of their texts."""

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
        while self._room < 0:
            oldest = next(iter(self._results))
            del self._results[oldest]
            self._room += len(oldest)
        return result


def _piece(vocab: Tokenizer, token: int) -> str:
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
