"""The replay manifest: all that is needed to repeat an answer exactly, as JSON data."""

import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct, structs, to_builtins

from llmcli.engine.events import Request, TemperatureShift
from llmcli.errors import LlmcliError
from llmcli.files import convert, decode_json, encode
from llmcli.inference.request import system_file, system_text, template_arguments
from llmcli.params.generation import GenerationParams
from llmcli.params.model import RopeParams
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import DEFAULT_ORDER, SamplingParams, build_chain
from llmcli.params.settings import Settings, fields, ineffective_keys, to_datum

if TYPE_CHECKING:  # a session reads manifests without the engine
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine, TemplateOptions

# The settings that decide which tokens are generated; grammar and policy file count by their content.
_DECIDING = (
    {*fields_of(SamplingParams), *fields_of(GenerationParams), "prefill", "raw", "think_budget"}
    | {*fields_of(RopeParams), "override_kv", "swa_full"}
    | {"n_batch", "n_ubatch", "flash_attn", "cache_type_k", "cache_type_v"}
) - {
    "grammar",
    "grammar_file",
    "json_schema",
    "constraint_retries",
    "temp_policy_file",
    "logprobs",
    "trace_top",
    "timeout",
    "speculative",  # a replay does without; see `explain_mismatch`
}
_HASH_SECONDS = 3.0  # that the end of an answer may wait for the sha256 of its model
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Tokens = Annotated[int, Meta(ge=1, le=1 << 24)]
_Threads = Annotated[int, Meta(ge=1, le=1 << 12)]
_Count = Annotated[int, Meta(ge=0, le=1 << 31)]
_Number = Annotated[float, Meta(ge=-1e12, le=1e12)]
_MessageId = Annotated[int, Meta(ge=1, le=10**9)]
_MAX_ROWS = Meta(max_length=1 << 16)


