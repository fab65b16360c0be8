"""From messages to tokens: the template's text may hold control tokens, what people wrote may not."""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.engine.vocab import Vocab

if TYPE_CHECKING:  # jinja2 costs 25 ms, and raw completion does without
    from llmcli.chat.template import ChatTemplate, Message


def render_prompt(
    template: "ChatTemplate", vocab: Vocab, messages: "Sequence[Message]", prefill: str = "", thinking: bool = True
) -> tuple[str, list[int]]:
    """The prompt as text and as tokens, ending where the answer begins (after `prefill`).

    A content that spells a control token (`<|im_end|>` in a pasted file) is taken apart: each such text is
    replaced by a mark that nobody can guess while the template runs, and tokenized as plain text afterwards.
    Where no content does, the whole is tokenized in one go, exactly as llama.cpp does it.
    """
    nonce = str(int.from_bytes(os.urandom(8), "big"))  # digits, which no `upper` or `title` changes
    originals: list[str] = []
    safe = [{**m, "content": _mark(vocab, str(m["content"]), nonce, originals)} for m in messages]
    text = template.render(safe, thinking) + _mark(vocab, prefill, nonce, originals)
    tokens: list[int] = []
    shown: list[str] = []
    for index, part in enumerate(re.split(rf"\ue000{nonce}(\d+)\ue001", text)):
        plain = index % 2 == 1
        part = originals[int(part)] if plain else part
        shown.append(part)
        tokens += vocab.tokenize(part, parse_special=not plain) if part else []
    return "".join(shown), with_bos(vocab, tokens)


def with_bos(vocab: Vocab, tokens: list[int]) -> list[int]:
    """The tokens with exactly one BOS in front where the model wants one, whoever wrote it."""
    if not vocab.adds_bos or vocab.bos is None:
        return tokens
    start = next((i for i, token in enumerate(tokens) if token != vocab.bos), len(tokens))
    return [vocab.bos, *tokens[start:]]


def raw_tokens(vocab: Vocab, text: str) -> list[int]:
    """Tokens of a prompt without a template; special tokens in it count, for here the user writes the template."""
    return with_bos(vocab, vocab.tokenize(text, add_special=True, parse_special=True))


def _mark(vocab: Vocab, content: str, nonce: str, originals: list[str]) -> str:
    """`content` with every text of a control token replaced by a numbered mark."""
    while found := {token for token in vocab.tokenize(content, parse_special=True) if vocab.is_control(token)}:
        before = content
        for name in sorted((vocab.piece(token, special=True).decode("utf-8", "replace") for token in found), key=len):
            if name and name in content:
                originals.append(name)
                content = content.replace(name, f"\ue000{nonce}{len(originals) - 1}\ue001")
        if content == before:  # a control token the tokenizer adds by itself
            break
    return content
