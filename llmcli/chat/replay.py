"""An answer generated again, and where and why it differs."""

import codecs
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from llmcli.chat.prompting import PromptBuilder
from llmcli.chat.replay_source import RecordedAnswer
from llmcli.chat.turn import start_turn
from llmcli.engine.llama import hardware
from llmcli.engine.llama.context import AbortedError
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.temperature import TemperatureShift
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer, Part
from llmcli.inference.comparison import Comparison, Variant
from llmcli.inference.local import LocalModel, Prompt
from llmcli.inference.output import ReplayManifest, build_manifest, prompt_sha256
from llmcli.inference.prompt_tokens import raw_tokens, render_prompt
from llmcli.inference.request import special_texts
from llmcli.inference.template import ChatTemplate
from llmcli.params.settings import Settings

_SHOWN = 12  # letters of a sha256


def settings_of(recorded: RecordedAnswer, model: str | None, here: Settings) -> Settings:
    """The recorded settings, with the recorded context and threads; those for downloads come from `here`.

    Not more threads than this machine has processors: they would wait for each other without end.
    """
    known, most = recorded.circumstances, os.cpu_count() or 1
    one, batch = (min(threads, most) for threads in known.threads)
    own = {"model": model} if model else {}
    return replace(
        Settings(**{**recorded.values, **own}),
        n_ctx=known.n_ctx,
        n_threads=one,
        n_threads_batch=batch,
        n_gpu_layers=known.gpu_layers if hardware.has_gpu() else 0,
        pull=here.pull,
        offline=here.offline,
        model_folders=here.model_folders,
    )


@dataclass(frozen=True)
class Difference:
    """The first token that differs.

    `token` is its number in the answer from 0, as in a trace, and `offset` the number of characters before it. `part`
    is "answer", or "think" for the reasoning. `had` and `now` are its text in the recorded answer and in the replay;
    empty where that answer ends before.
    """

    token: int
    offset: int
    part: str
    had: str
    now: str


@dataclass
class Replay:
    """Iterate over `parts()`; afterwards `difference` and `reasons` hold the result."""

    local: LocalModel
    recorded: RecordedAnswer
    settings: Settings
    answer: Answer = field(init=False)
    stopped: bool = field(init=False, default=False)  # before its end, without a result
    difference: Difference | None = field(init=False, default=None)
    reasons: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        recorded, known = self.recorded, self.recorded.circumstances
        prompt = self._prompt()
        grammar = known.grammar or self.settings.grammar
        self.answer = start_turn(self.local, prompt, self.settings, grammar, recorded.begun)
        self.answer.temperature_shift = TemperatureShift(known.moves) if known.moves else None

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.answer.generation.tokens) - len(self.answer.prompt.tokens)

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they come.

        Raises:
            LlmcliError: as `Answer.parts` does, and when the recorded batches do not fit the prompt.
        """
        self._read_prompt()
        yield from self._generate()
        self.stopped = self.local.abort.is_set()
        if not self.stopped:
            self.compare()

    def _read_prompt(self) -> None:
        """Evaluate the prompt in the recorded batches; a different prompt has different ones."""
        tokens, known = self.answer.prompt.tokens, self.recorded.circumstances
        if prompt_sha256(tokens) != known.prompt_sha256 or not known.layout:
            return
        try:
            self.local.read_as(tokens, known.layout, self.settings)
        except ValueError as error:
            raise UsageError(
                f"cannot replay {self.recorded.source}: replay.layout: {error}", "record the answer again"
            ) from None
        except AbortedError:
            return  # the answer is aborted as well

    def _generate(self) -> Iterator[Part]:
        """The answer, to its end or to where it was stopped the first time."""
        answer, known = self.answer, self.recorded.circumstances
        generation, records = self.local.generate(
            answer.prompt, answer.settings, answer.grammar, None, **answer.generation_options()
        )
        yield from answer.begin(generation)
        while known.drawn is None or answer.n_drawn < known.drawn:
            record = next(records, None)
            if not record:
                break
            yield from answer.take(record)
        else:
            if known.flushed and not answer.finish_reason:
                yield from answer.take(generation.finish("interrupt"))
        records.close()  # type: ignore[attr-defined]
        yield from answer.end()

    def compare(self) -> None:
        """Find the first difference from the recorded answer, and its reasons."""
        answer, recorded = self.answer, self.recorded
        now = AnswerText(answer.reasoning, answer.text)
        then = AnswerText(recorded.reasoning, recorded.text)
        if not recorded.whole and now.reasoning.startswith(then.reasoning) and now.text.startswith(then.text):
            then = now  # the record does not have the text of the last token yet
        tokens = answer.generation.tokens[len(answer.prompt.tokens) :]
        begun = AnswerText(recorded.begun.reasoning if recorded.begun else "", answer.settings.prefill or "")
        self.difference = first_difference(then, now, tokens, self.local.model.vocab, begun)
        self.reasons = explain_mismatch(recorded.circumstances, build_manifest(answer))

    def _prompt(self) -> Prompt:
        recorded, settings = self.recorded, self.settings
        vocab = self.local.model.vocab
        template = None if settings.raw else self._template(recorded.circumstances)
        if recorded.asked is None:
            prompt_builder = PromptBuilder(self.local, template)
            self.settings = settings = prompt_builder.adjusted(settings)
            return prompt_builder.prompt_for(recorded.path, recorded.system, settings, recorded.begun)
        prefill = settings.prefill or ""
        if isinstance(recorded.asked, str):
            whole = recorded.asked + prefill
            return Prompt(whole, raw_tokens(vocab, whole), recorded.asked)
        assert template
        text, tokens = render_prompt(template, vocab, recorded.asked, prefill, settings.think != "off")
        return Prompt(text, tokens, recorded.asked, template.source, template.told)

    def _template(self, known: ReplayManifest) -> ChatTemplate:
        source = known.template or self.local.target.header.chat_template
        if not source:
            raise LlmcliError(
                f"{self.local.name} has no chat template, and the answer used the one of its model",
                "give the right model with -m",
            )
        template = ChatTemplate(source, special_texts(self.local), "the recorded chat template")
        template.moment = known.moment or None
        return template


class BatchReplay:
    """Generate the answers of a comparison again, side by side. Run the `comparison`, then call `compare`."""

    def __init__(self, local: LocalModel, recorded: Sequence[RecordedAnswer], settings: Sequence[Settings]) -> None:
        adjusted = [replace(one, n_ctx=old.values.get("n_ctx", 0)) for one, old in zip(settings, recorded, strict=True)]
        self.replays = [Replay(local, old, one) for old, one in zip(recorded, adjusted, strict=True)]
        pairs = [(Variant(one.recorded.label, {}), one.answer) for one in self.replays]
        self.comparison = Comparison(local, pairs)

    def compare(self) -> None:
        """Find the first difference of each answer, and its reasons."""
        for replay in self.replays:
            replay.stopped = self.comparison.interrupted
            if not replay.stopped:
                replay.compare()


@dataclass(frozen=True)
class AnswerText:
    """The two parts of an answer."""

    reasoning: str
    text: str


def first_difference(
    then: AnswerText, now: AnswerText, tokens: Sequence[int], vocab: Vocab, begun: AnswerText | None = None
) -> Difference | None:
    """Where the replay `now` first differs from the recorded `then`; None where it does not.

    `tokens` are those of the replay, which follow the text in `begun`.
    """
    prefix = begun or AnswerText("", "")
    if then.reasoning != now.reasoning:
        return _difference("think", then.reasoning, now.reasoning, len(prefix.reasoning), tokens, vocab)
    if then.text != now.text:
        return _difference("answer", then.text, now.text, len(prefix.text), tokens, vocab)
    return None


def _difference(
    part: str, recorded: str, replayed: str, n_prefix: int, tokens: Sequence[int], vocab: Vocab
) -> Difference:
    """The first difference of two texts, whose first `n_prefix` characters come before the tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(vocab.piece(token)) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    start = _start_of(replayed[n_prefix:], "".join(pieces), part) - n_prefix
    offset = _common_length(recorded, replayed)
    index = next((i for i, end in enumerate(ends) if end > start + offset), len(tokens))
    token_start = ends[index - 1] if index else 0
    token_offset = min(max(token_start - start, 0), offset)
    recorded_tokens = vocab.tokenize(recorded[token_offset:])
    recorded_text = vocab.detokenize(recorded_tokens[:1]) if recorded_tokens else ""
    replayed_text = pieces[index] if index < len(tokens) else ""
    return Difference(index, token_offset, part, recorded_text, replayed_text)


