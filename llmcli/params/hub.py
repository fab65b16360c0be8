"""Settings of where models come from: the hub, the network, and folders of the user's own."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class HubParams:
    """Where models come from"""

    pull: Annotated[bool, Param(help="Download a model that is not here, without asking.")] = False
    offline: Annotated[bool, Param(help="Never use the network; HF_HUB_OFFLINE does the same.")] = False
    model_folders: Annotated[
        tuple[str, ...],
        Param(
            help="Look for models in this folder too; repeatable (`llmcli models import` keeps one).",
            flag="--model-folder",
            keys=("model_folder",),
            metavar="FOLDER",
            path=True,
        ),
    ] = ()
