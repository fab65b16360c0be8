"""Compare a replayed answer with the recorded one: the first difference, and what may explain it."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmcli.engine.llama.model import Vocab
from llmcli.inference.replay_manifest import Circumstances

_SHOWN = 12  # letters of a sha256


@dataclass(frozen=True)
class Said:
    """The two parts of an answer."""

    reasoning: str
    text: str


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


def first_difference(
    then: Said, now: Said, tokens: Sequence[int], vocab: Vocab, begun: Said | None = None
) -> Difference | None:
    """Where the replay `now` first differs from the recorded `then`; None where it does not.

    `tokens` are those of the replay, which follow the text in `begun`.
    """
    prefix = begun or Said("", "")
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


def reasons(then: Circumstances, now: Circumstances) -> list[str]:
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


def _prompt(then: Circumstances, now: Circumstances) -> str:
    if then.prompt_sha256 == now.prompt_sha256:
        return ""
    counts = [sum(kept * times for _, kept, times in one.layout) for one in (then, now)]
    if counts[0] == counts[1]:
        return "the prompt is different, with as many tokens"
    return f"the prompt is different: was {counts[0]} tokens, is {counts[1]}"


def _pair(threads: tuple[int, int]) -> str:
    one, batch = threads
    return str(one) if one == batch else f"{one} ({batch} for the prompt)"
