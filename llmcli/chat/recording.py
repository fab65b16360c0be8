"""The record of how an answer was made, gathered when it has ended."""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmcli.engine.llama.bindings import bindings_version
from llmcli.engine.llama.hardware import machine
from llmcli.errors import LlmcliError
from llmcli.inference.replay_manifest import Circumstances
from llmcli.inference.request import system_text
from llmcli.params.generation import GenerationParams, InterfaceParams
from llmcli.params.model import HubParams
from llmcli.params.param import describe
from llmcli.params.settings import SamplingParams, Settings, fields, to_data, to_datum, without_effect

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer

_PATIENCE = 3.0  # seconds that the end of an answer may wait for the sha256 of its model
# The settings that decide which tokens are generated; grammar and policy file count by their content.
_DECIDING = (
    {*describe(SamplingParams), *describe(GenerationParams), "prefill", "raw"}
    | {"n_batch", "n_ubatch", "flash_attn", "cache_type_k", "cache_type_v"}
) - {"grammar", "grammar_file", "json_schema", "temp_policy_file", "logprobs", "trace_top", "timeout"}
# The settings that no answer depends on: for downloads, the chat and the trace.
_UNRELATED = {*describe(HubParams), *describe(InterfaceParams), "trace_top"}


def replay_data(answer: "Answer", first: int | None = None, begun: int | None = None) -> dict[str, Any]:
    """The circumstances as JSON data; empty where the prompt was not read."""
    if not answer.started or not answer.generation.conditions:
        return {}
    return circumstances(answer, first, begun).to_data()


def circumstances(answer: "Answer", first: int | None = None, begun: int | None = None) -> Circumstances:
    """All that is needed to repeat an answer whose prompt was read; `first` and `begun` are numbers of messages."""
    local, prompt, settings, generation = answer.local, answer.prompt, answer.settings, answer.generation
    own, params = local.target.header.chat_template or "", generation.conditions
    assert params
    whole = answer.finish_reason in ("stop", "length")
    return Circumstances(
        model_sha256=local.identity.wait(_PATIENCE if whole else 0),  # who stops it does not want to wait
        build=bindings_version(),
        machine=machine(),
        n_ctx=params.n_ctx,
        threads=(params.n_threads, params.n_threads_batch),
        gpu_layers=local.gpu_layers,
        template_sha256=sha256(prompt.template) if prompt.template else "",
        template="" if prompt.template == own else prompt.template,
        moment=prompt.moment if "strftime_now" in prompt.template else 0.0,
        prompt_sha256=prompt_sha256(prompt.tokens),
        layout=tuple(generation.layout),
        settings_sha256=settings_sha256(settings, answer.grammar),
        grammar="" if answer.grammar == settings.grammar else answer.grammar or "",
        system=_system(settings),
        policy_sha256=policy_sha256(settings.temp_policy_file) if settings.temp_policy_file else "",
        moves=tuple(answer.dial.moves) if answer.dial else (),
        first=first,
        begun=begun,
        beside=max(generation.beside, params.n_seq_max - 1),
        drawn=None if whole else answer.n_drawn,
        flushed=not whole and bool(answer.finish_reason),
    )


def _system(settings: Settings) -> str:
    """The text of a system prompt that is in a file."""
    if not (settings.system or "").startswith("@"):
        return ""
    with suppress(LlmcliError):  # the file may be gone by now
        return system_text(settings) or ""
    return ""


def answer_params(settings: Settings) -> dict[str, Any]:
    """The settings as JSON data, without those that cannot have changed the answer."""
    omitted = _UNRELATED | without_effect(settings)
    values = to_data(settings).items()
    return {key: value for key, value in values if key not in omitted and value not in (None, [], "")}


def sha256(text: str) -> str:
    """Of a text as UTF-8, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def prompt_sha256(tokens: Sequence[int]) -> str:
    """Of token ids."""
    return hashlib.sha256(struct.pack(f"<{len(tokens)}i", *tokens)).hexdigest()


def settings_sha256(settings: Settings, grammar: str | None) -> str:
    """Of the settings that decide which tokens are generated and differ from their defaults.

    So a setting that a later version adds changes nothing.
    """
    effective = _DECIDING - without_effect(settings)
    deciding = ((key, field, getattr(settings, key)) for key, field in sorted(fields().items()) if key in effective)
    values = {key: to_datum(field, value) for key, field, value in deciding if value != field.default}
    return sha256(json.dumps([values, grammar]))


def policy_sha256(place: str) -> str:
    """Of the file in FILE.py:NAME; "" where it cannot be read."""
    try:
        with open(os.path.expanduser(place.rpartition(":")[0]), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""
