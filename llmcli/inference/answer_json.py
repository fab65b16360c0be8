"""An answer as JSON data; its `replay` part, the replay manifest, has all that is needed to repeat it exactly."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import partial
from typing import TYPE_CHECKING, Any

from llmcli.errors import LlmcliError
from llmcli.files import check_integer, check_number, check_text
from llmcli.inference.request import system_text
from llmcli.params.generation import GenerationParams, InterfaceParams
from llmcli.params.model import HubParams
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.settings import Settings, fields, ineffective_keys, to_data, to_datum

if TYPE_CHECKING:  # a session reads manifests without the engine
    from llmcli.engine.events import Batches
    from llmcli.inference.answer import Answer

# The settings that no answer depends on: for downloads, the chat and the trace.
_UNRELATED = {*fields_of(HubParams), *fields_of(InterfaceParams), "trace_top"}
# The settings that decide which tokens are generated; grammar and policy file count by their content.
_DECIDING = (
    {*fields_of(SamplingParams), *fields_of(GenerationParams), "prefill", "raw"}
    | {"n_batch", "n_ubatch", "flash_attn", "cache_type_k", "cache_type_v"}
) - {"grammar", "grammar_file", "json_schema", "temp_policy_file", "logprobs", "trace_top", "timeout"}
_HASH_SECONDS = 3.0  # that the end of an answer may wait for the sha256 of its model
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX = 1 << 31
_MAX_CONTEXT = 1 << 24  # tokens
_MAX_THREADS = 1 << 12
_MAX_ROWS = 1 << 16


def answer_data(answer: "Answer") -> dict[str, Any]:
    """The answer as JSON data, names and timings as in llama-server."""
    timings = answer.record.timings
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {
        "text": answer.text,
        **reasoning,
        "model": answer.engine.name,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": len(answer.prompt.tokens),
        "completion_tokens": timings.predicted_n,
        "seed": answer.settings.seed,
        "params": _params(answer.settings),
        "timings": answer.timings(),
        **({"tokens": _token_data(answer)} if answer.settings.logprobs else {}),
        "prompt" if answer.settings.raw else "messages": answer.prompt.request,
        "replay": replay_data(answer),
    }


def _params(settings: Settings) -> dict[str, Any]:
    """The settings as JSON data, without those that cannot have changed the answer."""
    omitted = _UNRELATED | ineffective_keys(settings)
    values = to_data(settings).items()
    return {key: value for key, value in values if key not in omitted and value not in (None, [], "")}


def _token_data(answer: "Answer") -> list[dict[str, Any]]:
    """The tokens with their log-probabilities, in the form of llama-server's `completion_probabilities`."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = answer.engine.tokenizer.piece(token, special=True)
        return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}

    return [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in answer.record.logprobs
    ]


