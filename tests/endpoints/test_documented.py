"""The examples of docs/endpoints.md, run as they stand against servers."""

import re
import shlex
from pathlib import Path

import pytest

from llmcli.inference.endpoint_dialect import DIALECTS
from llmcli.params.settings import fields
from tests.conftest import Run
from tests.endpoints.server import serving

PAGE = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\$ llmcli (.*)$", PAGE, re.MULTILINE)
URL = "http://localhost:8080"


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_documented_example_succeeds(
    example: str, inside: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    (home / "config").mkdir(parents=True)
    (home / "config" / "work.key").write_text("secret")
    (home / "config" / "work.key").chmod(0o600)
    (table,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    with serving(kind="vllm", key="secret" if "work" in example else "") as (url, _):
        (home / "config" / "config.toml").write_text(table.replace(URL, url).replace("endpoint = ", "# "))
        ran = inside(*shlex.split(example.replace(URL, url)), stdin="why?\n")
    assert ran.status == 0, ran.stderr
    assert ran.text


def rows() -> list[tuple[str, list[str]]]:
    """The settings of the table, with the cells of the servers."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 9]
    return [(cells[0], [cell.strip() for cell in cells[1:8]]) for cells in lines[1:] if "---" not in cells[0]]


def test_the_table_says_what_each_dialect_takes() -> None:
    kinds = ("llmcli", "llama-server", "vllm", "sglang", "ollama", "openai", "other")
    n_keys = 0
    for text, cells in rows():
        names = [name.removesuffix("*") for name in re.findall(r"`([a-z_]+\*?)", text)]
        keys = [
            key for key in fields() for name in names if key == name or (f"`{name}*" in text and key.startswith(name))
        ]
        for kind, cell in zip(kinds, cells, strict=True):
            for key in keys:
                assert DIALECTS[kind].takes(key) == bool(cell), (kind, key)
        n_keys += len(keys)
    assert n_keys > 35
    for kind in kinds:
        in_table = [cells[kinds.index(kind)] for text, cells in rows() if text.startswith((" a range", " every"))]
        assert [bool(cell) for cell in in_table] == [DIALECTS[kind].ranges, DIALECTS[kind].policies]
        (scores,) = (cells[kinds.index(kind)] for text, cells in rows() if "`score`" in text)
        assert bool(scores) == DIALECTS[kind].scores
