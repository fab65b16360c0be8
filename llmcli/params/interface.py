"""Settings of the chat itself: how it looks, how it is typed into, and what it does when the context is full."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class InterfaceParams:
    """Chat"""

    overflow: Annotated[
        str,
        Param(
            help="When the next turn does not fit the context: ask, refuse it (error), leave the oldest turns out, "
            "or let the model summarize them (compact).",
            choices=("ask", "error", "oldest", "compact"),
        ),
    ] = "ask"
    markdown: Annotated[bool, Param(help="Render the Markdown of answers on a terminal.")] = True
    theme: Annotated[str, Param(help="Colours for a dark or a light terminal.", choices=("auto", "dark", "light"))] = (
        "auto"
    )
    editing_mode: Annotated[str, Param(help="Keys of the input line.", choices=("emacs", "vi"))] = "emacs"
    character: Annotated[
        str | None,
        Param(help="Talk to this character: a file, or a name in the configuration's folder `characters`.", path=True),
    ] = None
