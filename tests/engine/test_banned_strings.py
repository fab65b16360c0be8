"""Banned strings: they never appear in the answer."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine.answer_text import lower_by_character
from llmcli.engine.llama.context import Context
from llmcli.errors import ConstraintError
from llmcli.params.policies.policy import Fixed
from tests.engine.drive import GREEDY, run
from tests.engine.scripted import END, Wishes, run_to_end, script_generation, text_of

WORDS = ("the", " cat", " dog", " sat", " on", " mat", "s", ".")
PIECES = [word.encode() for word in WORDS]


def words_by_position(*positions: str) -> Wishes:
    """Preferred words by position, each a list separated by `|`, the best first; then the end."""
    wishes = [[WORDS.index(word) for word in position.split("|")] for position in positions]
    return lambda drawn: wishes[len(drawn)] if len(drawn) < len(wishes) else [END]


STORY = ("the", " cat| dog| mat", " sat| on", " on| sat", "s|.")


@pytest.mark.parametrize(
    ("banned", "text"),
    [
        (["zebra"], "the cat sat ons"),
        (["cat"], "the dog sat ons"),
        (["cat", "dog"], "the mat sat ons"),
        (["CAT"], "the dog sat ons"),
        (["cat sat"], "the dog sat ons"),
        (["cat sat on", "G SAT ON"], "the mat sat ons"),
        (["cat s", "dog s"], "the mat sat ons"),
        (["sat", "ont"], "the cat on ons"),
        (["ons"], "the cat sat sats"),
        (["ons", "sats"], None),  # each begins in the token before the last
        (["at s", "g s"], None),
        (["the cat sat on"], None),  # only `the` can begin
        (["e c"], None),
    ],
)
def test_generation_avoids_each_banned_phrase(banned: list[str], text: str | None) -> None:
    generation = script_generation(PIECES, words_by_position(*STORY), banned_strings=tuple(banned))
    if text is None:
        with pytest.raises(ConstraintError, match="no wish is left"):
            run_to_end(generation)
    else:
        assert text_of(run_to_end(generation)) == text
    assert not generation.script.open


def test_a_token_is_forbidden_only_at_its_position() -> None:
    generation = script_generation(PIECES, words_by_position("the", " cat| dog", " cat"), banned_strings=("cat ",))
    assert text_of(run_to_end(generation)) == "the dog cat"


def test_backtracking_resets_bans_at_later_positions() -> None:
    # ` sat` is banned after ` cat`, then ` cat` itself goes: after ` dog`, ` sat` is fine again.
    tree = {"": "the", "the": " cat| dog", "the cat": " sat| on", "the cat sat": ".", "the dog": " sat| on"}
    tree |= {"the dog sat": "s", "the dog sats": ""}

    def wishes(drawn: Sequence[int]) -> Sequence[int]:
        next_words = tree.get("".join(WORDS[token] for token in drawn), ".")
        return [WORDS.index(word) for word in next_words.split("|")] if next_words else [END]

    generation = script_generation(PIECES, wishes, banned_strings=("sat.", "cat on"))
    assert text_of(run_to_end(generation)) == "the dog sats"
    assert generation.timings.predicted_n == 4


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c3x"),  # the final sigma
        ("\u00c9T\u00c9", "\u00e9t\u00e9"),
        ("I\u0307", "i\u0307"),
        ("stra\u00dfe", "STRA\u00dfE"),
    ],
)
def test_banned_phrases_are_case_insensitive_in_any_script(phrase: str, text: str) -> None:
    assert lower_by_character(phrase) in lower_by_character(text)


@given(st.text(max_size=20))
def test_folding_keeps_the_positions_of_characters(text: str) -> None:
    assert lower_by_character(text) == "".join(lower_by_character(letter) for letter in text)
    assert len(lower_by_character(text)) == len(text)


def test_a_phrase_can_start_inside_a_split_character() -> None:
    generation = script_generation(
        [b"a\xc3", b"\xa9t\xc3", b"\xa8", b"\xa9"],
        lambda n: [[0], [1], [3, 2], [END]][len(n)],
        banned_strings=("t\u00e9",),
    )
    with pytest.raises(ConstraintError):  # the phrase begins in the second piece, and nothing else may stand there
        run_to_end(generation)
    assert not generation.script.open


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "ab", "ba", "A", "\u00e9", " "]), min_size=2, max_size=6, unique=True),
    st.lists(st.text("ab\u00e9 ", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_no_banned_phrase_appears_and_snapshots_are_freed(words: list[str], banned: list[str], seed: int) -> None:
    def wishes(drawn: Sequence[int]) -> Sequence[int]:
        order = random.Random(f"{seed} {drawn}").sample(range(len(words)), len(words))
        return [END] if len(drawn) == 8 else order

    def once() -> tuple[str, list[int]]:
        generation = script_generation([word.encode() for word in words], wishes, banned_strings=tuple(banned))
        texts: list[str] = []
        try:
            texts += [record.text for record in run_to_end(generation)]
        except ConstraintError:
            texts = []
        assert not generation.script.open
        return "".join(texts), generation.tokens[1:]

    text, tokens = once()
    assert not any(lower_by_character(phrase) in lower_by_character(text) for phrase in banned)
    if text:
        assert text == "".join(words[token] for token in tokens)
    assert once() == (text, tokens)


PROMPT = "Once upon a time, there was a little girl named"


def test_a_ban_keeps_the_answer_before_the_phrase(context: Context) -> None:
    free = run(context, PROMPT, **GREEDY, max_tokens=20)
    words = free.text.split(" ")
    phrase = " ".join(words[6:8])  # two words, several tokens
    kept = free.text[: free.text.index(phrase)]
    banned = run(context, PROMPT, **GREEDY, max_tokens=20, banned_strings=(phrase.upper(),))
    assert phrase.lower() not in banned.text.lower()
    assert banned.text.startswith(kept)
    assert len(banned.ids) == len(free.ids) == 20
    assert not any(phrase.lower() in record.text.lower() for record in banned.records)


def test_several_continuations_can_be_banned_in_turn(context: Context) -> None:
    banned: tuple[str, ...] = ()
    for _ in range(4):
        first = run(context, PROMPT, **GREEDY, max_tokens=1, banned_strings=banned).text
        assert first.strip().lower() not in {phrase.strip().lower() for phrase in banned}
        banned += (first,)
    assert len(set(banned)) == 4


def test_bans_keep_the_answer_of_a_seed_reproducible(context: Context) -> None:
    def answer(**values: Any) -> str:
        return run(context, PROMPT, max_tokens=24, seed=5, temperature=Fixed(1.2), presence_penalty=0.2, **values).text

    free = answer()
    phrase = free.split(" ")[5]
    kept = free[: free.index(phrase)].rstrip()  # the blank before it belongs to the token that is taken back
    first = answer(banned_strings=(phrase,))
    assert first != free
    assert first.startswith(kept)
    assert answer(banned_strings=(phrase,)) == first
    assert answer(banned_strings=("\x01never",)) == free


def test_bans_that_leave_no_token_are_an_error(context: Context) -> None:
    n = context.model.vocab.n_tokens
    only = tuple((token, -float("inf")) for token in range(n) if token not in (260, 28))
    pieces = tuple(context.model.vocab.piece(token).decode() for token in (260, 28))
    with pytest.raises(ConstraintError, match="no token satisfies the constraints"):
        run(context, PROMPT, logit_bias=only, banned_strings=pieces)


def test_too_many_forbidden_tokens_at_a_position_are_an_error() -> None:
    pieces = [f"{number} bad".encode() for number in range(2000)]
    generation = script_generation(pieces, lambda _drawn: range(2000), banned_strings=("bad",))
    with pytest.raises(ConstraintError, match="the banned strings exclude every likely token"):
        run_to_end(generation)
    assert not generation.script.open
