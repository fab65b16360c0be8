"""A real llama-server as the endpoint: what it takes has its effect, and what it does not take is refused.

LLAMA_SERVER_BIN_PATH names the program, as in llama.cpp's own tests; without it these tests are left out.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.conftest import Run

SERVER = os.environ.get("LLAMA_SERVER_BIN_PATH", "")
pytestmark = pytest.mark.skipif(not SERVER, reason="LLAMA_SERVER_BIN_PATH names no llama-server")
ALWAYS = ("--seed", "1", "-n", "12")


@pytest.fixture(scope="module")
def url(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("llama-server") / "log"
    for _ in range(5):  # another program may take the port meanwhile
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        if server := _started(starter, port, log):
            yield f"http://127.0.0.1:{port}"
            server.kill()
            server.wait()
            return
    pytest.fail(log.read_text())


def _started(model: Path, port: int, log: Path) -> "subprocess.Popen[bytes] | None":
    """A server that answers at the port; None if it has ended."""
    command = [SERVER, "-m", str(model), "--port", str(port), "-c", "2048", "-np", "2", "-t", "1", "-a", "the-model"]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    while server.poll() is None:
        if _is_ready(port):
            return server
        time.sleep(0.05)
    return None


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except (URLError, OSError):
        return False


def generate(inside: Run, url: str, *flags: str) -> dict[str, object]:
    ran = inside("generate", "Name a river.", "--endpoint", url, *ALWAYS, *flags, "--json")
    assert ran.status == 0, ran.stderr
    data: dict[str, object] = json.loads(ran.text)
    return data


def test_it_is_known_with_its_model_and_its_context(url: str, inside: Run) -> None:
    facts = json.loads(inside("doctor", "--endpoint", url, "--json").text)["facts"]
    assert facts["server"].startswith("llama-server ")
    assert (facts["models"], facts["answers at a time"]) == ("the-model", "2")
    (model,) = json.loads(inside("models", "list", "--endpoint", url, "--json").text)
    assert (model["name"], model["owner"]) == ("the-model", "llamacpp")
    assert model["n_ctx"] >= 1024


def test_a_seed_a_limit_and_log_probabilities_have_their_effect(url: str, inside: Run) -> None:
    first, again = (generate(inside, url, "--logprobs", "2", "--temp", "1.2") for _ in range(2))
    assert first["text"] == again["text"]
    assert (first["completion_tokens"], first["finish_reason"]) == (12, "length")
    tokens = first["tokens"]
    assert isinstance(tokens, list)
    assert "".join(one["token"] for one in tokens) == first["text"]
    assert all(len(one["top_logprobs"]) == 2 and one["logprob"] <= 0 for one in tokens)


def test_constraints_have_their_effect(url: str, inside: Run) -> None:
    assert generate(inside, url, "--grammar", 'root ::= "yes" | "no"')["text"] in ("yes", "no")
    data = generate(inside, url, "--json-schema", '{"enum": [3, 4]}')
    assert data["text"] in ("3", "4")


def test_the_samplers_of_llama_cpp_have_their_effect(url: str, inside: Run) -> None:
    greedy = generate(inside, url, "--temp", "0")["text"]
    assert generate(inside, url, "--top-k", "1", "--temp", "2")["text"] == greedy
    assert generate(inside, url, "--samplers", "top_k", "--top-k", "1")["text"] == greedy
    banned = generate(inside, url, "--temp", "0", "--logit-bias", f'"{str(greedy).split()[0]}"=-inf')["text"]
    assert not str(banned).startswith(str(greedy).split()[0])
    assert generate(inside, url, "--temp", "0.1..0.9", "--xtc-probability", "0.5", "--dry-multiplier", "0.8")["text"]


def test_the_beginning_of_an_answer_is_continued(url: str, inside: Run) -> None:
    text = str(generate(inside, url, "--prefill", "The Nile is", "--temp", "0")["text"])
    assert text.startswith("The Nile is")
    assert text.count("The Nile is") == 1
    shown = inside("generate", "Name a river.", "--endpoint", url, "--show-prompt").text
    assert shown.endswith("<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n")


def test_a_chat_keeps_the_conversation(url: str, run: Run) -> None:
    script = "Name a river.\nAnd a lake?\n/stats\n/retry\n/continue\n"
    ran = run("chat", "--no-save", "--endpoint", url, *ALWAYS, stdin=script)
    assert ran.status == 0, ran.stderr
    assert "session      2 answers" in ran.stderr
    assert len(ran.text.splitlines()) >= 4


def test_compare_and_batch_ask_side_by_side(url: str, inside: Run, tmp_path: Path) -> None:
    compared = inside("compare", "Name a river.", "--vary", "temp=0,1.2", "--endpoint", url, *ALWAYS, "--json")
    assert [one["stats"]["tokens"] for one in json.loads(compared.text)["variants"]] == [12, 12]
    (tmp_path / "in.txt").write_text("one\ntwo\nthree\n")
    ran = inside("batch", str(tmp_path / "in.txt"), "--endpoint", url, *ALWAYS)
    assert [json.loads(line)["completion_tokens"] <= 12 for line in ran.text.splitlines()] == [True] * 3


def test_what_it_cannot_do_is_named(url: str, inside: Run) -> None:
    ask = ("generate", "Name a river.", "--endpoint", url, *ALWAYS)
    policy = inside(*ask, "--temp", "sentence:1.1,0.7")
    assert (policy.status, "does not support a temperature policy" in policy.stderr) == (2, True)
    dropped = inside(*ask, "--top-a", "0.2", "--drop-unsupported")
    assert (dropped.status, "top_a is left out: the-model does not support it" in dropped.stderr) == (0, True)
    assert inside("score", "a text", "--endpoint", url).status == 2
    other = inside(*ask, "-m", "another")
    assert (other.status, "which answers in place of another" in other.stderr) == (0, True)


def test_a_prompt_that_does_not_fit_is_refused(url: str, inside: Run) -> None:
    ran = inside("generate", "word " * 3000, "--endpoint", url, *ALWAYS)
    assert ran.status == 7
    assert "does not fit the context" in ran.stderr
