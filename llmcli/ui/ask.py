"""A question to the person at the terminal; never one to a pipe."""

import sys

from llmcli.ui.console import is_terminal, wrapped
from llmcli.ui.safe import safe


def can_ask() -> bool:
    """Whether there is somebody to answer: both stdin and stderr lead to a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def confirm(question: str, default: bool) -> bool:
    """Ask on stderr and wait for y or n; Enter takes the default, the end of input means no."""
    sys.stderr.write(wrapped(safe(f"{question} [{'Y/n' if default else 'y/N'}]")) + " ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except UnicodeDecodeError:
        return False
    if not answer:
        sys.stderr.write("\n")
        return False
    answer = answer.strip().lower()
    return default if not answer else answer in ("y", "yes")
