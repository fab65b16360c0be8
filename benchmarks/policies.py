"""What does a temperature policy cost, and what a trace?

`python -m benchmarks.policies [ROUNDS]` prints, on the starter, the speed of each beside plain sampling (the same chain
without a temperature step). Goals: fixed and entropy at least 0.99, other policies at least 0.985, with a trace 0.97,
with alternatives in the trace 0.92. The kinds take turns within a round, every other round backwards; a ratio is the
median over the rounds of the ratios within one round.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from llmcli.chat.answer import Answer
from llmcli.chat.local import LocalModel, Prompt, locate
from llmcli.chat.prompt import raw_tokens
from llmcli.chat.trace_file import TraceWriter
from llmcli.engine.abort import AbortFlag
from llmcli.params.policy.grammar import parse_policy
from llmcli.params.settings import Settings

_PROMPT = "The old harbour lay quiet under the snow, and the last ship"
_TOKENS = 48
_PLAIN = "1"  # a temperature of 1 adds no step
_KINDS: dict[str, tuple[str, int | None]] = {
    "plain": (_PLAIN, None),
    "fixed": ("0.8", None),
    "entropy": ("0.3..1.3^0.7", None),
    "edt": ("edt:0.8,theta=0.1", None),
    "linear": ("linear:1.2->0.5@200", None),
    "cosine, clamped": ("cosine:1.2->0.5@200,clamp=0.6..1", None),
    "exp": ("exp:1.2->0.5@200", None),
    "sentence of ranges": ("sentence:0.3..1.3,0.2..0.9,0.4", None),
    "think and answer": ("think=1.0,answer=0.6", None),
    "fixed, traced": ("0.8", 0),
    "sentence, traced": ("sentence:1.1,0.7,0.4", 0),
    "fixed, traced, 5 alternatives": ("0.8", 5),
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    local = _open()
    with closing(local), TemporaryDirectory() as folder:
        prompt = Prompt(_PROMPT, raw_tokens(local.model.vocab, _PROMPT))
        for kind in _KINDS:
            _run(local, prompt, kind, Path(folder))  # numpy is imported, pieces are known
        taken: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for number in range(rounds):
            for kind in _order(number):
                taken[kind].append(_run(local, prompt, kind, Path(folder)))
    print(f"{'policy':32} {'ratio':>6} {'us a token':>11}   ({rounds} rounds of {_TOKENS} tokens)")
    for kind in _KINDS:
        pairs = list(zip(taken["plain"], taken[kind], strict=True))
        more = median(other - plain for plain, other in pairs) / _TOKENS * 1e6
        print(f"{kind:32} {median(plain / other for plain, other in pairs):6.3f} {more:11.0f}")


def _open() -> LocalModel:
    settings = Settings(n_ctx=512)
    local = LocalModel(locate(settings), settings, AbortFlag())
    local.open_context(settings)
    return local


def _order(number: int) -> Iterator[str]:
    return iter(list(_KINDS)[:: -1 if number % 2 else 1])


def _run(local: LocalModel, prompt: Prompt, kind: str, folder: Path) -> float:
    """Seconds of an answer after its first token; the trace goes into a file as with `--trace`."""
    policy, trace = _KINDS[kind]
    settings = Settings(
        temperature=parse_policy(policy), n_ctx=512, seed=1, max_tokens=_TOKENS, ignore_eos=True, raw=True
    )
    answer = Answer(local, prompt, settings, trace=trace)
    with closing(TraceWriter(folder / "trace.jsonl")) as writer:
        if trace is not None:
            answer.heard = writer.write
        begin = perf_counter()
        for number, _ in enumerate(answer.parts()):
            begin = perf_counter() if number == 0 else begin
        return perf_counter() - begin


if __name__ == "__main__":
    main()
