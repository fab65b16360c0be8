"""Questions to the person at the terminal."""

import sys
from collections.abc import Mapping

from llmcli.ui.terminal.console import is_terminal, wrapped
from llmcli.ui.terminal.interrupt import raising
from llmcli.ui.terminal.sanitize import safe
from llmcli.ui.terminal.typeahead import heard_keys


def can_ask() -> bool:
    """Whether somebody can answer: both stdin and stderr are terminals."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def choose(question: str, options: Mapping[str, str], default: str) -> str:
    """Ask on stderr for one of the options by its name or its first letter; Enter or anything else is the default."""
    lines = [wrapped(safe(f"  {name[0]}  {meaning}")) for name, meaning in options.items()]
    lines.append(wrapped(safe(f"{question} [{'/'.join(options)}, Enter = {default}]")) + " ")
    try:
        answer = _read_answer("\n".join(lines)).strip().lower()
    except (UnicodeDecodeError, KeyboardInterrupt):
        answer = ""
    return next((name for name in options if answer and name.startswith(answer)), default)


def confirm(question: str, default: bool) -> bool:
    """Ask on stderr and wait for y or n; Enter takes the default, the end of input means no."""
    try:
        answer = _read_answer(wrapped(safe(f"{question} [{'Y/n' if default else 'y/N'}]")) + " ")
    except UnicodeDecodeError:
        return False
    if not answer:
        sys.stderr.write("\n")
        return False
    answer = answer.strip().lower()
    return default if not answer else answer in ("y", "yes")


def _read_answer(text: str) -> str:
    """The line that the user types after `text`; empty at the end of input."""
    with raising(), heard_keys():
        sys.stderr.write(text)
        sys.stderr.flush()
        return sys.stdin.readline()
