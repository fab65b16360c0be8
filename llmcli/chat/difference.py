"""Where does an answer that was given again leave the first one, and what was not as it was then?"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from llmcli.chat.circumstances import Circumstances
from llmcli.engine.vocab import Vocab

_SHOWN = 12  # letters of a sha256


@dataclass(frozen=True)
class Said:
    """The two parts of an answer."""

    reasoning: str
    text: str


@dataclass(frozen=True)
class Difference:
    """`token` counts those of the answer from 0, as a trace does, and `offset` the characters before this token.

    `part` is "answer" or "think": its reasoning. `had` and `now` are the texts of the token, then and now; empty where
    the answer had ended or has.
    """

    token: int
    offset: int
    part: str
    had: str
    now: str


def first_difference(
    then: Said, now: Said, tokens: Sequence[int], vocab: Vocab, begun: Said | None = None
) -> Difference | None:
    """Where `now`, written with `tokens` behind what was `begun`, first differs; None where it does not."""
    before = begun or Said("", "")
    if then.reasoning != now.reasoning:
        return _difference("think", then.reasoning, now.reasoning, len(before.reasoning), tokens, vocab)
    if then.text != now.text:
        return _difference("answer", then.text, now.text, len(before.text), tokens, vocab)
    return None


def _difference(part: str, old: str, new: str, begun: int, tokens: Sequence[int], vocab: Vocab) -> Difference:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(vocab.piece(token)) for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    whole = "".join(pieces)
    written = new[begun:]
    found = whole.rfind(written) if part == "answer" else whole.find(written)  # the tags around it are no part of it
    start = max(found, 0) - begun
    offset = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    index = next((i for i, end in enumerate(ends) if end > start + offset), len(tokens))
    begin = min(max((ends[index - 1] if index else 0) - start, 0), offset)  # of this token, in the part
    was = vocab.tokenize(old[begin:])
    had = vocab.detokenize(was[:1]) if was else ""
    return Difference(index, begin, part, had, pieces[index] if index < len(tokens) else "")


def reasons(then: Circumstances, now: Circumstances) -> list[str]:
    """What was otherwise when the answer was first given, each in one sentence without its full stop."""
    found = [
        _model(then.model_sha256, now.model_sha256),
        _changed("llama-cpp-python", then.build, now.build),
        "the chat template is another" if then.template_sha256 != now.template_sha256 else "",
        _prompt(then, now),
        "the settings are not those it was made with" if then.settings_sha256 != now.settings_sha256 else "",
        "the file of the temperature policy is another" if then.policy_sha256 != now.policy_sha256 else "",
        _changed("the context", f"{then.n_ctx} tokens", f"{now.n_ctx} tokens"),
        _changed("threads", _pair(then.threads), _pair(now.threads)),
        _changed("layers on a GPU", str(then.gpu_layers), str(now.gpu_layers)),
        _changed("the machine", then.machine, now.machine),
        "it was written side by side with others, in batches of them all" if then.beside != now.beside else "",
    ]
    return [text for text in found if text]


def _model(then: str, now: str) -> str:
    if not then:
        return "the model may be another file: its sha256 was not known"
    if then == now:
        return ""
    return f"the model is another file (sha256 {then[:_SHOWN]}... then, {now[:_SHOWN] or 'unknown'}... now)"


def _changed(what: str, then: str, now: str) -> str:
    return "" if then == now else f"{what}: {then or 'unknown'} then, {now} now"


def _prompt(then: Circumstances, now: Circumstances) -> str:
    if then.prompt_sha256 == now.prompt_sha256:
        return ""
    counts = [sum(kept * times for _, kept, times in one.layout) for one in (then, now)]
    same = counts[0] == counts[1]
    return "the prompt is another" + (" of as many tokens" if same else f": {counts[0]} tokens then, {counts[1]} now")


def _pair(threads: tuple[int, int]) -> str:
    one, batch = threads
    return str(one) if one == batch else f"{one} ({batch} for the prompt)"
