"""An answer generated again, and where and why it differs."""

import codecs
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

from llmcli.chat.prompting import PromptBuilder
from llmcli.chat.recorded_answer import RecordedAnswer
from llmcli.engine.events import Cancellation, TemperatureShift
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer, Part
from llmcli.inference.answer_json import ReplayManifest, build_manifest, prompt_sha256
from llmcli.inference.comparison import Comparison
from llmcli.inference.engine import Engine, Prompt, Request, TemplateOptions, Tokenizer, check_request
from llmcli.inference.sizing import possible_gpu_layers
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

_DIGEST_LETTERS = 12  # letters of a sha256


def replay_settings(recorded: RecordedAnswer, model: str | None, current: Settings) -> Settings:
    """The recorded settings, with the recorded context and threads; those for downloads are the `current` ones."""
    manifest, n_processors = recorded.manifest, os.cpu_count() or 1
    # More threads than processors would wait for each other without end.
    n_threads, n_threads_batch = (min(threads, n_processors) for threads in manifest.threads)
    given = {"model": model} if model else {}
    return replace(
        Settings(**{**recorded.values, **given}),
        n_ctx=manifest.n_ctx,
        n_threads=n_threads,
        n_threads_batch=n_threads_batch,
        n_gpu_layers=possible_gpu_layers(manifest.gpu_layers),
        pull=current.pull,
        offline=current.offline,
        model_folders=current.model_folders,
    )


@dataclass(frozen=True)
class Difference:
    """The first token that differs.

    `token` is its number in the answer from 0, as in a trace, and `offset` the number of characters before it. `part`
    is "answer", or "think" for the reasoning. `recorded` and `replayed` are its text in the two answers; empty where
    the answer ends before.
    """

    token: int
    offset: int
    part: str
    recorded: str
    replayed: str

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        place = {"token": self.token, "offset": self.offset, "part": self.part}
        return {**place, "had": self.recorded, "now": self.replayed}


@dataclass
class Replay:
    """Iterate over `parts()`; afterwards `difference` and `reasons` hold the result."""

    engine: Engine
    recorded: RecordedAnswer
    settings: Settings
    cancellation: Cancellation = field(default_factory=Cancellation)
    answer: Answer = field(init=False)
    stopped: bool = field(init=False, default=False)  # before its end, without a result
    difference: Difference | None = field(init=False, default=None)
    reasons: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        recorded, manifest = self.recorded, self.recorded.manifest
        if not self.engine.capabilities.replay:
            raise UsageError(f"{self.engine.name} does not support replay", "use a model of this machine")
        prompt = self._prompt()
        grammar = manifest.grammar or self.settings.grammar
        shift = TemperatureShift(manifest.moves) if manifest.moves else None
        request = Request(prompt, self.settings, grammar, live_shift=shift, cancellation=self.cancellation)
        request.label = recorded.label
        check_request(self.engine, request)
        if recorded.continued:
            request.continue_from(recorded.continued.reasoning, recorded.continued.content)
        self.answer = Answer(self.engine, request)

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.answer.tokens)

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they come.

        Raises:
            LlmcliError: as `Answer.parts` does, and when the recorded batches do not fit the prompt.
        """
        self._read_prompt()
        yield from self._generate()
        if not self.stopped:
            self.compare()

    def _read_prompt(self) -> None:
        """Evaluate the prompt in the recorded batches; a different prompt has different ones."""
        request, manifest = self.answer.request, self.recorded.manifest
        if prompt_sha256(request.prompt.tokens) != manifest.prompt_sha256 or not manifest.layout:
            return
        try:
            self.engine.evaluate_batches(request, manifest.layout)
        except ValueError as error:
            raise UsageError(
                f"cannot replay {self.recorded.source}: replay.layout: {error}", "record the answer again"
            ) from None

    def _generate(self) -> Iterator[Part]:
        """The answer, to its end or to where it was stopped the first time."""
        answer, manifest = self.answer, self.recorded.manifest
        with closing(self.engine.generate([answer.request])) as events:
            yield from answer.begin()
            while not answer.finish_reason and (manifest.drawn is None or answer.n_drawn < manifest.drawn):
                yield from answer.push(next(events))
            self.stopped = self.cancellation.is_set()
            if not answer.finish_reason:
                self.cancellation.set()
                last = next(events)  # it has the text that was held back
                answer.record = last.record
                yield from answer.push(last) if manifest.flushed else answer.end()
        if answer.record.failure:
            raise answer.record.failure

    def compare(self) -> None:
        """Find the first difference from the recorded answer, and its reasons."""
        answer, recorded = self.answer, self.recorded
        after = AnswerText(answer.reasoning, answer.text)
        before = AnswerText(recorded.reasoning, recorded.text)
        if not recorded.is_complete and all(map(str.startswith, after, before)):
            before = after  # the record does not have the text of the last token yet
        tokens = answer.tokens
        prefix = AnswerText(answer.request.reasoning, answer.settings.prefill or "")
        self.difference = first_difference(before, after, tokens, self.engine.tokenizer, prefix)
        self.reasons = explain_mismatch(recorded.manifest, build_manifest(answer))

    def _prompt(self) -> Prompt:
        recorded, settings = self.recorded, self.settings
        template = TemplateOptions("") if settings.raw else self._template(recorded.manifest)
        if recorded.request is None:
            prompt_builder = PromptBuilder(self.engine, template)
            self.settings = settings = prompt_builder.with_plain_stop(settings)
            return prompt_builder.prompt(recorded.path, recorded.system, settings, recorded.continued)
        options = replace(template, prefill=settings.prefill or "", thinking=settings.think != "off")
        return self.engine.render(recorded.request, options)

    def _template(self, manifest: ReplayManifest) -> TemplateOptions:
        source = manifest.template or self.engine.chat_template
        if not source:
            raise LlmcliError(
                f"{self.engine.name} has no chat template, and the answer used the one of its model",
                "give the right model with -m",
            )
        return TemplateOptions(source, "the recorded chat template", time=manifest.moment)


class BatchReplay:
    """Generate the answers of a comparison again, side by side. Run the `comparison`, then call `compare`."""

    def __init__(
        self,
        engine: Engine,
        recorded: Sequence[RecordedAnswer],
        settings: Sequence[Settings],
        cancellation: Cancellation,
    ) -> None:
        adjusted = [replace(one, n_ctx=old.values.get("n_ctx", 0)) for one, old in zip(settings, recorded, strict=True)]
        self.replays = [Replay(engine, old, one, cancellation) for old, one in zip(recorded, adjusted, strict=True)]
        self.comparison = Comparison([one.answer for one in self.replays])

    def compare(self) -> None:
        """Find the first difference of each answer, and its reasons."""
        for replay in self.replays:
            replay.stopped = self.comparison.interrupted
            if not replay.stopped:
                replay.compare()


class AnswerText(NamedTuple):
    """The two parts of an answer."""

    reasoning: str = ""
    text: str = ""


def first_difference(
    recorded: AnswerText,
    replayed: AnswerText,
    tokens: Sequence[int],
    vocab: Tokenizer,
    prefix: tuple[str, str] = ("", ""),
) -> Difference | None:
    """Where the `replayed` answer first differs from the `recorded` one; None if it does not.

    `tokens` are those of the replay, which follow the text in `prefix`.
    """
    for part, before, after, start in zip(("think", "answer"), recorded, replayed, prefix, strict=True):
        if before != after:
            return _difference(part, before, after, len(start), tokens, vocab)
    return None


def _difference(
    part: str, recorded: str, replayed: str, n_prefix: int, tokens: Sequence[int], vocab: Tokenizer
) -> Difference:
    """The first difference of two texts, whose first `n_prefix` characters come before the tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(vocab.piece(token)) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    generated, own = "".join(pieces), replayed[n_prefix:]  # what was generated has the tags of the reasoning too
    start = max(generated.rfind(own) if part == "answer" else generated.find(own), 0) - n_prefix
    shorter = min(len(recorded), len(replayed))
    offset = next((i for i in range(shorter) if recorded[i] != replayed[i]), shorter)
    index = next((i for i, end in enumerate(ends) if end > start + offset), len(tokens))
    token_start = ends[index - 1] if index else 0
    token_offset = min(max(token_start - start, 0), offset)
    recorded_tokens = vocab.tokenize(recorded[token_offset:])
    recorded_text = vocab.detokenize(recorded_tokens[:1]) if recorded_tokens else ""
    replayed_text = pieces[index] if index < len(tokens) else ""
    return Difference(index, token_offset, part, recorded_text, replayed_text)


