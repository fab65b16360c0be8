"""The model of the settings: found, checked, and its own default settings; not loaded yet."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.probe import probe
from llmcli.errors import ModelInvalidError, UsageError
from llmcli.inference.engine import Tokenizer
from llmcli.models import file_records
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_headers
from llmcli.models.locations import ModelFile, is_starter_downloaded, model_locations, starter_path
from llmcli.models.lookup import find_model_file
from llmcli.params.samplers import random_seed
from llmcli.params.settings import Layer, ResolvedSettings, Settings, resolve
from llmcli.params.settings import find as find_setting

Fetch = Callable[[int, int], None]  # gets the bytes that are downloaded, and all
Checking = Callable[[str, int], None]  # gets the name and the size of a file


@dataclass
class ResolvedModel:
    """A model that is found but not loaded; `notes` are for the user."""

    file: ModelFile
    notes: list[str] = field(default_factory=list)

    @cached_property
    def headers(self) -> Sequence[GGUFHeader]:
        """The checked headers of all its files (15 ms for a vocabulary of 50,000)."""
        return read_headers(self.file.parts)

    @property
    def header(self) -> GGUFHeader:
        return self.headers[0]

    @cached_property
    def layer(self) -> Layer:
        """The model's own sampling defaults (`general.sampling.*`); invalid ones are skipped with a note."""
        values: dict[str, Any] = {}
        for key, raw in self.header.sampling_defaults.items():
            try:
                values[key] = find_setting(key).parse_data(raw)
            except UsageError as error:
                self.notes.append(f"ignored a sampling default of the model: {error}")
        return Layer("model", values)


def resolve_model(settings: Settings, fetch: Fetch | None = None, checking: Checking | None = None) -> ResolvedModel:
    """Find the model of the settings, download it if it is the starter, and check its file, without other requests.

    A new file is first loaded in a child process, because llama.cpp may abort on a corrupt one; `checking` is
    called before, because that takes as long as a load.

    Raises:
        ModelNotDownloadedError: when it is not downloaded.
        ModelNotFoundError: when no such model exists.
        ModelInvalidError: when the file is not a model, is corrupt, or crashes llama.cpp.
    """
    places = model_locations(settings)
    target = ResolvedModel(find_model_file(settings.model, places))
    file, build = target.file, bindings.bindings_version()
    if file.path == starter_path(places.cache_dir) and not is_starter_downloaded(places.cache_dir):
        from llmcli.models.sources.starter import ensure_starter

        ensure_starter(places.cache_dir, fetch, places.offline)
    file_records.record_use(places.data_dir, file.path)
    if file_records.is_safe(file, places.cache_dir, build):
        return target
    if target.header.is_vocab_only:
        raise ModelInvalidError(f"{file.path.name} contains a vocabulary and no weights", "use another file")
    if checking:
        checking(file.path.name, sum(header.file_size for header in target.headers))
    probe(file.parts)
    with suppress(OSError):  # a folder that is not writable costs a probe each time
        file_records.record_probed(places.cache_dir, file.parts, build)
    return target


@contextmanager
def open_tokenizer(target: ResolvedModel) -> Iterator[Tokenizer]:
    """The vocabulary of a model, loaded without its weights for the time of the block.

    Raises:
        ModelInvalidError: when llama.cpp refuses the file.
    """
    model = Model.load(target.file.parts, vocab_only=True)
    try:
        yield model.vocab
    finally:
        model.close()


def apply_model_defaults(defaults: Layer, upper: Sequence[Layer]) -> ResolvedSettings:
    """The resolved settings: the model's own `defaults` below `upper`, and a random seed if none is given."""
    resolved = resolve([defaults, *upper])
    if resolved.settings.seed is not None:
        return resolved
    return ResolvedSettings(replace(resolved.settings, seed=random_seed()), resolved.origins)
