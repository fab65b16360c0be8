"""What does a constraint cost, and does each answer that succeeds match its schema?

    python -m benchmarks.constraints speed [ROUNDS]
    python -m benchmarks.constraints answers FOLDER [SCHEMAS] [ANSWERS]

`speed` prints the speed of constrained answers of the starter beside plain ones: of one that obeys, where each token
is only checked (goal: at least 0.95), and of one that never does, where each token is masked (at least 0.85).
`answers` generates ANSWERS for each of SCHEMAS of MaskBench (see `benchmarks.schemas`) at temperature 1.2, of at most
300 tokens, and lets another validator, jsonschema, look at those that succeed.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmarks.policies import open_starter
from llmcli.engine.events import Request
from llmcli.errors import LlmcliError
from llmcli.inference.answer import Answer
from llmcli.inference.constraints import read_constraint
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

_PLAIN = Settings(n_ctx=1024, max_tokens=96, seed=1, ignore_eos=True, temperature=Fixed(0.0))
_KINDS = {"obeys": r"(?s).*", "masked": r"([a-z][0-9])*"}


def main() -> None:
    command, *arguments = sys.argv[1:]
    with closing(open_starter(1024)) as local:
        if command == "speed":
            speed(local, int(arguments[0]) if arguments else 9)
        else:
            answers(local, Path(arguments[0]), *map(int, arguments[1:]))


def speed(local: LocalEngine, rounds: int) -> None:
    kinds = {"plain": None, **_KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):  # the first one only warms up
        for kind, regex in kinds.items():
            settings = Settings(**{**vars(_PLAIN), "regex": regex})
            answer = ask(local, settings, "Tell me a story.")
            taken[kind].append(answer.record.timings.predicted_ms / answer.record.timings.predicted_n)
    for kind in _KINDS:
        ratio = median(plain / own for plain, own in zip(taken["plain"][1:], taken[kind][1:], strict=True))
        print(f"{kind}: {ratio:.3f} x the speed of plain generation ({rounds} rounds of {_PLAIN.max_tokens} tokens)")


def answers(local: LocalEngine, folder: Path, n_schemas: int = 100, n_answers: int = 3) -> None:
    outcomes: Counter[str] = Counter()
    for name, schema, seed in _requests(folder, n_schemas, n_answers):
        settings = Settings(n_ctx=4096, max_tokens=300, seed=seed, json_schema=schema, temperature=Fixed(1.2))
        try:
            answer = ask(local, settings, "Write an example.")
        except LlmcliError as error:
            outcomes[f"status {error.status}"] += 1
            print(f"{name}: {error}")
            continue
        if answer.constraint_failure():
            outcomes["status 9"] += 1
        else:
            outcomes["valid" if _is_valid(answer.text, schema) else "INVALID"] += 1
            if not _is_valid(answer.text, schema):
                print(f"{name}: INVALID {answer.text[:200]}")
    print(dict(outcomes))


def _requests(folder: Path, n_schemas: int, n_answers: int) -> Iterator[tuple[str, str, int]]:
    files = sorted(folder.glob("*.json"))
    random.Random(0).shuffle(files)
    for file in files[:n_schemas]:
        schema = json.dumps(json.loads(file.read_text(encoding="utf-8"))["schema"])
        yield from ((file.name, schema, seed) for seed in range(1, n_answers + 1))


def _is_valid(text: str, schema: str) -> bool:
    from jsonschema.validators import validator_for

    rules = json.loads(schema)
    return bool(validator_for(rules)(rules).is_valid(json.loads(text)))


def ask(local: LocalEngine, settings: Settings, text: str) -> Answer:
    constraint = read_constraint(settings)
    answer = Answer(local, Request(build_prompt(local, settings, text, None), settings, constraint))
    for _ in answer.parts():
        pass
    return answer


if __name__ == "__main__":
    main()
