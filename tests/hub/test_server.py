"""The contract of the fake Hub: the real client (huggingface_hub) works with it and knows its errors."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.server import FakeHub, Fault, Repo

pytestmark = pytest.mark.slow  # each starts a Python process that imports the real client
MODEL, README = bytes(range(256)) * 8192, b"# tiny\n"
_PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, scan_cache_dir
from huggingface_hub.errors import HfHubHTTPError
api, out = HfApi(), {}
def refusal(call, *args, **options):
    try:
        call(*args, **options)
    except HfHubHTTPError as error:
        return [type(error).__name__, error.response.status_code]
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    files = {"tiny-Q4_K_M.gguf": MODEL, "sub/other-Q8_0.gguf": MODEL[1:], "README.md": README}
    return hub.add("test/tiny-GGUF", files, tags=("llama",), downloads=5, parameters=135_000_000)


def ask(hub: FakeHub, home: Path, script: str, token: str | None = None) -> Any:
    """The value of `out` after the script, run by a new Python process with the real client."""
    variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    variables |= {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env = kept | variables | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-c", f"{_PRELUDE}\n{script}\nprint(json.dumps(out))"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hub_client_reads_model_info(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    repo.tag("v1")
    repo.commit({"new-Q2_K.gguf": b"new"})
    out = ask(
        hub,
        tmp_path,
        """
info = api.model_info("test/tiny-GGUF", files_metadata=True)
out["facts"] = [info.sha, info.gated, info.downloads, info.gguf["total"], info.card_data["license"], info.tags]
out["files"] = {f.rfilename: [f.size, f.lfs.sha256 if f.lfs else None] for f in info.siblings}
out["old"] = [f.rfilename for f in api.model_info("test/tiny-GGUF", revision="v1").siblings]
out["tree"] = [f.path for f in api.list_repo_tree("test/tiny-GGUF")]
out["all"] = [f.path for f in api.list_repo_tree("test/tiny-GGUF", recursive=True, revision="v1")]
out["paths"] = [f.lfs.sha256 for f in api.get_paths_info("test/tiny-GGUF", ["tiny-Q4_K_M.gguf", "no"])]
""",
    )
    digest = repo.files["tiny-Q4_K_M.gguf"].sha256
    tags = ["gguf", "llama", "license:apache-2.0", "region:us"]
    assert out["facts"] == [repo.head, False, 5, 135_000_000, "apache-2.0", tags]
    assert out["files"]["tiny-Q4_K_M.gguf"] == [len(MODEL), digest]
    assert out["files"]["README.md"] == [len(README), None]
    assert out["old"] == ["README.md", "sub/other-Q8_0.gguf", "tiny-Q4_K_M.gguf"]
    assert out["tree"] == ["README.md", "new-Q2_K.gguf", "sub", "tiny-Q4_K_M.gguf"]
    assert out["all"] == ["README.md", "sub", "sub/other-Q8_0.gguf", "tiny-Q4_K_M.gguf"]
    assert out["paths"] == [digest]


def test_hub_client_downloads_into_its_cache(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    out = ask(
        hub,
        tmp_path,
        """
meta = get_hf_file_metadata(hf_hub_url("test/tiny-GGUF", "tiny-Q4_K_M.gguf"))
out["meta"] = [meta.commit_hash, meta.etag, meta.size, meta.location.partition("?")[0]]
for name in ("tiny-Q4_K_M.gguf", "README.md"):
    out[name] = len(Path(hf_hub_download("test/tiny-GGUF", name)).read_bytes())
