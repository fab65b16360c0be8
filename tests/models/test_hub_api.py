"""The answers of the Hub: what is read of them, and the error that names a wrong field."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmcli.errors import NetworkError
from llmcli.models.hub.api import SearchResult, get_repo, search
from llmcli.models.hub.repo_files import RepoFile
from llmcli.models.reference import HubReference
from tests.hub.server import FakeHub, Fault
from tests.models.pulls import REPO, end_session

COMMIT, DIGEST = "a" * 40, "1" * 64


@pytest.fixture(scope="module")
def one_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(REPO, {"m.gguf": b"bytes"})
        yield hub
        end_session()


@pytest.fixture
def hub(one_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    one_hub.faults.clear()
    monkeypatch.setenv("HF_ENDPOINT", one_hub.endpoint)
    return one_hub


def answer(hub: FakeHub, value: Any) -> None:
    """Let the Hub answer the next question with this value."""
    hub.faults.append(Fault("bad_json", body=json.dumps(value).encode(), api=True))


def with_file(**changes: Any) -> dict[str, Any]:
    file = {"rfilename": "m.gguf", "size": 5, "lfs": {"sha256": DIGEST, "size": 5}}
    return {"sha": COMMIT, "siblings": [file | changes]}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "Expected `object`, got `array`"),
        ({}, "required field `sha`"),
        ({"sha": 7}, r"at `\$\.sha`"),
        ({"sha": "../../x"}, r"at `\$\.sha`"),
        ({"sha": COMMIT, "siblings": "all"}, r"at `\$\.siblings`"),
        (with_file(rfilename=None), r"at `\$\.siblings\[0\]\.rfilename`"),
        (with_file(size="5"), r"at `\$\.siblings\[0\]\.size`"),
        (with_file(size=-1), r"at `\$\.siblings\[0\]\.size`"),
        (with_file(size=1 << 60), r"at `\$\.siblings\[0\]\.size`"),
        (with_file(lfs={"sha256": 1}), r"at `\$\.siblings\[0\]\.lfs\.sha256`"),
    ],
)
def test_error_names_the_wrong_field_of_a_listing(hub: FakeHub, value: Any, field: str) -> None:
    answer(hub, value)
    with pytest.raises(NetworkError, match=field) as caught:
        get_repo(HubReference(REPO))
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize(("value", "field"), [({}, "got `object`"), ([{"id": 1}], r"at `\$\[0\]\.id`")])
def test_error_names_the_wrong_field_of_a_search(hub: FakeHub, value: Any, field: str) -> None:
    answer(hub, value)
    with pytest.raises(NetworkError, match=field):
        search("x", 5)


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({}, (RepoFile("m.gguf", 5, DIGEST),)),
        ({"lfs": None}, (RepoFile("m.gguf", 5, ""),)),
        ({"lfs": {"sha256": "../../x"}}, (RepoFile("m.gguf", 5, ""),)),
        ({"rfilename": "../m.gguf"}, ()),
    ],
)
def test_listing_has_only_safe_files_of_known_size(
    hub: FakeHub, changes: dict[str, Any], files: tuple[RepoFile, ...]
) -> None:
    answer(hub, with_file(**changes))
    assert get_repo(HubReference(REPO)).files == files


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, (False, "", None)),
        ({"gated": "auto", "tags": ["gguf", "license:mit"], "gguf": None}, (True, "mit", None)),
        ({"cardData": {"license": "apache-2.0"}, "tags": ["license:mit"]}, (False, "apache-2.0", None)),
        ({"cardData": {"license": ["a", "b"]}, "tags": ["license:mit"]}, (False, "mit", None)),
        ({"gguf": {"total": 7, "architecture": "llama"}}, (False, "", 7)),
    ],
)
def test_facts_of_a_repository_can_be_missing(hub: FakeHub, facts: dict[str, Any], expected: tuple[Any, ...]) -> None:
    answer(hub, with_file() | facts)
    repo = get_repo(HubReference(REPO))
    assert (repo.gated, repo.license, repo.n_parameters) == expected


def test_search_skips_names_that_are_not_repositories(hub: FakeHub) -> None:
    found = {"id": REPO, "downloads": 7, "likes": 1, "createdAt": "2025-06-07T08:09:10.000Z", "more": [1]}
    answer(hub, [{"id": "../x"}, found, {"id": "gpt2"}])
    assert search("x", 5) == [SearchResult(REPO, 7, 1, "", False, "2025-06-07")]
