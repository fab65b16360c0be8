"""The position of a token in an answer, and the temperature shift at it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import TemperatureShift
from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.params.policies.policy import parse_policy
from tests.engine.scripted import END, script_generation

POLICY = parse_policy("sentence:1,0.5")  # a state is kept where a policy may ask for it
WORDS = ("The cat", " sat", ".", " It", " slept", "!", "\n", "\n\n", " 3", ".5", " So", "<think>", "</think>", "é")
PIECES = [word.encode() for word in WORDS]
Position = tuple[int, int, int, int, int, bool]


def position(state: DrawState) -> Position:
    text = state.text
    return state.total, state.index, text.sentence, text.line, text.paragraph, state.thinking


def positions_after(texts: list[str], splitter: ReasoningSplitter | None = None) -> list[Position]:
    """The position before the first token, and after each."""
    state = DrawState(splitter)
    positions = [position(state)]
    for text in texts:
        state.step(text)
        positions.append(position(state))
    return positions


def test_tokens_sentences_lines_and_paragraphs_are_counted() -> None:
    texts = ["One", ".", " Two", "!\n", "Three", ".", "\n\n", "Four"]
    assert [
        (index, sentence, line, paragraph) for _, index, sentence, line, paragraph, _ in positions_after(texts)
    ] == [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (2, 1, 0, 0),
        (3, 1, 0, 0),
        (4, 2, 1, 0),
        (5, 2, 1, 0),
        (6, 3, 1, 0),
        (7, 3, 2, 1),
        (8, 3, 2, 1),
    ]


def test_counts_restart_where_the_answer_starts() -> None:
    texts = ["<think>", "I see. It is.", "\n\n", "Right.", "</th", "ink>", "\n\n", "Yes.", " No"]
    walked = positions_after(texts, ReasoningSplitter())
    assert [state[0] for state in walked] == list(range(10))
    assert [state[5] for state in walked] == [False, True, True, True, True, True, False, False, False, False]
    assert [state[1] for state in walked] == [0, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert walked[4][2:5] == (3, 1, 1)
    assert walked[6][2:5] == walked[7][2:5] == (0, 0, 0)
    assert walked[8][2:5] == (1, 0, 0)


def test_a_prompt_that_opens_the_reasoning_starts_inside_it() -> None:
    walked = positions_after(["I see. It is.", "</think>Yes. No", "."], ReasoningSplitter("<|assistant|><think>\n"))
    assert [(index, sentence, thinking) for _, index, sentence, _, _, thinking in walked] == [
        (0, 0, True),
        (1, 2, True),
        (0, 1, False),  # of the answer's own text in that token
        (1, 2, False),
    ]


def test_tags_in_the_middle_of_an_answer_are_text() -> None:
    assert not any(
        state[5] for state in positions_after(["Write ", "<think>", " It is.", "</think>"], ReasoningSplitter())
    )


@pytest.mark.parametrize("prefill", ["<think>I see. It is.\n\nRight.</think>\n\nYes. N", "Yes. N"])
def test_a_prefill_does_not_count_as_tokens(prefill: str) -> None:
    state = DrawState(ReasoningSplitter())
    state.read(prefill)
    assert position(state) == (0, 0, 1, 0, 0, False)
    state.step("o.")
    assert position(state)[:3] == (1, 1, 2)


def test_a_prefill_can_end_inside_the_reasoning() -> None:
    state = DrawState(ReasoningSplitter())
    state.read("<think>I see. It is.")
    assert position(state) == (0, 0, 2, 0, 0, True)


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.lists(st.sampled_from(WORDS), max_size=12), st.booleans())
def test_a_restored_place_equals_the_copy(kept: list[str], gone: list[str], inside: bool) -> None:
    splitter = ReasoningSplitter("<think>" if inside else "")
    state = DrawState(splitter)
    for text in kept:
        state.step(text)
    before, copy = position(state), state.copy()
    for text in gone:
        state.step(text)
    state.restore(copy)
    assert position(state) == before
    for text in gone:
        state.step(text)
    assert position(state) == positions_after(kept + gone, ReasoningSplitter("<think>" if inside else ""))[-1]


@given(
    st.lists(st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=4), max_size=14),
    st.sampled_from([(".", "So"), ("sat.", "3.5"), ("\n", "it slept!"), ("</think>", "cat sat"), ("é",)]),
    st.booleans(),
)
def test_a_removed_token_does_not_count_its_sentence(
    script: list[list[int]], banned: tuple[str, ...], thinks: bool
) -> None:
    def wishes(drawn: Any) -> list[int]:
        return [*script[len(drawn)], END] if len(drawn) < len(script) else [END]

    generation = script_generation(PIECES, wishes, banned_strings=banned, temperature=POLICY)
    assert generation.state
    generation.state = DrawState(ReasoningSplitter() if thinks else None)
    while not generation.finish_reason:
        generation.advance(0, 0, 2**20)
        texts = [WORDS[token] for token in generation.tokens[1:]]
        expected = positions_after(texts, ReasoningSplitter() if thinks else None)[-1]
        assert position(generation.state)[1:] == expected[1:]
        assert generation.state.total == len(texts)
    assert not generation.script.open
    generation.close()


def test_a_character_of_several_tokens_counts_when_complete() -> None:
    pieces = [b"A", "。".encode()[:1], "。".encode()[1:], b"B"]
    generation = script_generation(pieces, lambda drawn: [len(drawn)] if len(drawn) < 4 else [END], temperature=POLICY)
    sentences = []
    while not generation.finish_reason:
        generation.advance(0, 0, 2**20)
        assert generation.state
        sentences.append(generation.state.text.sentence)
    assert sentences == [0, 0, 1, 1, 1]


def test_a_generation_has_no_place_without_a_use() -> None:
    for text, kept in (("0.8", False), ("0.3..1.3", False), ("edt:0.8", True), ("sentence:1,2", True)):
        assert bool(script_generation(PIECES, lambda _: [END], temperature=parse_policy(text)).state) is kept


def test_a_shift_is_recorded_at_its_first_draw() -> None:
    shift = TemperatureShift()
    shifts = [
        shift.start_draw(0),
        shift.add(0.1),
        shift.start_draw(1),
        shift.start_draw(2),
        shift.add(0.1),
        shift.add(0.1),
        shift.start_draw(3),
    ]
    assert shifts == pytest.approx([0, 0.1, 0.1, 0.1, 0.2, 0.3, 0.3])
    assert shift.moves == [(1, 0.1), (3, 0.3)]
    shift.add(-0.3)
    assert (shift.start_draw(4), shift.moves) == (0, [(1, 0.1), (3, 0.3), (4, 0)])


def test_a_reverted_shift_is_not_recorded() -> None:
    shift = TemperatureShift()
    shift.start_draw(0)
    shift.add(0.1)
    shift.add(-0.1)
    shift.start_draw(1)
    assert shift.moves == []


def test_a_token_drawn_twice_has_one_temperature() -> None:
    shift = TemperatureShift()
    first = shift.start_draw(0)
    shift.add(0.5)
    assert (first, shift.start_draw(0), shift.start_draw(1)) == (0, 0, 0.5)


EVENTS = st.lists(
    st.sampled_from(["draw", "draw again", "back"]) | st.sampled_from([0.1, -0.1, 0.5, -0.7]), max_size=40
)


@given(EVENTS, st.randoms())
def test_replayed_moves_give_the_same_shifts(events: list[Any], chance: Any) -> None:
    """Also with removed tokens: a replay has the same order of draws."""
    asked: list[int] = []
    shifts = []
    shift, index = TemperatureShift(), 0
    for event in events:
        if isinstance(event, float):
            shift.add(event)
            continue
        index = chance.randint(0, index) if event == "back" else index + (event == "draw" and bool(asked))
        asked.append(index)
        shifts.append(shift.start_draw(index))
    again = TemperatureShift(shift.moves)
    assert [again.start_draw(index) for index in asked] == shifts
    assert again.moves == shift.moves
