"""The settings in force in a session and for one answer, and when the model is loaded again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.sessions.session import Session
from llmcli.cli.chat import character_of
from llmcli.config.presets import layers_of
from llmcli.errors import UsageError
from llmcli.files import config_path
from llmcli.inference.local import LocalEngine
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Layer, Settings
from tests.chat.controllers import answer, controller_with, open_local
from tests.inference.fake_engine import FakeEngine
from tests.models.tiny_models import full_attention


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """A model of 200 kB with a context of 256 tokens, of which a letter is one."""
    path = full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    local = open_local(path, Settings(n_ctx=256, n_threads=1))
    yield local
    local.close()


@pytest.fixture
def controller(tiny: LocalEngine) -> ChatController:
    return controller_with(tiny, n_ctx=256, max_tokens=4)


# The settings in force


LAYERS = ("default", "model", "config", "preset", "character", "env", "flag", "session preset", "session", "retry")


@pytest.mark.parametrize("top", range(len(LAYERS)))
def test_the_later_layer_wins(
    top: int, tiny: LocalEngine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`top_k` is set in every layer up to the `top` one, each time to the layer's number."""
    present = {name: number for number, name in enumerate(LAYERS) if 0 < number <= top}
    monkeypatch.setattr(tiny, "defaults", Layer("model", {"top_k": present["model"]} if top >= 1 else {}))
    lines = [f"top_k = {present['config']}"] if top >= 2 else []
    lines += [f"[presets.mine]\ntop_k = {present['preset']}"] if top >= 3 else []
    lines += [f"[presets.other]\ntop_k = {present['session preset']}"] if top >= 7 else []
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    role = tmp_path / "role.toml"
    role.write_text(f"[settings]\ntop_k = {present.get('character', 0)}")
    if top >= 5:
        monkeypatch.setenv("LLMCLI_TOP_K", str(present["env"]))
    flags: dict[str, Any] = {"preset": "mine"} if top >= 3 else {}
    flags |= {"character": str(role)} if top >= 4 else {}
    flags |= {"top_k": present["flag"]} if top >= 6 else {}

    controller = controller_with(tiny)
    middle = character_of(Layer("flag", flags), controller.session)[1]
    controller.layers = layers_of(Layer("flag", flags), *middle)
    if top >= 7:
        controller.set("preset", "other")
    if top >= 8:
        controller.set("top_k", present["session"])
    controller.session.add("user", "a")
    turn = controller.answer(controller.session.conversation.path(), {"top_k": present["retry"]} if top >= 9 else {})
    assert turn.resolved.settings.top_k == present.get(LAYERS[top], Settings().top_k)
    assert turn.resolved.origins["top_k"] == LAYERS[top].removeprefix("session ")


def test_the_later_of_a_preset_and_a_setting_wins(controller: ChatController) -> None:
    controller.set("temperature", Fixed(0.5))
    controller.set("max_tokens", 9)
    controller.set("preset", "creative")
    assert controller.settings.temperature == Fixed(1.2)
    assert controller.settings.max_tokens == 9  # not in the preset
    controller.set("temperature", Fixed(0.6))
    assert controller.settings.temperature == Fixed(0.6)
    assert controller.settings.top_k == 0
    controller.set("preset", "precise")
    assert controller.settings.temperature == Fixed(0.3)


def test_an_unknown_preset_changes_nothing(controller: ChatController) -> None:
    with pytest.raises(UsageError, match="preset 'nonsense'"):
        controller.set("preset", "nonsense")
    assert controller.session.overrides == {}


def test_a_reset_restores_the_layer_below(controller: ChatController) -> None:
    controller.set("max_tokens", 9)
    controller.set("top_k", 3)
    assert controller.reset("top_k") == ["top_k"]
    assert (controller.settings.top_k, controller.settings.max_tokens) == (40, 9)
    assert controller.reset("top_k") == []
    assert controller.reset() == ["max_tokens"]
    assert controller.resolved().origins["max_tokens"] == "flag"


