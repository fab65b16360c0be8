"""A prompt that prints what it reads: driven by the tests through a pseudo-terminal."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from llmcli.params.settings import Settings
from llmcli.ui.input.reader import TerminalReader


def end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def suggest(before: str) -> Iterator[tuple[str, int, str]]:
    for command in ("/set ", "/seed "):
        if command.startswith(before):
            yield command, len(before), "what it does"


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    hint = " ".join(sys.argv[2:])
    reader = TerminalReader(suggest, lambda: "the status", lambda: hint, Path(sys.argv[1]), Settings())
    try:
        while True:
            print(f"<{reader.read()!r}>", flush=True)
    except EOFError:
        print("the end", flush=True)


if __name__ == "__main__":
    main()
