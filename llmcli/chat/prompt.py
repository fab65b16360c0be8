"""From messages to tokens: the text of the template may contain control tokens, the text of users may not."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.engine.llama.model import Vocab
from llmcli.errors import LlmcliError
from llmcli.inference.templates.encode import TokenCache

if TYPE_CHECKING:  # jinja2 costs 25 ms, and raw completion does without
    from llmcli.inference.templates.template import ChatTemplate, Message


def render_prompt(
    template: "ChatTemplate",
    vocab: Vocab,
    messages: "Sequence[Message]",
    prefill: str = "",
    thinking: bool = True,
    cache: TokenCache | None = None,
) -> tuple[str, list[int]]:
    """The prompt as text and as tokens, ending where the answer begins (after `prefill`).

    Where a content spells a control token (`<|im_end|>` in a pasted file), a mark that nobody can guess takes its place
    while the template runs, and the text is tokenized as plain text afterwards. Where no content does, the tokens are
    those that llama.cpp makes of the whole text. With the same `cache` for the next prompt of a conversation, only new
    text is tokenized; the result is the same.
    """
    if cache is None or cache.vocab is not vocab:
        cache = TokenCache(vocab)
    safe = [{**m, "content": cache.mark(str(m["content"]))} for m in messages]
    parts = cache.split(template.render(safe, thinking) + cache.mark(prefill))
    return "".join(parts), with_bos(vocab, cache.tokenize(parts))


def warm(template: "ChatTemplate", cache: TokenCache) -> None:
    """Prepare the cache (30 ms with 50,000 tokens) while the user types, so that the second prompt is fast."""
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with suppress(LlmcliError):  # the first prompt reports an error of the template
        for _ in range(2):  # the tokens of the first one tell where to cut
            render_prompt(template, cache.vocab, [*turn, turn[0]], cache=cache)


def with_bos(vocab: Vocab, tokens: list[int]) -> list[int]:
    """The tokens with exactly one BOS in front if the model uses one, also where the text has it already."""
    if not vocab.adds_bos or vocab.bos is None:
        return tokens
    start = next((i for i, token in enumerate(tokens) if token != vocab.bos), len(tokens))
    return [vocab.bos, *tokens[start:]]


def raw_tokens(vocab: Vocab, text: str) -> list[int]:
    """Tokens of a prompt without a template; special tokens in it count, because the user writes the template."""
    return with_bos(vocab, vocab.tokenize(text, add_special=True, parse_special=True))
