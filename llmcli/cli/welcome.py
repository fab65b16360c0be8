"""The greeting of a first run."""

from contextlib import suppress

from llmcli.chat.paths import data_dir, make_private
from llmcli.errors import LlmcliError
from llmcli.ui.console import console


def welcome(origin: str) -> None:
    """Tell somebody who has chosen no model, on the first run, how to get a better one than the starter."""
    told = data_dir() / "welcomed"
    if origin != "default" or told.exists():
        return
    console.note("this is the starter, a very small model; `llmcli models recommend` names better ones")
    with suppress(OSError, LlmcliError):  # a folder that cannot be written means to be told again
        make_private(told.parent)
        told.touch(mode=0o600)
