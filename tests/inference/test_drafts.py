"""Drafts of the engine of this process: what is kept, the draft model, and what each setting does."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.replay import Replay, from_output, replay_settings
from llmcli.engine.drafting import DraftModel, PromptLookup
from llmcli.engine.events import Request
from llmcli.engine.speculation import StepCosts
from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.files import data_dir
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.drafts import Drafts
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models import notes
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.models.tiny_models import recurrent

# So strong a bias that any model repeats three words.
REFRAIN: dict[str, Any] = {
    "speculative": "auto",
    "temperature": Fixed(0.0),
    "logit_bias": ((" red", 60.0), (" hat", 60.0), (" blue", 60.0)),
    "max_tokens": 60,
    "n_ctx": 256,
    "n_threads": 1,
    "seed": 1,
    "raw": True,
}


def open_engine(path: Path, **values: Any) -> LocalEngine:
    return LocalEngine(ResolvedModel(ModelFile(path, (path,), path.stem, trusted=True)), Settings(**REFRAIN | values))


def answer_of(engine: LocalEngine, **values: Any) -> Answer:
    """The whole answer to a text that repeats itself, from an empty context."""
    if engine.n_ctx:
        engine.context.cut(0)
    prompt = engine.render("A red hat, a blue hat, a red hat, a blue", TemplateOptions(""))
    answer = Answer(engine, Request(prompt, Settings(**REFRAIN | values)))
    list(answer.parts())
    return answer


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draft pays, whatever it takes on this machine."""
    monkeypatch.setattr(StepCosts, "cost", lambda _costs, _width, _kernel: 1.0)
    monkeypatch.setattr(StepCosts, "single", lambda _costs, _kernel: 0.0)


@pytest.mark.usefixtures("cheap")
def test_each_setting_gives_the_same_text(short_starter: Path) -> None:
    with closing(open_engine(short_starter)) as engine:
        off, auto, on = (answer_of(engine, speculative=mode) for mode in ("off", "auto", "on"))
    assert off.text == auto.text == on.text
    counts = [one.record.timings.draft_n_accepted for one in (off, auto, on)]
    assert counts[0] == 0
    assert min(counts[1:]) > 10
    assert "draft_n" not in off.timings()
    assert auto.timings()["draft_n"] >= auto.timings()["draft_n_accepted"] == counts[1]


@pytest.mark.usefixtures("cheap")
def test_what_was_measured_is_kept_for_the_next_process(short_starter: Path) -> None:
    for _ in range(2):
        with closing(open_engine(short_starter)) as engine:
            accepted = answer_of(engine).record.timings.draft_n_accepted
    known = json.loads(notes.read(data_dir(), short_starter)["steps"])
    (kept,) = known.values()
    assert kept["exact 8 short"] == 1.0
    assert accepted > 30  # without a trial before


def test_what_a_trial_has_cost_is_owed_in_the_next_process_too(short_starter: Path) -> None:
    with closing(open_engine(short_starter)) as engine:
        answer_of(engine, max_tokens=3)
        assert engine._drafts._costs
        engine._drafts._costs.debt = 4.0
    with closing(open_engine(short_starter)) as engine:
        answer_of(engine, max_tokens=3)
        assert engine._drafts._costs
        assert 3.9 < engine._drafts._costs.debt < 4.0


def test_measurements_under_other_conditions_stay(short_starter: Path) -> None:
    others = {f"other {n}": {"cost 2 short": 1.5} for n in range(6)}
    notes.update(data_dir(), short_starter, steps=json.dumps(others))
    with closing(open_engine(short_starter)) as engine:
        answer_of(engine)
    known = json.loads(notes.read(data_dir(), short_starter)["steps"])
    assert list(known)[:3] == ["other 3", "other 4", "other 5"]
    assert len(known) == 4


@pytest.mark.parametrize("changed", [{"rpc": ("127.0.0.1:50052",)}, {"tensor_split": "3,1"}, {"flash_attn": "off"}])
def test_what_was_measured_here_says_nothing_of_other_devices(short_starter: Path, changed: dict[str, Any]) -> None:
    with closing(open_engine(short_starter)) as engine:
        here, there = (Drafts(engine.model, one, 0) for one in (Settings(), replace(Settings(), **changed)))
        assert here._conditions != there._conditions


def test_a_cost_that_has_changed_is_remembered(short_starter: Path) -> None:
    with closing(open_engine(short_starter)) as engine:
        answer_of(engine)
        assert engine._drafts._costs
        engine._drafts._costs.kept["cost 16 short"] = 99.0
    (kept,) = json.loads(notes.read(data_dir(), short_starter)["steps"]).values()
    assert kept["cost 16 short"] == 99.0


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": {"cost 2": "x"}}', "{" * 3000])
def test_a_damaged_note_is_as_none(short_starter: Path, damage: str) -> None:
    notes.update(data_dir(), short_starter, steps=damage)
    with closing(open_engine(short_starter)) as engine:
        assert answer_of(engine, max_tokens=3).finish_reason == "length"


def test_a_recurrent_model_answers_without_drafts(tmp_path: Path) -> None:
    with closing(open_engine(recurrent(tmp_path / "mamba.gguf"))) as engine:
        answer = answer_of(engine, logit_bias=(), speculative="on", ignore_eos=True)
    assert (answer.record.timings.predicted_n, answer.record.timings.draft_n) == (60, 0)


@pytest.mark.usefixtures("cheap")
def test_a_replay_of_a_drafted_answer_is_the_same(short_starter: Path) -> None:
    with closing(open_engine(short_starter)) as engine:
        answer_of(engine)
        answer = answer_of(engine)
        assert answer.record.timings.draft_n_accepted > 10
        (recorded,) = from_output(json.dumps(answer_data(answer)), "answer.json")
        replay = Replay(engine, recorded, replay_settings(recorded, None, Settings()))
        list(replay.answer.parts())
        replay.compare()
    assert replay.difference is None
    assert replay.answer.record.timings.draft_n == 0


# The draft model


@pytest.mark.usefixtures("cheap")
def test_a_draft_model_leaves_the_text_as_it_is(short_starter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same model, which no text of its own surprises: what it drafts is right."""
    monkeypatch.setattr(DraftModel, "cost", lambda *_args: 0.0)
    monkeypatch.setattr(PromptLookup, "expect", lambda *_args: ())
    monkeypatch.setattr(StepCosts, "is_exact", lambda *_args: True)  # as other answers have found
    with closing(open_engine(short_starter, draft_model=str(short_starter))) as engine:
        plain = answer_of(engine, speculative="off", logit_bias=())
        drafted = answer_of(engine, logit_bias=())
    assert drafted.text == plain.text
    assert drafted.record.timings.draft_n_accepted > 10


def test_a_draft_model_with_other_tokens_is_refused(short_starter: Path, tiny: Path) -> None:
    with pytest.raises(UsageError, match="the draft model tiny has another vocabulary"):
        open_engine(short_starter, draft_model=str(tiny))


def test_a_draft_model_that_is_not_here_is_named(tiny: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"draft_model: .*no-such-model"):
        open_engine(tiny, draft_model="no-such-model.gguf")
    with closing(open_engine(tiny, draft_model="no-such-model.gguf", speculative="off")):
        pass  # nothing needs it
