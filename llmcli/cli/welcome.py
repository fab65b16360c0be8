"""The message of the first run."""

from contextlib import suppress

from llmcli.errors import LlmcliError
from llmcli.files import data_dir, make_private
from llmcli.ui.terminal.console import console


def welcome(origin: str) -> None:
    """On the first run with the default model, print how to get a better model than the starter."""
    marker = data_dir() / "welcomed"
    if origin != "default" or marker.exists():
        return
    console.note("this is the starter, a very small model; see `llmcli models recommend` for better ones")
    with suppress(OSError, LlmcliError):  # if the folder cannot be written, the message appears again
        make_private(marker.parent)
        marker.touch(mode=0o600)
