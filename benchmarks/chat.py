"""How long does a person wait in the chat? `python -m benchmarks.chat [ROUNDS]` prints it, medians of as many rounds.

From Enter to the evaluation of the message after 50 turns; from the command to a prompt that takes a letter; from
Ctrl-C to the next prompt while loading, reading and streaming; and the share of the time that rendering takes.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from benchmarks import rendering
from benchmarks.measure import HEAD, llmcli, one_run, row
from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.sessions.session import Session
from llmcli.config.presets import LayerStack
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings
from llmcli.files import cache_dir
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.settings import Layer, Settings
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.markdown.view import preload

IMPORTS = "import typer, rich.console, prompt_toolkit.shortcuts"
_WORDS = "What did you say about the third of them, and why is that so, if the second one was right? "
_ANSWER = "It is so because **the third** one came later; `x = 3` says the same in fewer words. " * 3
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>78])")
_PATIENCE = 60.0


# From Enter to the evaluation


class EvaluatedError(Exception):
    """Instead of the first evaluation after Enter."""


def talk(session: Session, turns: int) -> None:
    """A conversation of so many turns, about 100 tokens each."""
    for number in range(turns):
        session.add("user", f"{number}. {_WORDS}")
        session.add("assistant", f"{number}. {_ANSWER}", finish_reason="stop")


def enter(path: Path, rounds: int, turns: int = 50) -> list[float]:
    """Milliseconds from Enter to the first evaluation; llama.cpp itself evaluates nothing here."""
    settings = Settings(n_ctx=8192)
    local = LocalEngine(ResolvedModel(ModelFile(path, (path,), "starter", trusted=True)), settings, Cancellation())
    local.open_context(settings)
    opening = BackgroundLoad(lambda _abort, _say: local)
    opening.wait(lambda _doing: True)
    dialogue = ChatController(
        Session(), LayerStack([Layer("flag", {"n_ctx": 8192})]), lambda _settings, _ahead: opening
    )
    talk(dialogue.session, turns)
    api: Any = bindings.load()
    took = []
    real, api.llama_decode = api.llama_decode, lambda *_: 0
    logits, api.llama_get_logits_ith = api.llama_get_logits_ith, lambda *_: [0.0]
    try:
        dialogue.load_model()
        messages = dialogue.session.conversation.path()
        dialogue.prompt_builder.read_ahead(messages, None, dialogue.settings)
        chat = ChatApp(dialogue, live=True)
        for number in range(rounds + 1):
            chat.warn_if_full()  # as before each prompt
            took.append(_sent(chat, api, f"{number}. {_WORDS}"))
            dialogue.session.conversation.move(messages[-1].id)
    finally:
        api.llama_decode, api.llama_get_logits_ith = real, logits
    dialogue.session.close()
    dialogue.close_model()
    return took[1:]


def _sent(chat: ChatApp, api: Any, text: str) -> float:
    found = []

    def decode(*_: object) -> int:
        found.append(perf_counter())
        raise EvaluatedError

    api.llama_decode = decode
    begin = perf_counter()
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            chat.send(text)
    except EvaluatedError:
        pass
    api.llama_decode = lambda *_: 0
    return (found[0] - begin) * 1e3


# In a terminal


class Terminal:
    """The chat in a pseudo-terminal; what it writes is read as text without escapes."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        import pexpect

        self.began = perf_counter()
        self._child = pexpect.spawn(
            command[0], command[1:], dimensions=(30, 100), env=os.environ | {"TERM": "xterm-256color"} | env
        )
        self._child.delaybeforesend = None
        self._raw = b""

    def keys(self, text: str) -> None:
        self._child.send(text)

    def wait(self, mark: bytes) -> float:
        """When a text was written that was not waited for yet."""
        end = perf_counter() + _PATIENCE
        while mark not in (text := _ESCAPES.sub(b"", self._raw)):
            if perf_counter() > end:
                raise SystemExit(f"waited in vain for {mark!r}: {text[-500:]!r}")
            self._raw += self._child.read_nonblocking(65536, _PATIENCE)
        now = perf_counter()
        self._raw = text.partition(mark)[2]
        return now

    def forget(self) -> None:
        """Read away what was written so far."""
        import pexpect

        with suppress(pexpect.TIMEOUT):
            while True:
                self._child.read_nonblocking(65536, 0)
        self._raw = b""

    def usable(self) -> float:
        """When a prompt stood there and a letter typed at it was seen."""
        self.wait(b"> ")
        self.keys("q")
        return self.wait(b"q")

    def close(self) -> None:
        self._child.close(force=True)


