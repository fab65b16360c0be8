"""Settings of what is asked: the prompt, the system prompt and how they are put to the model."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class RequestParams:
    """Request"""

    prompt: Annotated[str | None, Param(help="The prompt; `-` reads stdin.", flags=("-p",), metavar="TEXT")] = None
    file: Annotated[
        tuple[str, ...],
        Param(help="Add this file to the prompt; repeatable, `-` is stdin.", flags=("-f",), metavar="FILE", path=True),
    ] = ()
    system: Annotated[
        str | None, Param(help="System prompt: a text, or @FILE.", flags=("-s",), metavar="TEXT|@FILE")
    ] = None
    preset: Annotated[
        str | None,
        Param(
            help="Start from this preset: creative, precise, code, ..., or one of the configuration file.",
            metavar="NAME",
        ),
    ] = None
    prefill: Annotated[str | None, Param(help="Begin the answer with this text.", metavar="TEXT")] = None
    raw: Annotated[bool, Param(help="Complete the prompt as it is, without the chat template.")] = False
    chat_template: Annotated[
        str | None,
        Param(help="Use this Jinja chat template, inline or a file, not the model's.", metavar="JINJA|FILE", path=True),
    ] = None
    think: Annotated[
        str,
        Param(
            help="Reasoning of the model: show it, hide it from the answer, or ask the model not to reason (off).",
            choices=("show", "hide", "off"),
        ),
    ] = "show"
