"""The examples of docs/serve.md are answered."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.server.conftest import ServerMaker

PAGE = Path(__file__).parents[2] / "docs/serve.md"
EXAMPLES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("$ curl ")]


COMMANDS = re.findall(r"(?:^\$ |ExecStart=\S*/)llmcli (serve.*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_have_options_that_exist(inside: Run, command: str) -> None:
    assert inside(*shlex.split(command, comments=True), "--help").status == 0
    assert inside(*shlex.split(command, comments=True), "--no-such-option", "--help").status == 2


@pytest.mark.parametrize("option", ["--endpoint=http://localhost:1", "--prompt=x", "--choices=a,b"])
def test_serve_has_no_option_that_it_would_ignore(inside: Run, option: str) -> None:
    ran = inside("serve", option)
    assert (ran.status, ran.stderr.splitlines()[0]) == (2, f"error: no such option '{option.partition('=')[0]}'")


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_examples_of_the_page_are_answered(serve: ServerMaker, line: str) -> None:
    _, _, address, *data = shlex.split(line)
    path = address.removeprefix("localhost:8080")
    body = data[1].encode() if data else None
    reply = serve().request("POST" if data else "GET", path, body)
    assert (reply.code, bool(reply.body)) == (200, True), reply.body


def test_the_routes_to_get_on_the_page_exist(serve: ServerMaker) -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `GET ")]
    paths = [path for row in rows for path in re.findall(r"`(?:GET )?(/[\w/]+)`", row.split("|")[1])]
    assert len(paths) >= 6
    client = serve()
    assert [client.get(path.replace("NAME", "fake")).code for path in paths] == [200] * len(paths)
