"""An answer that repeats itself is noticed, and one that does not is left alone."""

import inspect
import random
import textwrap
import time

import pytest

from llmcli.ui.chat.busy_screen import RepetitionDetector

WORDS = sorted(set(str(textwrap.TextWrapper.__doc__).split()))
PROSE = " ".join(random.Random(5).choices(WORDS, k=4000))
CHAPTER = "Chapter {0}: The forest\n\nThe boy went into the dark forest and saw a light, and he followed it home.\n\n"
LOOPS = {
    "one line": "I am not sure what you mean by that.\n" * 80,
    "one word": "very " * 600,
    "no blank at all": "哈" * 2000,
    "chapters with numbers": "".join(CHAPTER.format(number) for number in range(40)),
    "a long part": PROSE[:700] * 8,
    "prose and then one line": PROSE[:5000] + "And so on. " * 200,
}
NO_LOOPS = {
    "prose": PROSE,
    "a program": inspect.getsource(textwrap),
    "numbers": " ".join(map(str, range(3000))),
    "a table": "".join(f"| {row} | {row % 3} | yes |\n" for row in range(400)),
    "JSON": "".join(f'{{"id": {row}, "name": "user{row}", "active": true}},\n' for row in range(200)),
    "SQL": "".join(f"INSERT INTO users (id, name) VALUES ({row}, 'name{row}');\n" for row in range(200)),
    "a short answer": "yes " * 200,
    "a line three times": ("He said it again. " * 3 + PROSE[:900]) * 3,
}


def found(text: str, seed: int = 1) -> bool:
    """Whether a loop is found in a text that comes in pieces as tokens do."""
    dice, detector, at = random.Random(seed), RepetitionDetector(), 0
    while at < len(text):
        size = dice.randint(1, 8)
        detector.add(text[at : at + size])
        at += size
    return detector.found


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_is_found_in_any_pieces(text: str) -> None:
    assert found(text)
    assert found(text, seed=2)


@pytest.mark.parametrize("text", NO_LOOPS.values(), ids=NO_LOOPS.keys())
def test_no_loop_is_found_in_other_answers(text: str) -> None:
    assert not found(text)


def test_a_repeated_line_is_found_after_some_hundred_tokens() -> None:
    line = "I am not sure what you mean by that.\n"
    assert not found(line * 20)
    assert found(line * 45)  # about 400 tokens


def test_a_token_takes_far_less_time_than_its_drawing() -> None:
    detector = RepetitionDetector()
    started = time.process_time()
    n_tokens = len(PROSE) // 4
    for at in range(n_tokens):
        detector.add(PROSE[4 * at : 4 * at + 4])
    assert time.process_time() - started < n_tokens * 100e-6  # a fast model takes a millisecond for a token
    assert not detector.found
