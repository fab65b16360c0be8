"""How many JSON schemas are enforced: the tests of MaskBench, through the code that a request goes through.

    python -m benchmarks.schemas FOLDER [COUNT]

FOLDER is `maskbench/data` of github.com/guidance-ai/jsonschemabench, with one file per schema and its valid and invalid
values; COUNT of them are drawn, always the same. A schema passes when each valid value is accepted, by the grammar
token by token and by the validation, and no invalid one is.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter

from llmcli.engine.llama.model import Model
from llmcli.engine.sampling.constraints import make_matcher
from llmcli.errors import LlmcliError
from llmcli.files import cache_dir
from llmcli.inference.json_schema import JsonSchema, read_schema
from llmcli.models.locations import starter_path


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    files = sorted(folder.glob("*.json"))
    random.Random(0).shuffle(files)
    model = Model.load([starter_path(cache_dir())], vocab_only=True)
    outcomes: Counter[str] = Counter()
    milliseconds = []
    for file in files[:count]:
        case = json.loads(file.read_text(encoding="utf-8"))
        start = perf_counter()
        try:
            schema = read_schema(json.dumps(case["schema"]))
            make_matcher(model.vocab, schema)
        except LlmcliError as error:
            outcomes["refused"] += 1
            print(f"{file.name}: refused: {error}")
            continue
        finally:
            milliseconds.append((perf_counter() - start) * 1e3)
        wrong = [test for test in case["tests"] if accepts(model, schema, test["data"]) != test["valid"]]
        for test in wrong:
            print(f"{file.name}: {'refuses' if test['valid'] else 'ACCEPTS'} {json.dumps(test['data'])[:100]}")
        is_loose = any(not test["valid"] for test in wrong)
        outcomes["accepts invalid" if is_loose else "refuses valid" if wrong else "pass"] += 1
    print(f"{dict(outcomes)} of {count}; built in {median(milliseconds):.1f} ms, at most {max(milliseconds):.0f} ms")


def accepts(model: Model, schema: JsonSchema, value: object) -> bool:
    """Whether the value can be generated and counts as valid."""
    text = json.dumps(value, ensure_ascii=False)
    matcher = make_matcher(model.vocab, schema)
    try:
        for token in model.vocab.tokenize(text):
            if not matcher.allows(token):
                return False
            matcher.accept(token)
    except LlmcliError:
        return False
    return matcher.may_end() and schema.problem(text) is None


if __name__ == "__main__":
    main()
