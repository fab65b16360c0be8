"""Settings of the chat: display, key bindings, and what to do when the context is full."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class InterfaceParams:
    """Chat"""

    overflow: Annotated[
        str,
        Param(
            help="What to do when a message does not fit the context: ask, reject it (error), omit the oldest turns, "
            "or summarize them (compact).",
            choices=("ask", "error", "oldest", "compact"),
        ),
    ] = "ask"
    markdown: Annotated[bool, Param(help="Render Markdown in answers on a terminal.")] = True
    theme: Annotated[str, Param(help="Colors for a dark or a light terminal.", choices=("auto", "dark", "light"))] = (
        "auto"
    )
    editing_mode: Annotated[str, Param(help="Key bindings of the input line.", choices=("emacs", "vi"))] = "emacs"
    character: Annotated[
        str | None,
        Param(
            help="Character to chat with: pirate, editor, tutor, a file, or a name in the folder `characters` "
            "of the configuration.",
            path=True,
        ),
    ] = None