def explain_mismatch(recorded: ReplayManifest, replayed: ReplayManifest) -> list[str]:
    """What differs in the conditions of the recorded answer and the replay, each as a short text."""
    texts = [
        _model(recorded.model_sha256, replayed.model_sha256),
        _changed("llama-cpp-python", recorded.build, replayed.build),
        "the chat template is different" if recorded.template_sha256 != replayed.template_sha256 else "",
        _prompt(recorded, replayed),
        *_settings(recorded, replayed),
        "the file of the temperature policy is different" if recorded.policy_sha256 != replayed.policy_sha256 else "",
        _changed("temperature policy", recorded.policy, replayed.policy or "none") if recorded.policy else "",
        _changed("context", f"{recorded.n_ctx} tokens", f"{replayed.n_ctx} tokens"),
        _changed("threads", _pair(recorded.threads), _pair(replayed.threads)),
        _changed("layers on a GPU", str(recorded.gpu_layers), str(replayed.gpu_layers)),
        _changed("machine", recorded.machine, replayed.machine),
        "the number of answers generated in one batch is different" if recorded.beside != replayed.beside else "",
    ]
    return [text for text in texts if text]


def _model(recorded: str, replayed: str) -> str:
    if not recorded:
        return "the model may be a different file: its sha256 was not recorded"
    if recorded == replayed:
        return ""
    before, after = recorded[:_DIGEST_LETTERS], replayed[:_DIGEST_LETTERS] or "unknown"
    return f"the model is a different file (sha256 was {before}..., is {after}...)"


def _settings(recorded: ReplayManifest, replayed: ReplayManifest) -> list[str]:
    """The settings that differ, by name if the record has them."""
    if recorded.settings_sha256 == replayed.settings_sha256:
        return []
    before, after = (
        {key: ellipsize(str(value)) for key, value in one.settings.items()} for one in (recorded, replayed)
    )
    keys = sorted(before.keys() | after.keys()) if before else []
    texts = [_changed(key, before.get(key, "default"), after.get(key, "default")) for key in keys]
    return list(filter(None, texts)) or ["the settings are different"]


def _changed(what: str, recorded: str, replayed: str) -> str:
    return "" if recorded == replayed else f"{what}: was {recorded or 'unknown'}, is {replayed}"


def _prompt(recorded: ReplayManifest, replayed: ReplayManifest) -> str:
    if recorded.prompt_sha256 == replayed.prompt_sha256:
        return ""
    counts = [sum(kept * times for _, kept, times in one.layout) for one in (recorded, replayed)]
    if counts[0] == counts[1]:
        return "the prompt is different, with as many tokens"
    return f"the prompt is different: was {counts[0]} tokens, is {counts[1]}"


def _pair(threads: tuple[int, int]) -> str:
    one, batch = threads
    return str(one) if one == batch else f"{one} ({batch} for the prompt)"