@dataclass(frozen=True, kw_only=True)
class ReplayManifest:
    """The conditions of an answer. The fields are the keys of the JSON data; an empty value means none, or not known.

    Attributes:
        model_sha256: see `ModelHasher`.
        build: the release of llama-cpp-python.
        machine: see `hardware.machine`.
        n_ctx: size of the context in tokens.
        threads: for generation, and for the prompt.
        gpu_layers: layers that were on a GPU.
        template_sha256: of the chat template; empty for a raw prompt.
        template: the chat template, if it was not the model's own.
        moment: the time that the template got (seconds since 1970), if it asks for it.
        prompt_sha256: of the prompt's tokens, as 32-bit numbers, the lowest byte first.
        layout: the batches of the prompt: tokens evaluated, tokens kept, number of such batches.
        settings_sha256: see `_settings_sha256`.
        grammar: the GBNF text, if it came from a file or a schema.
        system: the system prompt, if it came from a file.
        policy_sha256: of the file with the temperature policy.
        moves: changes of the temperature during the answer; see `TemperatureShift`.
        first: number of the first message in the prompt, if it did not contain all.
        begun: number of the answer that this one continues.
        beside: number of other answers in the same context, which may have shared its batches.
        drawn: number of tokens sampled, if the answer was stopped.
        flushed: whether the text held back at the end was printed, if the answer was stopped.
    """

    model_sha256: str = ""
    build: str = ""
    machine: str = ""
    n_ctx: int
    threads: tuple[int, int]
    gpu_layers: int = 0
    template_sha256: str = ""
    template: str = ""
    moment: float = 0.0
    prompt_sha256: str
    layout: "Batches"
    settings_sha256: str = ""
    grammar: str = ""
    system: str = ""
    policy_sha256: str = ""
    moves: tuple[tuple[int, float], ...] = ()
    first: int | None = None
    begun: int | None = None
    beside: int = 0
    drawn: int | None = None
    flushed: bool = False

    @classmethod
    def from_data(cls, data: Any) -> "ReplayManifest":
        """The manifest in JSON data; unknown keys, of a newer version, are ignored.

        Raises:
            ValueError: naming the key that is missing or not valid.
        """
        if not isinstance(data, Mapping):
            raise ValueError("replay must be an object")
        values = {}
        for key, read in _READERS.items():
            if key in data:
                try:
                    values[key] = read(data[key])
                except (ValueError, TypeError):
                    raise ValueError(f"replay.{key} is not valid") from None
        missing = next((key for key in ("n_ctx", "threads", "prompt_sha256", "layout") if key not in values), "")
        if missing:
            raise ValueError(f"replay.{missing} is missing")
        return cls(**values)

    def to_data(self) -> dict[str, Any]:
        """As JSON data, without values that equal their default."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclass_fields(self)}
        return {key: _lists(value) for key, (value, default) in values.items() if value != default}


def replay_data(answer: "Answer", first: int | None = None, continued: int | None = None) -> dict[str, Any]:
    """The manifest as JSON data; empty if the prompt was not evaluated."""
    if not answer.started or not answer.record.n_ctx:
        return {}
    return build_manifest(answer, first, continued).to_data()


def build_manifest(answer: "Answer", first: int | None = None, continued: int | None = None) -> ReplayManifest:
    """The manifest of an answer whose prompt was evaluated; `first` and `continued` are numbers of messages."""
    prompt, settings, record = answer.prompt, answer.settings, answer.record
    grammar, shift = answer.request.grammar, answer.request.live_shift
    is_complete = answer.finish_reason in ("stop", "length")
    # Who stops an answer does not want to wait.
    identity = answer.engine.identity(_HASH_SECONDS if is_complete else 0)
    return ReplayManifest(
        model_sha256=identity.model_sha256,
        build=identity.build,
        machine=identity.machine,
        n_ctx=record.n_ctx,
        threads=record.n_threads,
        gpu_layers=identity.gpu_layers,
        template_sha256=_text_sha256(prompt.template) if prompt.template else "",
        template="" if prompt.template == answer.engine.chat_template else prompt.template,
        moment=prompt.time if "strftime_now" in prompt.template else 0.0,
        prompt_sha256=prompt_sha256(prompt.tokens),
        layout=tuple(record.layout),
        settings_sha256=_settings_sha256(settings, grammar),
        grammar="" if grammar == settings.grammar else grammar or "",
        system=_system_file(settings),
        policy_sha256=_policy_sha256(settings.temp_policy_file) if settings.temp_policy_file else "",
        moves=tuple(shift.moves) if shift else (),
        first=first,
        begun=continued,
        beside=record.beside,
        drawn=None if is_complete else answer.n_drawn,
        flushed=not is_complete and bool(answer.finish_reason),
    )


def prompt_sha256(tokens: Sequence[int]) -> str:
    """The sha256 of token ids, in hex."""
    return hashlib.sha256(struct.pack(f"<{len(tokens)}i", *tokens)).hexdigest()


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _settings_sha256(settings: Settings, grammar: str | None) -> str:
    """The sha256 of the settings that decide which tokens are generated and differ from their defaults.

    So a setting that a later version adds changes nothing.
    """
    effective = _DECIDING - ineffective_keys(settings)
    deciding = ((key, field, getattr(settings, key)) for key, field in sorted(fields().items()) if key in effective)
    values = {key: to_datum(field, value) for key, field, value in deciding if value != field.default}
    return _text_sha256(json.dumps([values, grammar]))


def _policy_sha256(place: str) -> str:
    """The sha256 of the file in FILE.py:NAME; "" if it cannot be read."""
    try:
        with open(os.path.expanduser(place.rpartition(":")[0]), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _system_file(settings: Settings) -> str:
    """The text of a system prompt that is in a file."""
    if not (settings.system or "").startswith("@"):
        return ""
    with suppress(LlmcliError):  # the file may be gone by now
        return system_text(settings) or ""
    return ""


def _lists(value: Any) -> Any:
    """`value` with its tuples as lists."""
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def _integer(low: int, high: int) -> Callable[[Any], int]:
    return partial(check_integer, name="it", low=low, high=high)


def _digest(value: Any) -> str:
    if not _HEX.fullmatch(check_text(value, "it")):
        raise ValueError
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _rows(value: Any, *kinds: Callable[[Any], Any]) -> tuple[tuple[Any, ...], ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_ROWS:
        raise ValueError
    return tuple(tuple(kind(one) for kind, one in zip(kinds, row, strict=True)) for row in value)


def _layout(value: Any) -> "Batches":
    count = _integer(1, _MAX_CONTEXT)
    batches: Batches = _rows(value, count, count, count)
    if any(kept > rows for rows, kept, _ in batches) or (batches and batches[-1][0] != batches[-1][1]):
        raise ValueError
    return batches


_number = partial(check_number, name="it", low=-_MAX * 1e3, high=_MAX * 1e3)
_message_id = _integer(1, 10**9)
_threads = _integer(1, _MAX_THREADS)
# How each key is read from JSON data that others may have written.
_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("model_sha256", "template_sha256", "prompt_sha256", "settings_sha256", "policy_sha256"), _digest),
    **dict.fromkeys(("build", "machine", "template", "grammar", "system"), partial(check_text, name="it")),
    "n_ctx": _integer(1, _MAX_CONTEXT),
    "threads": lambda value: _rows([value], _threads, _threads)[0],
    "gpu_layers": _integer(-1, 1 << 16),
    "moment": _number,
    "layout": _layout,
    "moves": lambda value: _rows(value, _integer(0, _MAX), _number),
    "first": _message_id,
    "begun": _message_id,
    "beside": _integer(0, 1 << 16),
    "drawn": _integer(0, _MAX),
    "flushed": _flag,
}
