"""The starter without pip: downloaded from the Hub, with the same sha256."""

from pathlib import Path

import pytest

from llmcli.errors import LlmcliError
from llmcli.models.download.http import RetryPolicy, TransientError
from llmcli.models.locations import starter_path
from llmcli.models.sources.starter import REPO, ensure_starter
from tests.hub.server import FakeHub, Fault
from tests.models.test_starter import hide_pip


@pytest.fixture(autouse=True)
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pip(monkeypatch)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(RetryPolicy, "wait", _give_up)


def test_the_hub_gives_the_starter(starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        hub.add(REPO, {starter.name: starter})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        path = ensure_starter(tmp_path / "cache")
    assert path.read_bytes() == starter.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == [starter.name]


def test_file_with_other_checksum_is_not_kept(starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        hub.add(REPO, {starter.name: starter})
        hub.faults.append(Fault("corrupt", at=1_000_000))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(LlmcliError, match=r"needs pip.* checksum mismatch"):
            ensure_starter(tmp_path / "cache")
    assert not starter_path(tmp_path / "cache").exists()


def test_error_without_pip_and_hub_has_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(LlmcliError, match=r"needs pip.* the download from the Hub failed") as caught:
        ensure_starter(tmp_path / "cache")
    assert "ensurepip" in caught.value.hint


def _give_up(_retries: RetryPolicy, fault: TransientError) -> None:
    raise LlmcliError(str(fault))
