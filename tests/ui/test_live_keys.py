"""Keys pressed while an answer streams: some move the temperature, all others reach the prompt as typed."""

import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from select import select

import pytest
from prompt_toolkit.input import typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress

from llmcli.engine.events import Cancellation
from llmcli.ui.input import live_keys as module
from llmcli.ui.input.live_keys import keep_typed_lines, live_keys, split_keys_and_text
from llmcli.ui.terminal.interrupt import interruptible
from tests.ui.input.keyboard import CTRL_C, DOWN, ENTER, ESCAPE, UP, Keyboard, keyboard, paste
from tests.waiting import wait_until

OTHER_UP, OTHER_DOWN = "\x1bOA", "\x1bOB"  # where the terminal is in application mode
TYPED = (
    UP, DOWN, OTHER_UP, OTHER_DOWN, "+", "-", "x", "ä", "文", "🙂", " ", ENTER, "\x04", "\x7f", "\x1b[C", "\x1b[1;5A",
    "\x1b[1;2B", "\x1bb", "\x1b[3~", "\x1b[1;3A", paste("+ a\n- b"), paste(UP + "+"), paste(""), paste("ü" * 9),
)  # fmt: skip


def parsed(pieces: Sequence[str]) -> Iterator[list[KeyPress]]:
    """The keys that the parser of the prompt finds in each piece."""
    keys: list[KeyPress] = []
    parser = Vt100Parser(keys.append)
    for piece in pieces:
        parser.feed(piece)
        yield keys[:]
        keys.clear()
    parser.flush()
    yield keys


def steps_and_text(*pieces: str, typing: bool = False) -> tuple[list[int], str]:
    """The steps, and the rest as it was typed."""
    steps, left = [], ""
    for keys in parsed(pieces):
        more, kept = split_keys_and_text(keys, typing)
        steps += more
        left += "".join(paste(key.data) if key.key == "<bracketed-paste>" else key.data for key in kept)
        typing = typing or bool(kept)
    return steps, left


def test_arrows_and_signs_are_steps_in_both_keypad_modes() -> None:
    assert steps_and_text(UP, OTHER_UP, "+", DOWN, OTHER_DOWN, "-", "++") == ([1, 1, 1, -1, -1, -1, 1, 1], "")


def test_signs_after_a_letter_are_text_and_arrows_are_steps() -> None:
    assert steps_and_text("+", "a", "+b-", UP) == ([1, 1], "a+b-")
    assert steps_and_text("-" + UP, typing=True) == ([1], "-")
    assert steps_and_text(ENTER + "+") == ([], ENTER + "+")


def test_a_paste_is_always_text() -> None:
    text = paste(f"- a\n+ b{UP}")
    assert steps_and_text(text, "+") == ([], text + "+")


@pytest.mark.parametrize("key", ["\x1b[1;5A", "\x1b[1;2B", "\x1b[1;3A", "\x1b[C", ESCAPE, "\x1b+"])
def test_other_keys_are_not_steps(key: str) -> None:
    assert steps_and_text(key) == ([], key)


def expected(typed: Sequence[str]) -> tuple[list[int], str]:
    """The steps and the rest of these keys, found without a parser."""
    known = {UP: 1, OTHER_UP: 1, DOWN: -1, OTHER_DOWN: -1}
    steps, left = [], ""
    for key in typed:
        signs = {} if left else {"+": 1, "-": -1}
        if step := (known | signs).get(key):
            steps.append(step)
        else:
            left += key
    return steps, left


@pytest.mark.parametrize("seed", range(200))
def test_cut_key_sequences_give_the_same_steps(seed: int) -> None:
    dice = random.Random(seed)
    typed = dice.choices(TYPED, k=dice.randint(1, 30))
    text = "".join(typed)
    cuts = sorted(dice.choices(range(len(text) + 1), k=dice.randint(0, 12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert steps_and_text(*pieces) == expected(typed)


# In a thread, between two prompts

needs_pipes = pytest.mark.skipif(sys.platform == "win32", reason="the keyboard of the tests is a pipe")


class Answer:
    """A fake answer that streams while keys are pressed."""

    def __init__(self, board: Keyboard) -> None:
        self.steps: list[int] = []
        self._board = board

    def step(self, step: int) -> None:
        self.steps.append(step)

    def press(self, *data: str | bytes) -> None:
        """Press keys, in pieces, and see them taken."""
        for piece in data:
            self._board.keys.send_bytes(piece.encode() if isinstance(piece, str) else piece)
            wait_until(lambda: not select([self._board.keys.fileno()], [], [], 0)[0])

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.steps) >= count)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyboard]:
    monkeypatch.setattr(module, "echo_is_off", lambda: True)
    with keyboard(tmp_path / "history") as one:
        yield one


