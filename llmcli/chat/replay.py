"""An answer generated again, and where and why it differs."""

import codecs
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

from llmcli.chat.prompting import PromptBuilder
from llmcli.chat.recorded_answer import RecordedAnswer
from llmcli.engine.events import Cancellation, TemperatureShift
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import ReplayManifest, build_manifest, prompt_sha256
from llmcli.inference.engine import Engine, Request, TemplateOptions, Tokenizer, check_request
from llmcli.inference.sizing import possible_gpu_layers
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

_DIGEST_LETTERS = 12  # letters of a sha256


def replay_settings(recorded: RecordedAnswer, model: str | None, current: Settings) -> Settings:
    """The recorded settings, with the recorded context and threads; those for downloads are the `current` ones."""
    manifest = recorded.manifest
    # More threads than processors would wait for each other without end.
    n_threads, n_threads_batch = (min(threads, os.cpu_count() or 1) for threads in manifest.threads)
    return replace(
        Settings(**{**recorded.values, **({"model": model} if model else {})}),
        # The context of several answers is sized for all of them.
        n_ctx=recorded.values.get("n_ctx", 0) if recorded.label else manifest.n_ctx,
        n_threads=n_threads,
        n_threads_batch=n_threads_batch,
        n_gpu_layers=possible_gpu_layers(manifest.gpu_layers),
        pull=current.pull,
        offline=current.offline,
        model_folders=current.model_folders,
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
        """Make the request, and evaluate its prompt as it was evaluated then: later batches depend on the earlier ones.

        Raises UsageError if the engine cannot repeat it, LlmcliError if the template fails.
        """
        if not engine.capabilities.replay:
            raise UsageError(f"{engine.name} does not support replay", "use a model of this machine")
        self.recorded = recorded
        self.stopped = False
        self.difference: Difference | None = None
        self.reasons: list[str] = []
        manifest, template = recorded.manifest, TemplateOptions("")
        if not settings.raw:
            source = manifest.template or engine.chat_template
            if not source:
                raise LlmcliError(
                    f"{engine.name} has no chat template, and the answer used the one of its model",
                    "give the right model with -m",
                )
            template = TemplateOptions(source, "the recorded chat template", time=manifest.moment)
        prompt_builder = PromptBuilder(engine, template)
        settings = prompt_builder.with_plain_stop(settings)
        prompt = prompt_builder.prompt(recorded.path, recorded.system, settings, recorded.continued)
        request = Request(prompt, settings, manifest.grammar or settings.grammar, label=recorded.label)
        request.live_shift = TemperatureShift(manifest.moves) if manifest.moves else None
        request.cancellation = cancellation or request.cancellation
        check_request(engine, request)
        if recorded.continued:
            request.continue_from(recorded.continued.reasoning, recorded.continued.content)
        self.answer = Answer(engine, request)
        if recorded.label:  # one of several, which had other batches
            return
        request.max_drawn = manifest.drawn
        if manifest.drawn == 0:  # it was stopped before its first token
            request.cancellation.set()
        if manifest.layout and prompt_sha256(prompt.tokens) == manifest.prompt_sha256:
            try:
                engine.evaluate_batches(request, manifest.layout)
            except ValueError as error:
                reason = f"cannot replay {recorded.source}: replay.layout: {error}"
                raise UsageError(reason, "record the answer again") from None

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
        self.difference = first_difference(before, after, answer.tokens, answer.engine.tokenizer, prefix)
        self.reasons = explain_mismatch(recorded.manifest, build_manifest(answer))


def first_difference(
    recorded: tuple[str, str],
    replayed: tuple[str, str],
    tokens: Sequence[int],
    vocab: Tokenizer,
    prefix: tuple[str, str] = ("", ""),
) -> Difference | None:
    """Where the reasoning and the text of an answer first differ from the recorded ones; None if they do not.

    `tokens` are those of the replay, which follow the reasoning and the text in `prefix`.
    """
    kinds = zip(("think", "answer"), recorded, replayed, map(len, prefix), strict=True)
    part, before, after, n_prefix = next((one for one in kinds if one[1] != one[2]), ("", "", "", 0))
    if not part:
        return None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(vocab.piece(token)) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    generated, own = "".join(pieces), after[n_prefix:]  # what was generated has the tags of the reasoning too
    start = max(generated.rfind(own) if part == "answer" else generated.find(own), 0) - n_prefix
    shorter = min(len(before), len(after))
    offset = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    index = next((i for i, end in enumerate(ends) if end > start + offset), len(tokens))
    token_start = ends[index - 1] if index else 0
    token_offset = min(max(token_start - start, 0), offset)
    recorded_text = vocab.detokenize(vocab.tokenize(before[token_offset:])[:1])
    replayed_text = pieces[index] if index < len(tokens) else ""
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