def test_a_preset_for_one_answer_ends_with_it(controller: ChatController) -> None:
    controller.session.add("user", "a")
    turn = answer(controller, preset="creative", top_k=5)
    assert turn.resolved.settings.temperature == Fixed(1.2)
    assert turn.resolved.settings.top_k == 5
    assert controller.settings.temperature == Settings().temperature


@pytest.mark.parametrize(
    ("extra", "part"),
    [({"system": "be brief"}, "be brief\n\n"), ({"prefill": " so"}, "Assistant: so"), ({"raw": True}, "a")],
)
def test_a_setting_of_one_answer_changes_its_prompt_too(
    controller: ChatController, extra: dict[str, Any], part: str
) -> None:
    controller.session.add("user", "a")
    turn = answer(controller, **extra)
    assert part in turn.answer.prompt.text
    assert ("User" in turn.answer.prompt.text) is not bool(extra.get("raw"))
    assert turn.answer.text.startswith(extra.get("prefill", ""))


def test_a_setting_of_the_start_is_refused_with_another_way(controller: ChatController) -> None:
    with pytest.raises(UsageError, match="file cannot be set in a running chat") as caught:
        controller.parse("file", "x")
    assert "/file" in caught.value.hint
    with pytest.raises(UsageError, match="must be on or off"):
        controller.parse("ignore_eos", "")
    assert controller.parse("temp", "0.5") == ("temperature", Fixed(0.5))


@pytest.mark.parametrize("key", ["grammar", "prefill", "json_schema", "chat_template", "seed"])
def test_none_removes_an_optional_value(controller: ChatController, key: str) -> None:
    assert controller.parse(key, "none") == (key, None)


# The loaded model


def needs_reload(controller: ChatController) -> bool:
    """`stale`, as a call: mypy takes a property for a constant between two assertions."""
    return controller.needs_reload


def test_a_model_whose_process_has_ended_is_loaded_again(tmp_path: Path) -> None:
    engine = FakeEngine()
    controller = controller_with(engine)
    assert not controller.needs_reload
    engine.has_ended = True
    assert controller.needs_reload


def test_only_a_model_setting_needs_a_reload(controller: ChatController) -> None:
    controller.set("top_k", 3)
    assert not needs_reload(controller)
    controller.set("n_ctx", 256)  # the same value
    assert not needs_reload(controller)
    controller.set("n_ctx", 512)
    assert needs_reload(controller)
    controller.reset("n_ctx")
    assert not needs_reload(controller)


def test_a_preset_or_session_with_another_n_ctx_needs_a_reload(controller: ChatController) -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_text("[presets.long]\nn_ctx = 512")
    controller.set("preset", "long")
    assert needs_reload(controller)
    controller.reset()
    assert not needs_reload(controller)
    other = Session(keep=False)
    other.overrides["n_ctx"] = 512
    controller.switch_session(other)
    assert needs_reload(controller)


def test_a_stale_model_is_closed_before_the_next_is_loaded(tmp_path: Path) -> None:
    path = full_attention(tmp_path / "tiny.gguf")
    controller = controller_with(open_local(path, Settings(n_ctx=256)))
    first: Any = controller.engine
    sizes = []

    def load(settings: Settings, _ahead: object) -> BackgroundLoad:
        assert first
        assert not first.model.handle
        sizes.append(settings.n_ctx)
        return BackgroundLoad(lambda _abort, _say: open_local(path, settings))

    controller._start_loading = load
    controller.set("n_ctx", 512)
    local = controller.load_model().wait(lambda _doing: True)
    assert controller.load_model() is controller.loading
    assert local
    assert (sizes, local.n_ctx) == ([512], 512)
    controller.close_model()


def test_a_temperature_can_replace_a_policy_file_and_use_it_again(controller: ChatController) -> None:
    controller.layers = layers_of(Layer("flag", {"temp_policy_file": "a.py:wave"}))
    controller.set(*controller.parse("temp", "0.5"))
    assert controller.resolved().settings.temp_policy_file is None
    controller.set(*controller.parse("temp", "wave:1"))
    assert controller.settings.temp_policy_file == "a.py:wave"
    with pytest.raises(UsageError, match="unknown policy 'gale'"):
        controller.parse("temp", "gale")