@needs_pipes
def test_the_next_prompt_reads_the_keys_that_are_not_steps(board: Keyboard) -> None:
    answer = Answer(board)
    with live_keys(answer.step):
        answer.press(UP, "+", DOWN)
        answer.wait(3)
        answer.press("half a ", "mess+", UP, "-age")
        answer.wait(4)
    assert answer.steps == [1, 1, -1, 1]
    assert board(ENTER) == "half a mess+-age"


@needs_pipes
def test_the_end_of_an_answer_breaks_no_letter_or_paste(board: Keyboard) -> None:
    for begun, rest, read in (
        ("ä".encode()[:1], "ä".encode()[1:] + b"\r", "ä"),
        (b"x\x1b[200~+ a\n", b"- b\x1b[201~\r", "x+ a\n- b"),
        ("🙂".encode()[:3], "🙂".encode()[3:] + b"\r", "🙂"),
    ):
        answer = Answer(board)
        with live_keys(answer.step):
            answer.press(begun)
        board.keys.send_bytes(rest)
        assert board() == read
        assert not answer.steps


@needs_pipes
def test_a_paste_can_last_for_several_answers(board: Keyboard) -> None:
    answer = Answer(board)
    for text in ("\x1b[200~one\n", "+two", "-three\x1b[201~", "+"):
        with live_keys(answer.step):
            answer.press(text)
    assert not answer.steps
    assert board(ENTER) == "one\n+two-three+"


@needs_pipes
def test_keys_typed_before_the_answer_are_text(board: Keyboard) -> None:
    assert board(f"one{ENTER}two") == "one"  # `two` waits for the prompt after this answer
    answer = Answer(board)
    with live_keys(answer.step):
        answer.press("+")
    assert board(ENTER) == "two+"
    board.keys.send_text(f"- a{UP}")  # still unread, while a model is loaded
    with live_keys(answer.step):
        answer.press("-")
    assert board(ENTER) == "- a-"
    assert answer.steps == [1]


@needs_pipes
def test_escape_alone_is_a_key_after_a_moment(board: Keyboard) -> None:
    answer = Answer(board)
    with live_keys(answer.step):
        answer.press(ESCAPE)
        wait_until(lambda: typeahead._buffer[board.keys.typeahead_hash()])
        answer.press(UP)
        answer.wait(1)
    assert board(f"x{ENTER}") == "x"


@pytest.fixture
def heeding() -> Iterator[None]:
    """Ctrl-C counts, also where the tests are a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_pipes
@pytest.mark.usefixtures("heeding")
@pytest.mark.parametrize("is_read", [True, False])
def test_ctrl_c_while_the_prompt_ends_stops_the_answer(board: Keyboard, is_read: bool) -> None:
    """The terminal is not restored yet: it is a key, which the prompt has read at its end, or has not."""
    if is_read:
        assert board(f"one{ENTER}a{CTRL_C}b") == "one"
    else:
        board.keys.send_text(f"a{CTRL_C}b")
    cancellation = Cancellation()
    answer = Answer(board)
    with interruptible(cancellation), live_keys(answer.step):
        answer.press("+")
        wait_until(cancellation.is_set)
    assert board(ENTER) == "ab+"
    assert answer.steps == []


@needs_pipes
def test_a_long_paste_is_kept(board: Keyboard) -> None:
    text = "+word " * 50_000
    answer = Answer(board)
    with live_keys(answer.step):
        answer.press(*(paste(text)[at : at + 4096] for at in range(0, len(paste(text)), 4096)))
    assert board(ENTER) == text


@needs_pipes
def test_a_terminal_with_echo_is_not_read(board: Keyboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "echo_is_off", lambda: False)
    before = {*threading.enumerate()}
    with live_keys(lambda _step: pytest.fail("a step")):
        board.keys.send_text(f"{UP}+")
        assert {*threading.enumerate()} <= before
        assert select([board.keys.fileno()], [], [], 0)[0]


@needs_pipes
def test_typed_lines_can_be_kept_in_the_line(board: Keyboard) -> None:
    answer = Answer(board)
    with live_keys(answer.step):
        answer.press("tell mee\x7f", ENTER, paste("a\nb"), "\x1b[C", ENTER)
    keep_typed_lines(after_text=False)
    assert board("!", ENTER) == "tell me\na\nb!"
    assert board("next", ENTER) == "next"


@needs_pipes
def test_unread_keys_are_kept_in_the_line_too(board: Keyboard) -> None:
    with live_keys(None):
        Answer(board).press("- a", UP, ENTER)
    board.keys.send_text(f"+b{ENTER}")  # after the last look of the thread
    keep_typed_lines(after_text=True)
    assert board("!", ENTER, default="not sent") == "not sent\n- a\n+b!"
