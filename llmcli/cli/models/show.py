"""The commands of `llmcli models` that show a model, what the Hub has, and what suits this machine."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_reference, complete_remote
from llmcli.cli.models.pull import warn_about_token
from llmcli.cli.options import Json, with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import LlmcliError, ModelInvalidError, UsageError
from llmcli.inference.model_info import ModelInfo, local_model_info, remote_model_info
from llmcli.inference.rpc_devices import memory_with_servers
from llmcli.inference.sizing import memory_and_cores
from llmcli.models import catalog
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.kind import kind_of
from llmcli.models.hub import repo_files
from llmcli.models.hub.environment import repo_url
from llmcli.models.hub.repo_files import Quantization
from llmcli.models.locations import ModelLocations, ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference
from llmcli.models.sources.registry import parse_remote
from llmcli.params.model import ModelParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer
from llmcli.text import ellipsize, format_age, format_count, format_size, plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_facts, print_json, print_line, print_rows

if TYPE_CHECKING:
    from llmcli.models.hub.api import Repo

_LONGEST_TEXT = 200  # characters of a text in a header, which can have a megabyte


@with_settings(only={*fields_of(ModelParams), "offline", "model_folders"} - {"model"})
def show_model(
    flags: Layer,
    model: Annotated[str, Argument(help="Model on this machine or on the Hub.", autocompletion=complete_reference)],
    as_json: Annotated[bool, Option("--json", help="Print a JSON object.")] = False,
    template: Annotated[bool, Option("--template", help="Print only the chat template.")] = False,
) -> None:
    settings = resolve_settings(flags)
    locations = model_locations(settings)
    try:
        info = local_model_info(find_model_file(model, locations), locations, settings)
    except ModelNotDownloadedError as missing:
        if not isinstance(missing.reference, HubReference):
            raise
        from llmcli.models.hub.repo_download import plan_pull

        warn_about_token(locations)
        plan = plan_pull(missing.reference, locations, memory_and_cores()[0], console.note)
        info = remote_model_info(plan, settings)
    if template:
        print_line(info.chat_template or "")
    elif as_json:
        print_json(asdict(info))
    else:
        print_facts([(name, text) for name, text in _facts(info) if text])


@with_settings(only=("offline", "rpc", "rpc_timeout"))
def files(
    flags: Layer,
    repo: Annotated[
        str, Argument(help="Repository on the Hub: owner/repo[@revision].", autocompletion=complete_remote)
    ],
    as_json: Json = False,
) -> None:
    from llmcli.models.hub import api

    locations = model_locations(resolve_settings(flags))
    reference = parse_remote(repo, locations)
    if reference is None:
        find_model_file(repo, locations)  # the error of an unknown name has a hint
    if not isinstance(reference, HubReference):
        raise UsageError(f"'{repo}' is not a repository on the Hub", "write owner/repo")
    warn_about_token(locations)
    listing = api.get_repo(reference, locations.offline, console.note)
    found = repo_files.quantizations(listing.files)
    memory, _ = memory_with_servers(resolve_settings(flags), console.warn)
    if not found:
        repo_files.select_quantization(found, None, None, listing.name)  # raises the error with its hint
    chosen, reason = repo_files.best_fit(found, memory) if any(variant.complete for variant in found) else (None, "")
    header = _header_of(chosen, listing, locations) if chosen else None
    if as_json:
        print_json(_listing_data(listing, found, chosen, memory, header))
        return
    rows = [_listing_row(variant, listing, memory) for variant in found]
    print_rows(("QUANT", "SIZE", "BITS", "FITS", "FILE"), rows, ("SIZE", "BITS"))
    if chosen:
        label = chosen.quantization or chosen.path
        console.note(f"`llmcli pull {listing.name}` downloads {label}: {reason}")
    if header and (kind := kind_of(header)).generates:
        console.note(f"{kind.name} model, architecture {ellipsize(header.architecture)}")
    elif header:
        console.warn(f"this is {kind.noun} (architecture {ellipsize(header.architecture)})", kind.hint)
    if listing.gated:
        console.note(f"{listing.name} is gated; accept its terms at {repo_url(listing.name)} first")


@with_settings(only=("offline",))
def search(
    flags: Layer,
    text: Annotated[list[str], Argument(help="Search terms.")],
    limit: Annotated[int, Option(min=1, max=100, help="Maximum number of repositories.")] = 15,
    as_json: Json = False,
) -> None:
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


@with_settings(only=("rpc", "rpc_timeout"))
def recommend(flags: Layer, as_json: Json = False) -> None:
    settings, (_, cores) = resolve_settings(flags), memory_and_cores()
    memory, n_servers = memory_with_servers(settings, console.warn)
    entries = catalog.recommend(memory, cores)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    rows = [
        (entry.name, f"{entry.parameters:g}B", format_size(entry.size), entry.license, entry.note) for entry in entries
    ]
    commands = [f"llmcli pull {entry.reference}" for entry in entries]
    print_rows(("NAME", "WEIGHTS", "SIZE", "LICENSE", "GOOD AT"), rows, ("WEIGHTS", "SIZE"), commands)
    where = f" with {plural(n_servers, 'RPC server')}" if n_servers else ""
    machine = (f"{memory / 2**30:.1f} GiB of free memory{where} and " if memory else "") + plural(cores, "core")
    console.note(f"for {machine}, from llmcli's own catalog of {catalog.AS_OF}")
    console.note(f"the short name works too: `llmcli pull {entries[0].name}`")


def _facts(info: ModelInfo) -> Sequence[tuple[str, str]]:
    memory, template = info.memory, info.chat_template
    parts = f" in {info.n_files} files" if info.n_files > 1 else ""
    bits = f", {8 * info.size / info.n_parameters:.1f} bits per weight" if info.n_parameters else ""
    sampling = ", ".join(f"{key} {value}" for key, value in info.sampling.items())
    split = ", ".join(f"{format_size(getattr(memory, key))} {key}" for key in ("weights", "kv_cache", "compute"))
    need = f"{format_size(memory.total)} at a context of {memory.n_ctx} tokens ({split})"
    fits = {True: "yes", False: "no", None: ""}[memory.fits]
    loads = not info.advice  # what llama.cpp cannot load needs no memory and has no template
    none = "none" if loads else ""
    # A setting that a fact tells of ("load mode") does not need a row of its own.
    told = {name.replace(" ", "_") for name in info.loading if " " in name}
    loading = {name: text for name, text in info.loading.items() if name not in told}
    return (
        ("name", info.name),
        ("model", ellipsize(info.title, _LONGEST_TEXT)),
        ("kind", info.problem or info.kind),
        ("advice", info.advice),
        ("architecture", ellipsize(info.architecture)),
        ("parameters", format_count(info.n_parameters) if info.n_parameters else ""),
        ("quantization", info.quantization + bits),
        ("size", format_size(info.size) + parts),
        ("trained context", f"{info.n_ctx_train} tokens" if info.n_ctx_train else ""),
        ("vocabulary", f"{info.n_vocab} tokens" if info.n_vocab else ""),
        ("memory", need if loads else ""),
        ("fits in memory", fits if loads else ""),
        *(loading.items() if loads else ()),
        ("chat template", f"yes, {len(template)} characters (--template prints it)" if template else none),
        ("sampling defaults", ellipsize(sampling, _LONGEST_TEXT) or none),
        ("license", ellipsize(info.license, _LONGEST_TEXT)),
        ("mmproj", info.projector or ""),
        ("commit", info.commit or ""),
        ("file", info.file),
        ("checksum", _checksum(info)),
        ("last used", format_age(info.used) if info.downloaded else ""),
    )


def _listing_row(variant: Quantization, repo: "Repo", memory: int) -> Sequence[str]:
    bits = variant.bits_per_weight(repo.n_parameters)
    fits = "yes" if repo_files.fits_memory(variant.size, memory) else "no"
    file = variant.path + (f" (+{len(variant.parts) - 1})" if len(variant.parts) > 1 else "")
    label, size = variant.quantization or "?", format_size(variant.size)
    return label, size, f"{bits:.1f}" if bits else "", fits if variant.complete else "parts missing", file


def _header_of(variant: Quantization, repo: "Repo", locations: ModelLocations) -> GGUFHeader | None:
    """The header of a file on the Hub, which tells its kind; a warning for one that llama.cpp cannot read."""
    from llmcli.models.hub.repo_download import HubFile

    try:
        return HubFile(locations.hub, repo.name, repo.commit, variant.parts[0]).header()
    except ModelInvalidError as error:
        console.warn(str(error), error.hint)
    except LlmcliError:  # a gated repository, or no answer: the list is there all the same
        pass
    return None


def _checksum(info: ModelInfo) -> str:
    if not info.downloaded:
        return f"sha256 {info.sha256} (published)" if info.sha256 else ""
    if info.damaged:
        return f"DAMAGED: the sha256 is not {info.sha256}; `llmcli models verify` says what repairs it"
    if info.verified:
        return f"sha256 {info.sha256}, verified {format_age(info.verified)}"
    if info.sha256:
        return f"sha256 {info.sha256} (published), not verified yet: run `llmcli models verify`"
    return "no published checksum"


def _listing_data(
    repo: "Repo", found: list[Quantization], chosen: Quantization | None, memory: int, header: GGUFHeader | None
) -> dict[str, Any]:
    models = [
        {
            "quantization": variant.quantization,
            "size": variant.size,
            "bits_per_weight": variant.bits_per_weight(repo.n_parameters),
            "fits": repo_files.fits_memory(variant.size, memory),
            "complete": variant.complete,
            "chosen": variant is chosen,
            "files": [asdict(part) for part in variant.parts],
        }
        for variant in found
    ]
    facts = {"repo": repo.name, "commit": repo.commit, "license": repo.license, "gated": repo.gated}
    facts |= {"kind": kind_of(header).name if header else None, "architecture": header.architecture if header else None}
    return facts | {"models": models, "projectors": [asdict(file) for file in repo_files.projectors(repo.files)]}
