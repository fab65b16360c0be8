"""Answers with their replay data, and replays of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcli.chat.replay import RecordedAnswer, Replay, from_output, replay_settings
from llmcli.engine.events import Request, TemperatureShift
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.constraints import read_constraint
from llmcli.inference.engine import Engine
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import STARTER, STARTER_NAME, ModelFile
from llmcli.params.settings import Layer, Settings, parse_data, resolve

N_CTX = 768
QUESTIONS = ("Name a river.", "Write a line about the moon, please.", "What is 7 times 9?", "Tell me a short story.")


def opened(path: Path) -> Iterator[LocalEngine]:
    settings = Settings(n_ctx=N_CTX, n_threads=1)
    name = STARTER if path.name == STARTER_NAME else path.stem
    local = LocalEngine(ResolvedModel(ModelFile(path, (path,), name, trusted=True)), settings)
    local.open_context(settings)
    local.hasher.sha256()
    yield local
    local.close()


def given(
    engine: Engine, values: dict[str, Any], question: str, shift: TemperatureShift | None = None
) -> dict[str, Any]:
    """An answer as JSON; `shifts` change the temperature while it is generated."""
    values = {"n_ctx": N_CTX, "n_threads": 1, "max_tokens": 12, "seed": 1, **values}
    settings = resolve([Layer("test", parse_data(values, "test"))]).settings
    system = Path(settings.system[1:]).read_text() if settings.system else None
    prompt = build_prompt(engine, settings, question, system)
    answer = Answer(engine, Request(prompt, settings, read_constraint(settings), live_shift=shift))
    for number, _ in enumerate(answer.parts()):
        if shift and number in (1, 4):
            shift.add(0.4 if number == 1 else -0.7)
    data: dict[str, Any] = json.loads(json.dumps(answer_data(answer), allow_nan=False))
    return data


def again(engine: Engine, recorded: RecordedAnswer) -> Replay:
    replay = Replay(engine, recorded, replay_settings(recorded, None, Settings()))
    parts = list(replay.answer.parts())
    replay.compare()
    assert "".join(text for kind, text in parts if kind == "answer") == replay.answer.text
    return replay


def read(data: dict[str, Any], **changes: Any) -> RecordedAnswer:
    """The recorded answer in JSON data; its policy file is allowed."""
    (recorded,) = from_output(json.dumps(data | changes), "test", data["params"].get("temp_policy_file", ""))
    return recorded
