"""A recorded answer, read from the output of `--json` or from a session; generated again, and where and why it differs.

A record may come from others. No file that it names is opened, and no code that it names is run.
"""

import codecs
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llmcli.chat.conversation import Message, sliding_window
from llmcli.chat.prompting import PromptBuilder
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation, Request
from llmcli.errors import UsageError
from llmcli.files import convert, decode_json
from llmcli.inference.answer import Answer
from llmcli.inference.comparison import MAX_VARIANTS
from llmcli.inference.constraints import recorded_constraint
from llmcli.inference.engine import Engine, Vocab, check_request
from llmcli.inference.replay_manifest import ReplayManifest, build_manifest
from llmcli.inference.request import system_file
from llmcli.inference.sizing import possible_gpu_layers
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import HubParams, PlacementParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Settings, fields, parse_data
from llmcli.text import ellipsize

_DIGEST_LETTERS = 12  # letters of a sha256
_Texts = tuple[str, str]  # the reasoning and the text of an answer
_COMPLETE = ("stop", "length")
_WRITE_JSON = "give a file that `llmcli generate --json` wrote"
# Settings of another machine, and those that may name a file: its content is part of the replay data.
_OMITTED = {*fields_of(HubParams), *fields_of(InterfaceParams), "prompt", "preset", "system", "timeout", "logprobs"}
_OMITTED |= {*fields_of(PlacementParams)}  # the devices of another machine
_OMITTED |= {key for key, field in fields().items() if field.path and key != "model"}


class _ChatMessage(Struct):
    role: Literal["system", "user", "assistant"]
    content: str


class _Output(Struct):
    """An object of `--json` that anybody may have written."""

    text: str
    finish_reason: str
    params: dict[str, Any]
    replay: Any
    reasoning_content: str = ""
    messages: Annotated[list[_ChatMessage], Meta(min_length=1)] | None = None
    prompt: str | None = None
    label: str = ""


