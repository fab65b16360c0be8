"""A model that is found and checked, but not loaded."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from llmcli.engine.llama.probe import probe, probe_record
from llmcli.errors import ModelInvalidError, UsageError
from llmcli.files import data_dir
from llmcli.inference import fastest_settings
from llmcli.models import notes
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.kind import ModelKind, kind_of
from llmcli.models.gguf.parser import read_headers
from llmcli.models.locations import (
    STARTER_SHA256,
    ModelFile,
    ModelLocations,
    Progress,
    is_starter_downloaded,
    starter_path,
)
from llmcli.models.lookup import find_model_file
from llmcli.params.param import SettingValue
from llmcli.params.settings import Layer
from llmcli.params.settings import find as find_setting


@dataclass
class ResolvedModel:
    """A model that is found but not loaded; `notes` are for the user."""

    file: ModelFile
    notes: list[str] = field(default_factory=list)

    @cached_property
    def headers(self) -> Sequence[GGUFHeader]:
        """The checked headers of all its files."""
        known = notes.array_ends(data_dir(), self.file.path)
        ends = dict(known)
        try:
            headers = read_headers(self.file.parts, ends)
        except ModelInvalidError:
            if not known:
                raise
            ends = {}  # perhaps the note is wrong
            headers = read_headers(self.file.parts, ends)
        if ends != known:
            notes.update(data_dir(), self.file.path, arrays=json.dumps(ends))
        return headers

    @property
    def header(self) -> GGUFHeader:
        return self.headers[0]

    @cached_property
    def kind(self) -> ModelKind:
        return kind_of(self.header)

    def kind_error(self) -> ModelInvalidError:
        """The error for a model of the wrong kind: what it is, and what would help."""
        return ModelInvalidError(f"{self.file.name} is {self.kind.noun}", self.kind.hint)

    @cached_property
    def chat_template(self) -> str:
        """The model's own chat template, "" if it has none; a note says that one cannot be used."""
        if not self.file.ollama_template:
            return self.header.chat_template or ""
        from llmcli.inference.ollama_template import chat_template_of  # few models need it

        template, note = chat_template_of(self.file, self.header)
        self.notes += [note] if note else []
        return template

    @cached_property
    def layer(self) -> Layer:
        """The sampling defaults of the model or of Ollama, invalid ones with a note; and what `llmcli bench` keeps."""
        values: dict[str, SettingValue] = {}
        found: dict[str, object] = {**self.header.sampling_defaults}
        if self.file.ollama_parameters:
            from llmcli.inference.ollama_template import sampling_defaults_of

            found |= sampling_defaults_of(self.file)
        for key, raw in found.items():
            try:
                setting = find_setting(key)
                values[setting.key] = setting.parse_data(raw)
            except UsageError as error:
                self.notes.append(f"ignored a sampling default of the model: {error}")
        return fastest_settings.saved_layer(data_dir(), self.file.path).over(Layer("model", values))


def resolve_model(
    model: str,
    locations: ModelLocations,
    fetch: Progress | None = None,
    checking: Callable[[str, int], None] | None = None,
    for_text: bool = False,
) -> ResolvedModel:
    """Find the model of a reference, download it if it is the starter, and check its file, without other requests.

    With `for_text`, a model that does not generate text is refused before it is loaded. `fetch` gets the bytes that
    are downloaded, and all. A new file is first loaded in a child process, because llama.cpp may abort on a corrupt
    one; `checking` is called before with the name and the size of the file, because that takes as long as a load.

    Raises ModelNotDownloadedError or ModelNotFoundError, and ModelInvalidError when llama.cpp cannot load a model of
    this kind (an adapter, a projector, an unknown architecture), or the file crashes it.
    """
    target, cache_dir = ResolvedModel(find_model_file(model, locations)), locations.cache_dir
    file, record = target.file, probe_record()
    if file.path == starter_path(cache_dir) and not is_starter_downloaded(cache_dir):
        from llmcli.models.sources.starter import ensure_starter

        ensure_starter(cache_dir, fetch, locations.offline)
        notes.record_sha256(locations.data_dir, file.path, STARTER_SHA256)
    notes.update(locations.data_dir, file.path, used=time.time())
    if for_text and not file.trusted and not target.kind.generates:
        raise target.kind_error()
    if file.trusted or notes.is_probed(locations.data_dir, file.parts, record):
        return target
    if not target.kind.loads:
        raise target.kind_error()
    if checking:
        checking(file.path.name, sum(header.file_size for header in target.headers))
    probe(file.parts)
    notes.record_probed(locations.data_dir, file.parts, record)
    return target