scan = scan_cache_dir()
out["scan"] = [[str(w) for w in scan.warnings], [r.repo_id for r in scan.repos], scan.size_on_disk]
""",
        token="hf_right",
    )
    digest = repo.files["tiny-Q4_K_M.gguf"].sha256
    assert out["meta"] == [repo.head, digest, len(MODEL), f"{hub.cdn}/{digest}"]
    assert out["tiny-Q4_K_M.gguf"] == len(MODEL)
    assert out["README.md"] == len(README)
    assert out["scan"] == [[], ["test/tiny-GGUF"], len(MODEL) + len(README)]
    assert hub.served == len(MODEL)
    assert {request.token for request in hub.requests("hub")} == {"hf_right"}
    assert {request.token for request in hub.requests("cdn")} == {None}


@pytest.mark.slow
def test_hub_client_resumes_a_download(hub: FakeHub, tmp_path: Path) -> None:
    chunk = 10 << 20  # the client loses what it has of the chunk that breaks
    hub.add("test/big", {"big.gguf": bytes(chunk + 2000)})
    hub.faults.append(Fault("close", at=chunk + 1000))
    out = ask(hub, tmp_path, 'out = len(Path(hf_hub_download("test/big", "big.gguf")).read_bytes())')
    assert out == chunk + 2000
    assert [request.range for request in hub.requests("cdn", "GET")] == [None, f"bytes={chunk}-"]
    assert hub.served == chunk + 3000


def test_hub_client_knows_the_errors(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    hub.add("test/gated", {"a.gguf": b"a"}, gated="manual")
    hub.add("test/private", {"a.gguf": b"a"}, private=True)
    script = """
def get(name, file="a.gguf", revision="main", token=None):
    return refusal(get_hf_file_metadata, hf_hub_url(name, file, revision=revision), token=token)
out["repo"] = [get("test/none"), get("test/none", token="hf_right")]
out["private"] = [get("test/private"), get("test/private", token="hf_right")]
out["gated"] = [get("test/gated"), get("test/gated", token="hf_right")]
out["check"] = refusal(api.auth_check, "test/gated", token="hf_right")
out["listed"] = api.model_info("test/gated").gated
out["revision"] = get("test/tiny-GGUF", revision="none")
out["file"] = get("test/tiny-GGUF")
out["token"] = [get("test/tiny-GGUF", token="hf_wrong"), refusal(api.whoami, token="hf_wrong")]
out["name"] = api.whoami(token="hf_right")["name"]
"""
    missing, gated = "RepositoryNotFoundError", "GatedRepoError"
    assert ask(hub, tmp_path, script) == {
        "repo": [[missing, 401], [missing, 404]],
        "private": [[missing, 401], None],
        "gated": [[gated, 401], [gated, 403]],
        "check": [gated, 403],
        "listed": "manual",
        "revision": ["RevisionNotFoundError", 404],
        "file": ["RemoteEntryNotFoundError", 404],
        "token": [["HfHubHTTPError", 401], ["HfHubHTTPError", 401]],
        "name": "tester",
    }


def test_hub_client_searches_with_filter_order_and_pages(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    for number in range(5):
        hub.add(f"other/Qwen-{number}-GGUF", {"a.gguf": b"a"}, downloads=number * 10)
    hub.add("other/Qwen-no-weights", {"README.md": README})
    hub.page_size = 2
    hub.rename("other/Qwen-0-GGUF", "other/Renamed-GGUF")
    out = ask(
        hub,
        tmp_path,
        """
out["qwen"] = [m.id for m in api.list_models(filter="gguf", search="qwen", sort="downloads")]
out["limit"] = [m.id for m in api.list_models(filter=["gguf", "llama"], limit=3)]
out["author"] = len(list(api.list_models(author="other")))
out["tree"] = len(list(api.list_repo_tree("test/tiny-GGUF", recursive=True)))
out["moved"] = api.model_info("other/Qwen-0-GGUF").id
out["file"] = get_hf_file_metadata(hf_hub_url("other/Qwen-0-GGUF", "a.gguf")).size
""",
    )
    assert out["qwen"] == [f"other/Qwen-{number}-GGUF" for number in (4, 3, 2, 1)]
    assert out["limit"] == ["test/tiny-GGUF"]
    assert [out["author"], out["tree"], out["moved"], out["file"]] == [6, 4, "other/Renamed-GGUF", 1]
    assert sum("cursor" in request.query for request in hub.log) >= 4