def start_up(env: dict[str, str], rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds to a usable prompt, and to the end of the bare imports; the two take turns."""
    ours, bare = [], []
    for _ in range(rounds + 1):
        terminal = Terminal(llmcli("chat"), env)
        ours.append((terminal.usable() - terminal.began) * 1e3)
        terminal.close()
        bare.append(one_run([sys.executable, "-c", IMPORTS])[0] * 1e3)
    return ours[1:], bare[1:]


def interrupts(env: dict[str, str], rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Milliseconds from Ctrl-C to the next prompt, in each state."""
    endless = ["--grammar", 'root ::= ("ab ")+', "--ignore-eos", "--temp", "0", "--no-save", "-c", "8192"]
    long = "tell me more about it all " * 800
    states: dict[str, Callable[[Terminal], None]] = {
        "loading": lambda _terminal: sleep(0.4),
        "reading": lambda _terminal: sleep(1.0),
        "streaming": lambda terminal: _streaming(terminal),
    }
    for state, begin in states.items():
        took = []
        for _ in range(rounds):
            flags = ["--session", "long", "-c", "8192"] if state == "loading" else endless
            terminal = Terminal(llmcli("chat", *flags), env)
            terminal.wait(b"> ")
            if state != "loading":
                terminal.wait(b"/8.2k")
            terminal.keys(f"\x1b[200~{long}\x1b[201~\r" if state == "reading" else "go\r")
            begin(terminal)
            took.append(_interrupt(terminal))
            terminal.close()
        yield state, took


def _streaming(terminal: Terminal) -> None:
    terminal.wait(b"ab ab ab ab")
    sleep(0.3)


def _interrupt(terminal: Terminal) -> float:
    terminal.forget()
    begin = perf_counter()
    terminal.keys("\x03")
    terminal.wait(b"> ")
    return (perf_counter() - begin) * 1e3


@contextmanager
def home(path: Path) -> Iterator[dict[str, str]]:
    """A home of its own with the starter, and a long session in it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "cache" / "starter").mkdir(parents=True)
        (place / "data").mkdir()
        (place / "data" / "welcomed").touch()
        shutil.copy(path, place / "cache" / "starter")
        before, os.environ["LLMCLI_HOME"] = os.environ.get("LLMCLI_HOME"), folder
        session = Session("long")
        talk(session, 50)
        session.close()
        yield {"LLMCLI_HOME": folder}
        os.environ.pop("LLMCLI_HOME")
        if before is not None:
            os.environ["LLMCLI_HOME"] = before


def figures(path: Path, rounds: int) -> None:
    """The rows of the table."""
    with home(path) as env:
        took = median(enter(path, rounds))
        row("chat, from Enter to the evaluation, 50 turns, ms", f"{took:.1f}", "20", took / 20, "<= 20 ms", took <= 20)
        ours, bare = start_up(env, rounds)
        ratio = median(x / y for x, y in zip(ours, bare, strict=True))
        what, against = "chat, to a prompt that takes a letter, ms", f"imports alone {median(bare):.0f}"
        row(what, f"{median(ours):.0f}", against, ratio, "<= 1.5", ratio <= 1.5)
        for state, times in interrupts(env, rounds):
            took = median(times)
            what = f"chat, Ctrl-C while {state} to the prompt, ms"
            row(what, f"{took:.0f}", "100", took / 100, "<= 100 ms", took <= 100)
    preload()
    for count in (200, 2000, 8000):
        part = median(rendering.share(rendering.tokens("prose", count))[0] for _ in range(3))
        what = f"chat, share of rendering at 100 tokens/s, {count} tokens"
        row(what, f"{part:.1%}", "5 %", part / 0.05, "<= 5 %", part <= 0.05)


if __name__ == "__main__":
    print(HEAD)
    figures(ensure_starter(cache_dir()), int(sys.argv[1]) if len(sys.argv) > 1 else 9)
