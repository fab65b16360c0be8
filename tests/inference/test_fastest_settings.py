"""The settings that `llmcli bench --save` keeps: a layer of their own, for one file on one machine."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from llmcli.engine.llama import hardware
from llmcli.errors import DiskError
from llmcli.inference import fastest_settings, sizing
from llmcli.inference.fastest_settings import remark, save, saved_layer, with_choices
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models import notes
from llmcli.models.locations import ModelFile
from llmcli.params.param import SettingValue
from llmcli.params.settings import Layer, Settings, resolve

VALUES: dict[str, SettingValue] = {"n_threads": 3, "flash_attn": "off"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"model")
    return path


def test_what_is_kept_is_read_again(tmp_path: Path, file: Path) -> None:
    assert saved_layer(tmp_path, file).values == {}
    save(tmp_path, file, VALUES)
    assert saved_layer(tmp_path, file).values == VALUES
    save(tmp_path, file, {})
    assert saved_layer(tmp_path, file).values == {}


def test_another_file_and_another_machine_have_none(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, file, VALUES)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 77)
    assert saved_layer(tmp_path, file).values == {}
    monkeypatch.undo()
    file.write_bytes(b"another model")
    assert saved_layer(tmp_path, file).values == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("n_threads=3 n_ubatch=0", {"n_threads": 3}),
        ("n_threads=3 model=/etc/passwd temperature=2", {"n_threads": 3}),
        ("n_threads=99999", {}),
        ("flash_attn=maybe =", {}),
    ],
)
def test_of_a_note_only_valid_settings_of_a_search_count(
    tmp_path: Path, file: Path, text: str, values: dict[str, object]
) -> None:
    save(tmp_path, file, VALUES)
    notes.update(tmp_path, file, fastest=text)
    assert saved_layer(tmp_path, file).values == values


def test_a_damaged_note_is_a_miss(tmp_path: Path, file: Path) -> None:
    save(tmp_path, file, VALUES)
    (path,) = (tmp_path / notes.FOLDER).iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fastest": 7}))
    assert saved_layer(tmp_path, file).values == {}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, file: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot write the note about m.gguf"):
        save(tmp_path / "data", file, VALUES)


def test_it_is_below_what_anybody_sets_and_says_where_it_is_from(tmp_path: Path, file: Path) -> None:
    save(tmp_path, file, VALUES)
    layer = saved_layer(tmp_path, file).over(Layer("model", {"top_k": 7}))
    config = Layer("config", {"n_threads": 1})
    for resolved in (resolve([layer, config]), resolve([config]).over(layer)):
        assert (resolved.settings.n_threads, resolved.origins["n_threads"]) == (1, "config")
        assert (resolved.settings.flash_attn, resolved.origins["flash_attn"]) == ("off", "bench")
        assert (resolved.settings.top_k, resolved.origins["top_k"]) == (7, "model")


def test_a_default_that_somebody_sets_stays(tmp_path: Path, file: Path) -> None:
    save(tmp_path, file, VALUES)
    layer = saved_layer(tmp_path, file)
    settings = resolve([Layer("flag", {"n_threads": 0})]).settings
    used = with_choices(settings, layer)
    assert (used.n_threads, used.flash_attn) == (0, "off")
    assert remark(used, layer).endswith(": flash_attn off")
    assert remark(settings, Layer("bench", {})) == ""


def test_the_contexts_of_an_engine_have_them(tiny: Path, home: Path) -> None:
    save(home / "data", tiny, {"n_threads": 1, "n_threads_batch": 2})
    target = ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True))
    engine = LocalEngine(target, Settings(n_ctx=256))
    try:
        assert engine.remark.endswith(fastest_settings.describe({"n_threads": 1, "n_threads_batch": 2}))
        engine.open_context(Settings(n_ctx=256))
        assert engine.context.n_threads == (1, 2)
    finally:
        engine.close()


def test_an_engine_says_what_the_memory_made_it_choose(tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(home / "data", tiny, {"n_ubatch": 1024})
    target = ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True))
    need = sizing.memory_need(sizing.shape_of(target.headers), Settings(n_ubatch=128), 1024)
    monkeypatch.setattr(hardware, "available_memory", lambda: need.kv_cache + need.compute)
    monkeypatch.setattr(sizing, "_MOST_SPARE", 0)
    settings = resolve([Layer("flag", {"n_ctx": 1024, "n_threads": 1})]).settings
    with closing(LocalEngine(target, settings)) as engine:
        assert "n_ubatch is 128: more does not fit in memory" in engine.notes
        assert engine.remark == ""
        resolved = resolve([engine.defaults, Layer("flag", {"n_ctx": 1024})])
        assert (resolved.settings.n_ubatch, resolved.origins["n_ubatch"]) == (128, "memory")
