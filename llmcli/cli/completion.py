"""What the shell completes: words that start with the text so far, some of them with their help."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from llmcli.errors import LlmcliError
from llmcli.files import matching_paths
from llmcli.params.param import Field
from llmcli.params.sampler_chain import SAMPLER_NAMES
from llmcli.params.settings import Layer
from llmcli.text import sanitize

_PATIENCE = 1.5  # seconds that a shell waits for the models at an endpoint


def completer(field: Field) -> Callable[..., Any] | None:
    """The completion of the values of a setting; None without one (the shell itself completes files)."""
    special: dict[str, Callable[..., Any]] = {
        "model": _complete_model,
        "samplers": _complete_samplers,
        "preset": _complete_preset,
        "character": complete_character,
        "endpoint": complete_endpoint,
    }
    known = [str(value) for value in (*field.choices, *field.suggest)]
    if field.key in special or not known:
        return special.get(field.key)
    return lambda incomplete: [value for value in known if value.startswith(incomplete)]


def _complete_samplers(incomplete: str) -> list[str]:
    head, comma, tail = incomplete.rpartition(",")
    used = set(head.split(","))
    return [head + comma + name for name in SAMPLER_NAMES if name.startswith(tail) and name not in used]


def _complete_preset(incomplete: str) -> list[tuple[str, str]]:
    from llmcli.config.presets import preset_purpose, presets

    try:
        known = presets()
    except (LlmcliError, OSError):
        return []
    return _safe_words((name, preset_purpose(name, one)) for name, one in known.items() if name.startswith(incomplete))


def _complete_model(ctx: Any, incomplete: str) -> list[str]:
    """The models at the endpoint of the command line or of the settings, if there is one; else those of this machine.

    An endpoint that does not answer soon has none: the shell waits.
    """
    from llmcli.config.presets import resolve_settings

    text = ctx.params.get("endpoint")
    endpoint, offline = text, False
    with suppress(LlmcliError):
        settings = resolve_settings(Layer("flag", {}))
        endpoint, offline = text or settings.endpoint, settings.offline
    if not endpoint or endpoint == "none":
        return complete_model(incomplete)
    from llmcli.inference.endpoint_server import names_at

    return _safe_names(name for name in names_at(endpoint, _PATIENCE, offline) if name.startswith(incomplete))


def complete_model(incomplete: str) -> list[str]:
    """The models on this machine, the aliases, and the .gguf files and folders that match."""
    return [*complete_reference(incomplete), *_complete_path(incomplete)]


def complete_reference(incomplete: str) -> list[str]:
    """The models on this machine and the aliases."""
    from llmcli.config.presets import resolve_settings
    from llmcli.models.installed import inventory
    from llmcli.models.locations import model_locations

    try:
        place = model_locations(resolve_settings(Layer("flag", {})))
        names = ["starter", *place.aliases, *(item.name for item in inventory(place) if item.source.name != "url")]
    except (LlmcliError, OSError):
        names = ["starter"]
    return _safe_names(name for name in dict.fromkeys(names) if name.startswith(incomplete))


def complete_session(incomplete: str) -> list[tuple[str, str]]:
    """The sessions and their titles, the latest first."""
    from llmcli.chat.sessions.listing import session_summaries

    return _safe_words((one.name, one.title) for one in session_summaries(incomplete))


def complete_character(incomplete: str) -> list[tuple[str, str]]:
    """The characters with their purposes, and the files and folders that match."""
    from llmcli.config.characters import SUFFIXES, character_purposes

    names = _safe_words(pair for pair in character_purposes().items() if pair[0].startswith(incomplete))
    return names + [(path, "") for path in _complete_path(incomplete, SUFFIXES)]


def complete_task(incomplete: str) -> list[tuple[str, str]]:
    """The tasks with their descriptions; a project's that is not trusted has none."""
    from llmcli.pipelines.task_files import task_files, task_or_none

    files = [(path, source) for path, source in task_files() if path.stem.startswith(incomplete)]
    found = [(path.stem, task_or_none(path, source)) for path, source in files]
    return _safe_words((name, one.description if one else "") for name, one in found)


def complete_variable(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """The variables of the task on the command line, with their help."""
    from llmcli.pipelines.task_files import find_task

    try:
        variables = find_task(str(ctx.params.get("task") or ctx.params.get("name"))).variables.values()
    except (LlmcliError, OSError):
        return []
    return _safe_words((f"{one.name}=", one.help) for one in variables if f"{one.name}=".startswith(incomplete))


def complete_endpoint(incomplete: str) -> list[str]:
    """The names of the profiles."""
    from llmcli.config.endpoints import endpoint_profiles

    try:
        return _safe_names(name for name in endpoint_profiles() if name.startswith(incomplete))
    except (LlmcliError, OSError):
        return []


def complete_remote(incomplete: str) -> list[str]:
    """What can be downloaded: the names of the catalog, and the models on this machine."""
    from llmcli.models.catalog import catalog

    return [entry.name for entry in catalog() if entry.name.startswith(incomplete)] + complete_reference(incomplete)


def _complete_path(incomplete: str, suffixes: tuple[str, ...] = (".gguf",)) -> list[str]:
    return _safe_names(name for name in matching_paths(incomplete) if name.endswith(("/", *suffixes)))


def _safe_names(names: Iterable[str]) -> list[str]:
    return [word for word, _ in _safe_words((name, "") for name in names)]


def _safe_words(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Words with their help that a shell can take: names, titles and purposes may come from strangers.

    zsh evaluates what Typer prints, where a backslash undoes its escapes: a word with one is omitted. So is one that
    would not stay on its line.
    """
    return [
        (sanitize(word), sanitize(text).replace("\\", "/"))
        for word, text in pairs
        if "\\" not in word and len(word.splitlines()) < 2
    ]
