"""The commands of `llmcli models` about models to download: pull, files, search, recommend."""

from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.completion import complete_remote
from llmcli.cli.options import Json, with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import UsageError
from llmcli.models import catalog
from llmcli.models.hub.environment import repo_url
from llmcli.models.hub.repo_files import (
    Quantization,
    best_fit,
    fits_memory,
    projectors,
    quantizations,
    select_quantization,
)
from llmcli.models.locations import ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file, reference_to_download
from llmcli.models.reference import HubReference
from llmcli.params.settings import Layer
from llmcli.text import format_count, format_size, plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_line, print_rows

if TYPE_CHECKING:
    from llmcli.models.hub.api import Repo


@with_settings(only=("offline",))
def pull(
    flags: Layer,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to download: owner/repo[:Q4_K_M], a URL, or a name from `models recommend`.",
            autocompletion=complete_remote,
        ),
    ],
    mmproj: Annotated[
        bool, typer.Option(help="Also download the vision projector (mmproj).", hidden=True)
    ] = False,  # hidden: llmcli cannot use images yet
) -> None:
    """Download a model, or resume its download.

    Every file is verified. The path of the model is printed to stdout.
    """
    settings = resolve_settings(flags)
    locations = model_locations(settings)
    remote = reference_to_download(reference, locations)
    if remote is None:
        from llmcli.cli.open_model import find_model

        print_line(str(find_model(replace(settings, model=reference)).file.path))
        return
    if locations.is_offline:
        with suppress(ModelNotDownloadedError):
            file = find_model_file(reference, locations)
            console.note(f"{reference} is already downloaded; offline: did not check for updates")
            print_line(str(file.path))
            return
    from llmcli.cli.models.download import describe, fetch_planned, plan_reference

    plan = plan_reference(remote, locations, mmproj)
    console.note(describe(plan))
    if plan.update:
        console.note(plan.update)
    print_line(str(fetch_planned(plan).path))


@with_settings(only=("offline",))
def files(
    flags: Layer,
    repo: Annotated[
        str,
        typer.Argument(
            metavar="REPO", help="Repository on the Hub: owner/repo[@revision].", autocompletion=complete_remote
        ),
    ],
    as_json: Json = False,
) -> None:
    """List the quantizations of a repository.

    The table shows size, bits per weight, and whether a model fits into the memory of this machine.
    """
    from llmcli.cli.models.download import warn_about_token
    from llmcli.inference.sizing import memory_and_cores
    from llmcli.models.hub import api

    locations = model_locations(resolve_settings(flags))
    reference = reference_to_download(repo, locations)
    if not isinstance(reference, HubReference):
        raise UsageError(f"'{repo}' is not a repository on the Hub", "write owner/repo")
    warn_about_token(locations)
    listing = api.get_repo(reference, locations.offline, console.note)
    found, (memory, _) = quantizations(listing.files), memory_and_cores()
    if not found:
        select_quantization(found, None, None, listing.name)  # raises the error with its hint
    chosen, reason = best_fit(found, memory) if any(variant.complete for variant in found) else (None, "")
    if as_json:
        print_json(_listing_data(listing, found, chosen, memory))
        return
    rows = [_variant_row(variant, listing.n_parameters, memory) for variant in found]
    print_rows(("QUANT", "SIZE", "BITS", "FITS", "FILE"), rows, ("SIZE", "BITS"))
    if chosen:
        label = chosen.quantization or chosen.path
        console.note(f"`llmcli pull {listing.name}` downloads {label}: {reason}")
    if listing.gated:
        console.note(f"{listing.name} is gated; accept its terms at {repo_url(listing.name)} first")


@with_settings(only=("offline",))
def search(
    flags: Layer,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Search terms.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="Maximum number of repositories.")] = 15,
    as_json: Json = False,
) -> None:
    """Search the Hub for GGUF repositories.

    The most downloaded repositories come first.
    """
    from llmcli.cli.models.download import warn_about_token
    from llmcli.models.hub import api

    locations = model_locations(resolve_settings(flags))
    warn_about_token(locations)
    found = api.search(" ".join(text), limit, locations.offline, console.note)
    if as_json:
        print_json([asdict(item) for item in found])
    elif not found:
        console.note(f"no GGUF repositories found for '{' '.join(text)}'")
    else:
        rows = [
            (item.name, format_count(item.downloads), item.license + (", gated" if item.gated else ""), item.updated)
            for item in found
        ]
        print_rows(("NAME", "DOWNLOADS", "LICENSE", "UPDATED"), rows, ("DOWNLOADS",))
        console.note("list the quantizations of a repository with `llmcli models files NAME`")


@with_settings(only=())
def recommend(flags: Layer, as_json: Json = False) -> None:  # noqa: ARG001 -- the decorator brings the switches
    """List models that suit this machine.

    The models come from llmcli's own short catalog, best first for the memory and cores of this machine.
    """
    from llmcli.inference.sizing import memory_and_cores

    memory, cores = memory_and_cores()
    entries = catalog.recommend(memory, cores)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    rows = [
        (entry.name, f"{entry.parameters:g}B", format_size(entry.size), entry.license, entry.note) for entry in entries
    ]
    commands = [f"llmcli pull {entry.reference}" for entry in entries]
    print_rows(("NAME", "WEIGHTS", "SIZE", "LICENSE", "GOOD AT"), rows, ("WEIGHTS", "SIZE"), commands)
    memory_text = f"{memory / 2**30:.1f} GiB of free memory and " if memory else ""
    machine = memory_text + plural(cores, "core")
    console.note(f"for {machine}, from llmcli's own catalog of {catalog.AS_OF}")
    console.note(f"the short name works too: `llmcli pull {entries[0].name}`")


def _variant_row(variant: Quantization, n_parameters: int | None, memory: int) -> tuple[str, ...]:
    bits = variant.bits_per_weight(n_parameters)
    return (
        variant.quantization or "?",
        format_size(variant.size),
        f"{bits:.1f}" if bits else "",
        ("yes" if fits_memory(variant.size, memory) else "no") if variant.complete else "parts missing",
        variant.path + (f" (+{len(variant.parts) - 1})" if len(variant.parts) > 1 else ""),
    )


def _listing_data(
    listing: "Repo", found: list[Quantization], chosen: Quantization | None, memory: int
) -> dict[str, Any]:
    models = [
        {
            "quantization": variant.quantization,
            "size": variant.size,
            "bits_per_weight": variant.bits_per_weight(listing.n_parameters),
            "fits": fits_memory(variant.size, memory),
            "complete": variant.complete,
            "chosen": variant is chosen,
            "files": [asdict(part) for part in variant.parts],
        }
        for variant in found
    ]
    facts = {"repo": listing.name, "commit": listing.commit, "license": listing.license, "gated": listing.gated}
    return facts | {"models": models, "projectors": [asdict(file) for file in projectors(listing.files)]}