class _Comparison(Struct):
    variants: Annotated[list[Any], Meta(min_length=1, max_length=MAX_VARIANTS)]


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer with all that is needed to generate it again."""

    source: str
    text: str
    reasoning: str
    is_complete: bool  # the model or a limit ended it
    values: Mapping[str, Any]  # the typed settings by key
    manifest: ReplayManifest
    path: Sequence[Message]  # the messages before it
    system: str | None = None
    continued: Message | None = None  # the answer that this one continues
    label: str = ""


def from_output(text: str, source: str, policy_file: str = "") -> list[RecordedAnswer]:
    """The answer in one JSON object of `llmcli generate --json`, or all answers of `compare --json`, with their labels.

    `policy_file` (FILE.py:NAME) is the one that the user allows; UsageError is raised if another one is needed, or the
    text is not such an object.
    """
    answers: list[RecordedAnswer] = []
    where = source  # as an error names it
    try:
        data = convert(decode_json(text), dict[str, Any])
        if "variants" not in data:
            return [_from_data(data, source, policy_file)]
        for number, variant in enumerate(convert(data, _Comparison).variants, 1):
            where = f"answer {number} of {source}"
            answers.append(_from_data(variant, where, policy_file))
            if not answers[-1].label:
                raise ValueError("label is missing")
    except ValueError as error:
        raise UsageError(f"{where}: {error}", _WRITE_JSON) from None
    return answers


def _from_data(data: Any, source: str, policy_file: str) -> RecordedAnswer:
    if isinstance(data, dict) and "replay" not in data:
        raise UsageError(f"{source} has no replay data", "create it with `llmcli generate --json`")
    output = convert(data, _Output)
    manifest = ReplayManifest.from_data(output.replay)
    values = _settings(output.params, manifest, source, policy_file)
    messages = [_ChatMessage("user", output.prompt)] if output.prompt is not None else []
    if not values.get("raw"):
        messages = output.messages or []
    if not messages:
        raise UsageError(f"{source}: {'prompt' if values.get('raw') else 'messages'} is missing", _WRITE_JSON)
    path = [Message(0, None, message.role, message.content) for message in messages]
    is_complete = output.finish_reason in _COMPLETE
    return RecordedAnswer(
        source, output.text, output.reasoning_content, is_complete, values, manifest, path, label=output.label
    )


def from_session(session: Session, number: int | None, policy_file: str = "") -> RecordedAnswer:
    """An answer of the current branch: the one of message `number` as /history counts (from 1), or the last one.

    Raises UsageError if there is none, it has no replay data, or it needs a policy file that is not allowed.
    """
    path = session.conversation.path()
    message = _find_answer(path, number, session.name)
    source = f"answer {path.index(message) + 1} of {session.name}"
    if not message.replay:
        reason = "an older version wrote it, it is a copy from another branch, or a kill stopped it"
        if message.finish_reason in ("edited", "greeting"):
            reason = "no model wrote it"
        raise UsageError(f"{source} has no replay data: {reason}", "choose another answer")
    manifest = ReplayManifest.from_data(message.replay)
    values = _settings(message.params, manifest, source, policy_file)
    continued = session.conversation.messages.get(manifest.begun) if manifest.begun else None
    if manifest.begun and not continued:
        raise UsageError(f"{source} continues message {manifest.begun}, which does not exist", "choose another answer")
    return RecordedAnswer(
        source,
        message.content,
        message.reasoning,
        message.finish_reason in _COMPLETE,
        values,
        manifest,
        path=sliding_window(path[: path.index(message)], manifest.first),
        system=recorded_system(message),
        continued=continued,
    )


def _find_answer(path: Sequence[Message], number: int | None, name: str) -> Message:
    if number is None:
        last = next((message for message in reversed(path) if message.role == "assistant"), None)
        if not last:
            raise UsageError(f"{name} has no answer", "choose another session")
        return last
    if not 0 < number <= len(path):
        raise UsageError(f"{name} has no message {number}", f"give a number from 1 to {len(path)}, as in /history")
    message = path[number - 1]
    if message.role == "user" and number < len(path):
        message = path[number]
    if message.role != "assistant":
        raise UsageError(f"message {number} of {name} has no answer", "choose another message")
    return message


def _settings(params: Mapping[str, Any], manifest: ReplayManifest, source: str, policy_file: str) -> dict[str, Any]:
    # The params of an answer of a server are those that it was sent; its manifest has those of the server too.
    values = recorded_settings({**manifest.settings, **params}, source, policy_file)
    if policy_file and not values["temp_policy_file"]:
        raise UsageError(f"{source} has no policy file", "remove --temp-policy-file")
    if values.get("seed") is None:
        raise UsageError(f"{source}: params have no seed", _WRITE_JSON)
    return values


def recorded_settings(data: Mapping[str, Any], source: str, policy_file: str) -> dict[str, Any]:
    """The typed settings without those that may name a file, with the policy file that the user allows, if one is used.

    Raises UsageError for a setting that is not valid, or a policy file that is not allowed.
    """
    values = parse_data(data, f"{source}: params")
    recorded = values.get("temp_policy_file")
    if recorded and not policy_file:
        hint = "if you trust it, allow it with --temp-policy-file FILE.py:NAME"
        raise UsageError(f"{source} needs the policy file {str(recorded)[:200]}, which is code", hint)
    kept = {key: value for key, value in values.items() if key not in _OMITTED}
    return {**kept, "temp_policy_file": policy_file if recorded else None}


def recorded_system(message: Message) -> str | None:
    """The system prompt of an answer; one from a file is in its replay data."""
    system = message.params.get("system")
    is_text = isinstance(system, str) and system_file(system) is None
    return str(message.replay.get("system") or "") or (system if is_text else None)


def replay_settings(recorded: RecordedAnswer, model: str | None, current: Settings) -> Settings:
    """The recorded settings, with the recorded context and threads; for downloads and devices the `current` ones."""
    manifest = recorded.manifest
    # More threads than processors would wait for each other without end.
    n_threads, n_threads_batch = (min(threads, os.cpu_count() or 1) for threads in manifest.threads)
    return replace(
        Settings(**{**recorded.values, **({"model": model} if model else {})}),
        # The context of several answers is sized for all of them.
        n_ctx=recorded.values.get("n_ctx", 0) if recorded.label else manifest.n_ctx,
        n_threads=n_threads,
        n_threads_batch=n_threads_batch,
        # RPC servers are devices where the model is loaded, and not yet here.
        n_gpu_layers=manifest.gpu_layers if current.rpc else possible_gpu_layers(manifest.gpu_layers),
        **{key: getattr(current, key) for key in ({*fields_of(HubParams), *fields_of(PlacementParams)} - {"model"})},
    )


@dataclass(frozen=True)
class Difference:
    """The first token that differs, and its text in the two answers; empty where the answer ends before."""

    token: int  # its number in the answer from 0, as in a trace
    offset: int  # characters before it
    part: str  # "answer", or "think" for the reasoning
    recorded: str
    replayed: str

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        data = asdict(self)
        return data | {"had": data.pop("recorded"), "now": data.pop("replayed")}


class Replay:
    """Generate `answer` to its end, alone or beside others; then `compare` finds the `difference` and its `reasons`."""

    def __init__(
        self, engine: Engine, recorded: RecordedAnswer, settings: Settings, cancellation: Cancellation | None = None
    ) -> None:
        """Make the request. Raises UsageError if the engine cannot repeat it, LlmcliError if the template fails."""
        if not engine.capabilities.replay:
            raise UsageError(f"{engine.name} does not support replay", "use a model of this machine: --endpoint none")
        self.recorded = recorded
        self.stopped = False
        self.difference: Difference | None = None
        self.reasons: list[str] = []
        manifest, capabilities = recorded.manifest, engine.capabilities
        prompt_builder = PromptBuilder(engine, manifest.template_options(engine, settings))
        settings = prompt_builder.with_plain_stop(settings)
        prompt = prompt_builder.prompt(recorded.path, recorded.system, settings, recorded.continued)
        constraint = recorded_constraint(manifest.grammar, manifest.schema, settings)
        request = Request(prompt, settings, constraint, label=recorded.label)
        # An endpoint generates each answer alone. Here, those of a comparison are side by side, as they were.
        request.replay = None if recorded.label and capabilities.tokens else manifest.to_data()
        request.trace = None if capabilities.tokens else 0  # which tells the tokens
        request.cancellation = cancellation or request.cancellation
        check_request(engine, request)
        if recorded.continued:
            request.continue_from(recorded.continued.reasoning, recorded.continued.content)
        self.answer = Answer(engine, request)

    def compare(self) -> None:
        """Find the first difference from the recorded answer, and its reasons, unless the user stopped the replay."""
        answer, recorded = self.answer, self.recorded
        self.stopped = answer.finish_reason == "interrupt" and answer.n_drawn != answer.request.max_drawn
        if self.stopped:
            return
        before, after = (recorded.reasoning, recorded.text), (answer.reasoning, answer.text)
        if not recorded.is_complete and all(map(str.startswith, after, before)):
            before = after  # the record does not have the text of the last token yet
        prefix = answer.request.reasoning, answer.settings.prefill or ""
        self.difference = first_difference(before, after, _pieces(answer), answer.engine.tokenizer, prefix)
        self.reasons = explain_mismatch(recorded.manifest, build_manifest(answer))
        if recorded.values.get("speculative") == "on":
            self.reasons.append("several tokens were evaluated in a step, which rounds in another way (speculative)")


def _pieces(answer: Answer) -> list[str]:
    """The texts of its tokens."""
    if not answer.engine.capabilities.tokens:
        return [trace.reasoning + trace.text for trace in answer.traces if trace.id is not None]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(answer.engine.tokenizer.piece(token)) for token in answer.tokens]


def first_difference(
    recorded: _Texts, replayed: _Texts, pieces: Sequence[str], vocab: Vocab, prefix: _Texts = ("", "")
) -> Difference | None:
    """Where the reasoning and the text of an answer first differ from the recorded ones; None if they do not.

    `pieces` are the tokens of the replay, which follow the reasoning and the text in `prefix`.
    """
    kinds = zip(("think", "answer"), recorded, replayed, map(len, prefix), strict=True)
    part, before, after, n_prefix = next((one for one in kinds if one[1] != one[2]), ("", "", "", 0))
    if not part:
        return None
    ends = list(accumulate(map(len, pieces)))
    generated, own = "".join(pieces), after[n_prefix:]  # what was generated has the tags of the reasoning too
    start = max(generated.rfind(own) if part == "answer" else generated.find(own), 0) - n_prefix
    shorter = min(len(before), len(after))
    offset = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    index = next((i for i, end in enumerate(ends) if end > start + offset), len(pieces))
    token_start = ends[index - 1] if index else 0
    token_offset = min(max(token_start - start, 0), offset)
    recorded_text = vocab.detokenize(vocab.tokenize(before[token_offset:])[:1])
    replayed_text = pieces[index] if index < len(pieces) else ""
    return Difference(index, token_offset, part, recorded_text, replayed_text)


def explain_mismatch(one: ReplayManifest, other: ReplayManifest) -> list[str]:
    """What differs in the conditions of a recorded answer and the other one, its replay, each as a short text."""
    reasons: list[str] = []

    def compare(what: str, before: object, after: object) -> None:
        if before != after:
            reasons.append(f"{what}: was {before or 'unknown'}, is {after}")

    if not one.model_sha256:
        reasons.append("the model may be a different file: its sha256 was not recorded")
    elif one.model_sha256 != other.model_sha256:
        before, after = one.model_sha256[:_DIGEST_LETTERS], other.model_sha256[:_DIGEST_LETTERS] or "unknown"
        reasons.append(f"the model is a different file (sha256 was {before}..., is {after}...)")
    compare("llama-cpp-python", one.build, other.build)
    if one.template_sha256 != other.template_sha256:
        reasons.append("the chat template is different")
    if one.prompt_sha256 != other.prompt_sha256:
        was, now = (sum(kept * times for _, kept, times in manifest.layout) for manifest in (one, other))
        counts = ", with as many tokens" if was == now else f": was {was} tokens, is {now}"
        reasons.append(f"the prompt is different{counts}")
    if one.settings_sha256 != other.settings_sha256:
        n_before = len(reasons)
        for key in sorted(one.settings.keys() | other.settings.keys()) if one.settings else ():
            compare(key, *(ellipsize(str(manifest.settings.get(key, "default"))) for manifest in (one, other)))
        if len(reasons) == n_before:  # version 0.1.0 wrote no settings
            reasons.append("the settings are different")
    if one.policy_sha256 != other.policy_sha256:
        reasons.append("the file of the temperature policy is different")
    if one.policy:
        compare("temperature policy", one.policy, other.policy or "none")
    compare("context", f"{one.n_ctx} tokens", f"{other.n_ctx} tokens")
    compare("threads", _pair(one.threads), _pair(other.threads))
    compare("layers on a GPU", str(one.gpu_layers), str(other.gpu_layers))
    compare("machine", one.machine, other.machine)
    if one.beside != other.beside:
        reasons.append("the number of answers generated in one batch is different")
    return reasons


def _pair(threads: tuple[int, int]) -> str:
    one, batch = threads
    return str(one) if one == batch else f"{one} ({batch} for the prompt)"
