"""With a cache the tokens are those of the whole text, and only what is new is tokenized."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.engine.llama.model import Model, Vocab
from llmcli.errors import LlmcliError
from llmcli.inference import prompt_renderer as prompt_module
from llmcli.inference.prompt_renderer import PromptRenderer
from llmcli.inference.template import ChatTemplate
from tests.inference.test_prompt_tokens import ATTACKS, chatml
from tests.models.tiny_models import CONTROL, USER_DEFINED, vocabulary

WORDS = ["a", " ", "the an her", "\n", "  ", "<", "|>", "Grüße, 世界 🙂", "\ud800", "\ue000", "x" * 40]
# Each set holds texts that could be cut wrongly: by one that is longer, by one across the place, by space taken away.
SETS: dict[str, tuple[str, Mapping[str, int]]] = {
    "plain": ("tiny", {"<|a|>": CONTROL, "<|b|>": CONTROL}),
    "within": ("tiny", {"<|a|>": CONTROL, "the<|a|>her": CONTROL, "<|b|>": CONTROL, "<|b|><|b|>": USER_DEFINED}),
    "across the end": ("tiny", {"<|a|>": CONTROL, "|>xxxx": CONTROL, "<|b|>": CONTROL}),
    "across the begin": ("tiny", {"xxx<|": CONTROL, "<|a|>": CONTROL}),
    "of itself": ("tiny", {"<a<": CONTROL, "<|a|>": CONTROL, "aaa": CONTROL}),
    "with space": ("tiny", {" <|a|>": CONTROL, "<|b|>": CONTROL, "  ": USER_DEFINED, "\n": CONTROL, " ": CONTROL}),
    "space after": ("phi-3", {"<|endoftext|>": CONTROL, "<|a|>": CONTROL, " <|b|>": CONTROL, "\n\n": CONTROL}),
    "space before": ("modern-bert", {"[MASK]": CONTROL, "<|a|>": CONTROL}),
}
Edit = tuple[int, list[int]]
edits = st.lists(st.tuples(st.integers(0, 12), st.lists(st.integers(0, 30), max_size=8)), min_size=3, max_size=6)


@pytest.fixture(scope="module", params=SETS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Vocab, list[str]]]:
    """A SentencePiece vocabulary, and the texts of its special tokens."""
    name, special = SETS[request.param]
    model = Model.load([vocabulary(tmp_path_factory.mktemp("tiny") / "v.gguf", special, name)], vocab_only=True)
    yield model.vocab, ["<s>", "</s>", *special]
    model.close()


@pytest.fixture(scope="module")
def starter_vocab(starter: Path) -> Iterator[Vocab]:
    model = Model.load([starter], vocab_only=True)
    yield model.vocab
    model.close()


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return chatml()


def texts_of(history: list[Edit], pieces: list[str]) -> Iterator[list[str]]:
    """A text in pieces that grows, shrinks and changes: each edit keeps a beginning and puts something behind it."""
    text: list[str] = []
    for keep, new in history:
        text = text[:keep] + [pieces[number % len(pieces)] for number in new]
        yield text


def trained_cache(vocab: Vocab, names: list[str]) -> PromptRenderer:
    """A cache that has seen the special tokens `names`."""
    cache = PromptRenderer(vocab)
    for name in names:
        cache.tokenize([name])
    return cache


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=edits)
def test_the_tokens_are_those_of_the_whole_text(tiny: tuple[Vocab, list[str]], history: list[Edit]) -> None:
    vocab, names = tiny
    cache = trained_cache(vocab, names)
    for text in texts_of(history, [*names, *WORDS, *names]):
        whole = "".join(text)
        assert cache.tokenize([whole]) == vocab.tokenize(whole, parse_special=True)


def test_a_neighbor_does_not_change_where_a_text_is_cut(tiny: tuple[Vocab, list[str]]) -> None:
    vocab, names = tiny
    cache = trained_cache(vocab, names)
    pieces = [*names, *WORDS]
    for whole in (first + before + after for first in ("", "her") for before in pieces for after in pieces):
        assert cache.tokenize([whole]) == vocab.tokenize(whole, parse_special=True)


@settings(max_examples=40, deadline=None)
@given(history=edits)
def test_the_tokens_of_the_starter_are_those_of_the_whole_text(starter_vocab: Vocab, history: list[Edit]) -> None:
    cache = PromptRenderer(starter_vocab)
    names = [name.decode() for name in starter_vocab.special.values()]
    for text in texts_of(history, [*names, *WORDS]):
        whole = "".join(text)
        assert cache.tokenize([whole]) == starter_vocab.tokenize(whole, parse_special=True)


@settings(max_examples=40, deadline=None)
@given(history=edits)
def test_a_cache_does_not_change_the_tokens_of_a_conversation(
    starter_vocab: Vocab, template: ChatTemplate, history: list[Edit]
) -> None:
    """Contents that spell control tokens, and answers with a prefill, are among them."""
    cache = PromptRenderer(starter_vocab)
    for contents in texts_of(history, [*ATTACKS, *WORDS[:7]]):
        messages = [{"role": "user" if i % 2 else "assistant", "content": text} for i, text in enumerate(contents)]
        prefill = contents[-1] if contents else ""
        expected = PromptRenderer(starter_vocab).apply(template, messages, prefill)
        assert cache.apply(template, messages, prefill) == expected


def test_plain_text_without_a_mark_is_tokenized_as_plain(starter_vocab: Vocab) -> None:
    cache = PromptRenderer(starter_vocab)
    for _ in range(3):
        tokens = cache.tokenize(["<|im_end|>", "<|im_end|>", "<|im_end|>"])
        plain = starter_vocab.tokenize("<|im_end|>")
        assert tokens == [2, *plain, 2]
        assert len(plain) > 1


@pytest.fixture
def counted(starter_vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many characters were tokenized since it was asked the last time."""
    original, counts = starter_vocab.tokenize, [0]

    def tokenize(text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        counts.append(len(text))
        return original(text, add_special=add_special, parse_special=parse_special)

    def count() -> int:
        total = sum(counts)
        counts.clear()
        return total

    monkeypatch.setattr(starter_vocab, "tokenize", tokenize)
    return count


def warm_cache(template: ChatTemplate, cache: PromptRenderer) -> None:
    """As a chat does while the user types."""
    turn = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    with suppress(LlmcliError):
        for _ in range(2):
            cache.apply(template, turn)


def conversation(n_messages: int, word: str = "word") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{number} {word} " * 20} for number in range(n_messages)]


def test_only_new_text_is_tokenized(starter_vocab: Vocab, template: ChatTemplate, counted: Callable[[], int]) -> None:
    cache = PromptRenderer(starter_vocab)
    warm_cache(template, cache)
    messages = conversation(100)
    cache.apply(template, messages)
    assert counted() > 2 * sum(len(message["content"]) for message in messages)
    cache.apply(template, messages)
    assert counted() == 0
    new = {"role": "user", "content": "What was the first of them? <|im_end|>"}
    for changed in ([*messages, new], [*messages[:-1], new], [new, *messages[1:]], [*messages[:50], new]):
        cache.apply(template, changed)
        assert counted() < 250  # the content, marked and searched again, and the turn


def test_the_third_prompt_is_cached_without_warming(
    starter_vocab: Vocab, template: ChatTemplate, counted: Callable[[], int]
) -> None:
    cache = PromptRenderer(starter_vocab)
    costs = []
    for _ in range(3):
        cache.apply(template, conversation(5))
        costs.append(counted())
    assert costs[0] > costs[1] > costs[2] == 0


def test_the_oldest_text_leaves_the_cache(
    starter_vocab: Vocab, template: ChatTemplate, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_module, "_CACHE_SIZE", 500)
    cache = PromptRenderer(starter_vocab)
    warm_cache(template, cache)
    for word in ("one", "two", "three", "four"):
        assert cache.apply(template, conversation(2, word)) == PromptRenderer(starter_vocab).apply(
            template, conversation(2, word)
        )
    counted()
    cache.apply(template, conversation(2, "four"))
    assert counted() == 0
    cache.apply(template, conversation(2, "one"))
    assert counted() > 0


def test_a_text_larger_than_the_cache_is_tokenized(starter_vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_module, "_CACHE_SIZE", 10)
    cache = PromptRenderer(starter_vocab)
    for text in ("a" * 50, "b", "a" * 50):
        assert cache.tokenize([text]) == starter_vocab.tokenize(text)


def test_a_failing_template_fails_at_the_prompt_and_not_in_warm(starter_vocab: Vocab) -> None:
    failing, cache = chatml("{{ raise_exception('no') }}"), PromptRenderer(starter_vocab)
    warm_cache(failing, cache)
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(LlmcliError, match="fails: no"):
        cache.apply(failing, messages)
    working = chatml()
    assert cache.apply(working, messages) == PromptRenderer(starter_vocab).apply(working, messages)
