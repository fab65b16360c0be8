"""Settings of the request: the prompt, the system prompt and the chat template."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class RequestParams:
    """Request"""

    prompt: Annotated[str | None, Param(help="Prompt text (`-` = stdin).", flags=("-p",), metavar="TEXT")] = None
    file: Annotated[
        tuple[str, ...],
        Param(help="File to add to the prompt (`-` = stdin). Repeatable.", flags=("-f",), metavar="FILE", path=True),
    ] = ()
    system: Annotated[str | None, Param(help="System prompt: text or @FILE.", flags=("-s",), metavar="TEXT|@FILE")] = (
        None
    )
    preset: Annotated[
        str | None,
        Param(
            help="Preset of settings: creative, precise, code, ..., or one from the configuration file.",
            metavar="NAME",
        ),
    ] = None
    prefill: Annotated[str | None, Param(help="Text that the answer starts with.", metavar="TEXT")] = None
    raw: Annotated[bool, Param(help="Raw completion of the prompt, without the chat template.")] = False
    chat_template: Annotated[
        str | None,
        Param(
            help="Jinja chat template to use instead of the model's: inline or a file.", metavar="JINJA|FILE", path=True
        ),
    ] = None
    think: Annotated[
        str,
        Param(
            help="Reasoning of the model: show it, hide it, or ask the model for none (off).",
            choices=("show", "hide", "off"),
        ),
    ] = "show"
