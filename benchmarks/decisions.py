"""What does a decision cost, and is it the one that the probabilities of whole sentences give?

    python -m benchmarks.decisions speed [LINES]
    python -m benchmarks.decisions blimp FOLDER [PAIRS]

`speed` decides between five labels for each of 200 lines, and does the same in two other ways: the answer is generated
freely until the model stops, of at most 128 tokens (goal: a decision is at least 8 times as fast), and each label is
evaluated with its prompt on its own (at least 2 times). No decision is faster than the evaluation of the new tokens of
its prompt: the time of that is printed too, and the decision as a ratio to it (1.0 is the least).
`blimp` lets the starter choose the grammatical sentence of pairs of BLiMP (Warstadt et al. 2020, "BLiMP: The Benchmark
of Linguistic Minimal Pairs for English"), in equal shares from each of its files; FOLDER is `data` in
https://github.com/alexwarstadt/blimp. Beside it, each sentence is evaluated alone, as a perplexity is computed: the
log-probabilities must be equal to 1e-3, and the choices the same.
"""

import json
import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.policies import open_starter
from llmcli.engine.events import Request
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import Context
from llmcli.engine.scoring import score
from llmcli.inference.answer import Answer
from llmcli.inference.decision import ChoiceSet, Decision, DecisionRequest, read_choice_set
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

_LABELS = Settings(choices=("praise", "complaint", "question", "order", "other"))
_FREE = Settings(n_ctx=1024, max_tokens=128, seed=1, temperature=Fixed(0.0))
_N_CTX = 1024
_START = "<|endoftext|>"  # stands between two texts in the training of the starter, which has no BOS token


def main() -> None:
    command, *arguments = sys.argv[1:]
    with closing(open_starter(_N_CTX)) as local:
        if command == "speed":
            speed(local, int(arguments[0]) if arguments else 200)
        else:
            blimp(local, Path(arguments[0]), int(arguments[1]) if arguments[1:] else 2000)


# Speed


def speed(local: LocalEngine, n_lines: int) -> None:
    choice_set, seconds = _choice_set(_LABELS), defaultdict[str, float](float)
    alone, prompts = (Context(local.model, Settings(n_ctx=_N_CTX), 2, _N_CTX) for _ in range(2))
    for number, line in enumerate(_lines(n_lines + 1)):
        asked = DecisionRequest(local, _LABELS, choice_set, line)
        prefix, tails = asked.tokens()
        ways: dict[str, Callable[[], object]] = {
            "decision": replace(asked).decide,
            "free": partial(_generate, asked),
            "one by one": partial(_evaluate_each, alone, prefix, tails),
            "its prompt": partial(prompts.prefill, 0, prefix),  # what it has in common with the last one is there
        }
        for name, way in ways.items():  # in turn, so that a busy moment of the machine hits all of them
            begin = perf_counter()
            way()
            if number:  # the first line only warms up
                seconds[name] += perf_counter() - begin
    for name, goal in (("free", 8), ("one by one", 2)):
        print(f"decision: {seconds[name] / seconds['decision']:.2f} x as fast as {name} (goal {goal})")
    print(f"decision: {seconds['decision'] / seconds['its prompt']:.2f} x the time of its prompt (1.0 is the least)")
    for name in seconds:
        print(f"{name}: {1e3 * seconds[name] / n_lines:.1f} ms per line")
    alone.close()
    prompts.close()


def _generate(asked: DecisionRequest) -> None:
    text = f"{asked.choice_set.instruction}\n\n{asked.text}"
    prompt = build_prompt(asked.engine, _FREE, text, None)
    for _part in Answer(asked.engine, Request(prompt, _FREE)).parts():
        pass


def _evaluate_each(context: Context, prefix: Sequence[int], tails: Sequence[Sequence[int]]) -> None:
    for tail in tails:
        context.cut(0)
        score(context, _N_CTX, prefix, [tail])


def _lines(count: int) -> Iterator[str]:
    """Messages of customers, no two of them alike."""
    source = random.Random(1)
    things = "lamp", "table", "coat", "radio", "kettle", "book", "chair", "phone", "clock", "bag"
    sayings = (
        "The {0} that I bought last week is the best one I ever had, thank you so much!",
        "My {0} arrived broken, and nobody answers the telephone. I want my money back.",
        "Does the {0} come in green, and how long does it take to send one to Norway?",
        "Please send me {1} of the {0}s, to the same address as the last time.",
        "I saw a {0} like this in the house of my aunt, many years ago.",
    )
    for number in range(count):
        yield f"{number}. {source.choice(sayings).format(source.choice(things), source.randint(2, 99))}"


# BLiMP


def blimp(local: LocalEngine, folder: Path, n_pairs: int) -> None:
    context = Context(local.model, Settings(n_ctx=_N_CTX))
    right: Counter[str] = Counter()
    worst, n_different, pairs = 0.0, 0, _pairs(folder, n_pairs)
    for number, (good, bad) in enumerate(pairs):
        if number and number % 250 == 0:
            print(f"{number} pairs: {dict(right)}, {n_different} different", flush=True)
        settings = Settings(choices=tuple(text.replace("=", "\\=") for text in (good, bad)), raw=True)
        asked = DecisionRequest(local, settings, _choice_set(settings), _START)
        decision, (prefix, tails) = asked.decide(), asked.tokens()
        alone = [_logprob(context, prefix, tail) for tail in tails]
        right["decision"] += decision.choice is decision.choices[0]
        right["alone"] += alone[0] >= alone[1]
        n_different += (decision.choice is decision.choices[0]) != (alone[0] >= alone[1])
        worst = max(worst, _difference(decision, alone))
    context.close()
    for name, count in right.items():
        print(f"{name}: the grammatical sentence in {count} of {len(pairs)} pairs, {count / len(pairs):.2%}")
    print(f"different choices: {n_different}")
    print(f"largest relative difference of a log-probability: {worst:.1e} (goal 1e-3)")


def _pairs(folder: Path, n_pairs: int) -> Sequence[tuple[str, str]]:
    """So many pairs, in equal shares from all files, mixed."""
    files = sorted(folder.glob("*.jsonl"))
    source, pairs = random.Random(0), []
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["sentence_good"] != row["sentence_bad"]]  # they are in 7 pairs
        chosen = source.sample(rows, min(len(rows), -(-n_pairs // len(files))))
        pairs += [(row["sentence_good"], row["sentence_bad"]) for row in chosen]
    source.shuffle(pairs)
    return pairs[:n_pairs]


def _difference(decision: Decision, alone: Sequence[float]) -> float:
    return max(abs(one.logprob / other - 1) for one, other in zip(decision.choices, alone, strict=True))


def _choice_set(settings: Settings) -> ChoiceSet:
    choice_set = read_choice_set(settings)
    assert choice_set
    return choice_set


def _logprob(context: Context, prefix: Sequence[int], tail: Sequence[int]) -> float:
    """The log-probability of `tail` after `prefix`, from one evaluation of all of it in an empty context."""
    import numpy as np

    get, n_vocab = bindings.load().llama_get_logits_ith, context.model.vocab.n_tokens
    tokens = [*prefix, *tail]
    context.cut(0)
    context.extend([(0, token) for token in tokens[:-1]])
    total = 0.0
    for row in range(len(prefix) - 1, len(tokens) - 1):
        logits = np.ctypeslib.as_array(get(context.handle, row), (n_vocab,)).astype(np.float64)
        total += logits[tokens[row + 1]] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    return float(total)


if __name__ == "__main__":
    main()
