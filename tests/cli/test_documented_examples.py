"""The examples of the page about structured output, run as they stand."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run

PAGE = Path(__file__).parents[2] / "docs/structured-output.md"
EXAMPLES = [
    line.removeprefix("$ llmcli ")
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("$ llmcli ")
]


@pytest.mark.model
@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_example_succeeds_or_says_why(run: Run, example: str) -> None:
    ran = run(*shlex.split(example), "--seed", "1", "-t", "1")
    assert ran.status in (0, 9), ran.stderr
    if ran.status:
        assert re.match(r"(?:.*\n)?error: the answer (ended before it matched|does not match) ", ran.stderr)
    elif "--json-schema" in example:
        json.loads(ran.text)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) > 8