def _start_of(text: str, generated: str, part: str) -> int:
    """Where a part of the answer begins in all that was generated, which contains the tags of the reasoning too."""
    position = generated.rfind(text) if part == "answer" else generated.find(text)
    return max(position, 0)


def _common_length(one: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def explain_mismatch(then: ReplayManifest, now: ReplayManifest) -> list[str]:
    """What differs in the conditions of the recorded answer and the replay, each as a short text."""
    texts = [
        _model(then.model_sha256, now.model_sha256),
        _changed("llama-cpp-python", then.build, now.build),
        "the chat template is different" if then.template_sha256 != now.template_sha256 else "",
        _prompt(then, now),
        "the settings are different" if then.settings_sha256 != now.settings_sha256 else "",
        "the file of the temperature policy is different" if then.policy_sha256 != now.policy_sha256 else "",
        _changed("context", f"{then.n_ctx} tokens", f"{now.n_ctx} tokens"),
        _changed("threads", _pair(then.threads), _pair(now.threads)),
        _changed("layers on a GPU", str(then.gpu_layers), str(now.gpu_layers)),
        _changed("machine", then.machine, now.machine),
        "the number of answers generated in one batch is different" if then.beside != now.beside else "",
    ]
    return [text for text in texts if text]


def _model(then: str, now: str) -> str:
    if not then:
        return "the model may be a different file: its sha256 was not recorded"
    if then == now:
        return ""
    return f"the model is a different file (sha256 was {then[:_SHOWN]}..., is {now[:_SHOWN] or 'unknown'}...)"


def _changed(what: str, then: str, now: str) -> str:
    return "" if then == now else f"{what}: was {then or 'unknown'}, is {now}"


def _prompt(then: ReplayManifest, now: ReplayManifest) -> str:
    if then.prompt_sha256 == now.prompt_sha256:
        return ""
    counts = [sum(kept * times for _, kept, times in one.layout) for one in (then, now)]
    if counts[0] == counts[1]:
        return "the prompt is different, with as many tokens"
    return f"the prompt is different: was {counts[0]} tokens, is {counts[1]}"


def _pair(threads: tuple[int, int]) -> str:
    one, batch = threads
    return str(one) if one == batch else f"{one} ({batch} for the prompt)"
