"""Inspecting an answer at a terminal, and continuing from another token."""

import sys

import pytest

from tests.cli.chat_terminal import GREEDY, Talk

pytestmark = [
    pytest.mark.usefixtures("with_starter"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
]


def test_why_shows_a_token_and_branch_takes_another_one() -> None:
    with Talk(*GREEDY, "--xtc-probability", "0.5") as talk:
        talk.loaded()
        answer = talk.ask("What is a comet?")
        table = talk.ask("/why comet").splitlines()
        assert table[0] == 'token 1 (0 to 19), after "A"'
        assert table[1].split()[:2] == ["model", "top_k"]
        assert any(row.startswith(">  1  ␣comet") for row in table)
        assert not any("again" in row or "evaluating" in row for row in talk.screen())  # the status is gone
        talk.resize(30, 24)
        narrow = talk.ask("/why comet").splitlines()
        assert ">  1 ␣comet" in narrow
        assert max(map(len, narrow)) < 30
        talk.resize(80, 24)
        listed = talk.ask("/alternatives 1").splitlines()
        assert listed[2].split()[:2] == ["1*", "␣comet"]
        other = listed[3].split()[1].replace("␣", " ")
        assert talk.ask("/branch 1 2").startswith("A" + other)
        assert answer.splitlines()[0] in talk.ask("/branch 1")