class ReplayManifest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The conditions of an answer. The fields are the keys of the JSON data; an empty value is none, or not known."""

    model_sha256: _Sha256 = ""  # see `ModelHasher`
    build: str = ""  # the release of llama-cpp-python
    machine: str = ""  # see `hardware.machine`
    n_ctx: _Tokens  # size of the context
    threads: tuple[_Threads, _Threads]  # for generation, and for the prompt
    gpu_layers: Annotated[int, Meta(ge=-1, le=1 << 16)] = 0  # layers that were on a GPU
    template_sha256: _Sha256 = ""  # of the chat template; empty for a raw prompt
    template: str = ""  # the chat template, if it was not the model's own
    # The variables that the template got beside the messages. Version 0.1.0 gave it none, or with `think` off two.
    template_arguments: dict[str, object] | None = None
    moment: _Number | None = None  # the time that the template got (seconds since 1970), if it asks for it
    prompt_sha256: _Sha256  # of the prompt's tokens, as 32-bit numbers, the lowest byte first
    # The batches of the prompt: tokens evaluated, tokens kept, number of such batches.
    layout: Annotated[Sequence[tuple[_Tokens, _Tokens, _Tokens]], _MAX_ROWS]
    settings_sha256: _Sha256 = ""  # of `settings`, the prefill and the schema or grammar
    # Those that decide which tokens are generated and differ from their defaults, so that a setting that a later
    # version adds changes nothing. Version 0.1.0 wrote only their sha256.
    settings: dict[str, object] = {}
    grammar: str = ""  # the GBNF text, if it came from a file; before 0.2.0 also from a schema
    schema: str = ""  # the JSON schema
    system: str = ""  # the system prompt, if it came from a file
    policy_sha256: _Sha256 = ""  # of the file with the temperature policy
    policy: str = ""  # the name of its function
    # Changes of the temperature during the answer; see `TemperatureShift`.
    moves: Annotated[Sequence[tuple[_Count, _Number]], _MAX_ROWS] = ()
    first: _MessageId | None = None  # number of the first message in the prompt, if it did not contain all
    begun: _MessageId | None = None  # number of the answer that this one continues
    beside: _Count = 0  # number of other answers in the same context, which may have shared its batches
    drawn: _Count | None = None  # number of tokens sampled, if the answer was stopped
    flushed: bool = False  # whether the text held back at the end was printed, if the answer was stopped

    @classmethod
    def from_data(cls, data: object) -> "ReplayManifest":
        """The manifest in JSON data; unknown keys are ignored. Raises ValueError, naming a key that is not valid."""
        manifest = convert(data, cls, "replay")
        layout = manifest.layout
        if any(kept > rows for rows, kept, _ in layout) or (layout and layout[-1][0] != layout[-1][1]):
            raise ValueError("replay.layout is not valid")
        return manifest

    def prepare(self, request: Request) -> None:
        """Let a request repeat the answer: its temperature shifts, and where it was stopped."""
        request.live_shift = TemperatureShift(self.moves) if self.moves else None
        request.max_drawn = self.drawn
        if self.drawn == 0:  # it was stopped before its first token
            request.cancellation.set()

    def template_options(self, engine: "Engine", settings: Settings) -> "TemplateOptions":
        """How the prompt was rendered. Raises LlmcliError if the template is that of the model, and this has none."""
        from llmcli.inference.engine import TemplateOptions

        if settings.raw:
            return TemplateOptions("")
        source, arguments = self.template or engine.chat_template, self.template_arguments
        if not source:
            hint = "give the right model with -m"
            raise LlmcliError(f"{engine.name} has no chat template, and the answer used the one of its model", hint)
        if arguments is None:
            arguments = template_arguments(settings) if settings.think == "off" else {}
        return TemplateOptions(source, "the recorded chat template", arguments=arguments, time=self.moment)

    def to_data(self) -> dict[str, object]:
        """As JSON data, with lists for tuples, without values that equal their default."""
        data: dict[str, object] = decode_json(encode(to_builtins(self)))
        return data


def replay_data(answer: "Answer", first: int | None = None, continued: int | None = None) -> dict[str, object]:
    """The manifest as JSON data; empty if the prompt was not evaluated, or a server does not tell how."""
    is_known = answer.record.n_ctx or answer.record.replay
    return build_manifest(answer, first, continued).to_data() if is_known else {}


def build_manifest(answer: "Answer", first: int | None = None, continued: int | None = None) -> ReplayManifest:
    """The manifest of an answer whose prompt was evaluated; `first` and `continued` are numbers of messages."""
    prompt, settings, record = answer.prompt, answer.settings, answer.record
    constraint, shift = answer.request.constraint, answer.request.live_shift
    grammar = constraint.text if constraint and constraint.kind == "grammar" else None
    schema: str = getattr(constraint, "schema", "")  # of a `JsonSchema`, whose module takes 6 ms
    grammar_file, system = "" if grammar == settings.grammar else grammar or "", _system_file(settings)
    if record.replay:  # a server does not know the files and the messages that are here
        manifest = ReplayManifest.from_data(record.replay)
        here = {"grammar": grammar_file, "schema": schema, "system": system, "first": first, "begun": continued}
        return structs.replace(manifest, **here)
    is_complete = answer.finish_reason in ("stop", "length")
    deciding = _deciding_settings(settings)
    # Who stops an answer does not want to wait.
    identity = answer.engine.identity(_HASH_SECONDS if is_complete else 0)
    policy_file, _, policy = (settings.temp_policy_file or "").rpartition(":")
    return ReplayManifest(
        **asdict(identity),
        n_ctx=record.n_ctx,
        threads=record.n_threads,
        template_sha256=_text_sha256(prompt.template) if prompt.template else "",
        template="" if prompt.template == answer.engine.chat_template else prompt.template,
        template_arguments=dict(prompt.arguments) if prompt.template else None,
        moment=prompt.time if "strftime_now" in prompt.template else None,
        prompt_sha256=prompt_sha256(prompt.tokens),
        layout=tuple(record.layout),
        settings_sha256=_text_sha256(json.dumps([deciding, schema or grammar])),
        settings={key: value for key, value in deciding.items() if key != "prefill"},  # a prefill may be long
        grammar=grammar_file,
        schema=schema,
        system=system,
        policy=policy,
        policy_sha256=_file_sha256(policy_file) if policy_file else "",
        moves=tuple(shift.moves) if shift else (),
        first=first,
        begun=continued,
        beside=record.beside,
        drawn=None if is_complete else answer.n_drawn,
        flushed=not is_complete and bool(answer.finish_reason),
    )


def prompt_sha256(tokens: Sequence[int]) -> str:
    """The sha256 of token ids, in hex."""
    import hashlib  # with OpenSSL; few answers are recorded

    return hashlib.sha256(struct.pack(f"<{len(tokens)}i", *tokens)).hexdigest()


def _text_sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_sha256(path: str) -> str:
    """The sha256 of a file; "" if it cannot be read."""
    import hashlib

    with suppress(OSError), open(os.path.expanduser(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _deciding_settings(settings: Settings) -> dict[str, object]:
    effective = _DECIDING - ineffective_keys(settings)
    usual = replace(settings, samplers=DEFAULT_ORDER)
    # The default order of a later version may have a sampler more, which is off.
    if usual != settings and build_chain(usual) == build_chain(settings):
        effective -= {"samplers"}
    values = {key: getattr(settings, key) for key in sorted(effective)}
    return {key: to_datum(fields()[key], value) for key, value in values.items() if value != fields()[key].default}


def _system_file(settings: Settings) -> str:
    is_file = system_file(settings.system) is not None
    with suppress(LlmcliError):  # the file may be gone by now
        return (system_text(settings) or "") if is_file else ""
    return ""
