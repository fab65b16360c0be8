"""Settings of model sources: the Hugging Face Hub, the network and the user's folders."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.params.param import Param


@dataclass(frozen=True, kw_only=True)
class HubParams:
    """Model sources"""

    pull: Annotated[bool, Param(help="Download a missing model without confirmation.")] = False
    offline: Annotated[bool, Param(help="Offline mode: no network access (same as HF_HUB_OFFLINE=1).")] = False
    model_folders: Annotated[
        tuple[str, ...],
        Param(
            help="Additional folder with models. Repeatable; `llmcli models import` saves one.",
            flag="--model-folder",
            keys=("model_folder",),
            metavar="FOLDER",
            path=True,
        ),
    ] = ()
