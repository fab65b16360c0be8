"""The contract of the fake Hub: a fault happens at the requested byte of the requested file, and nowhere else.

The tests of downloads use every kind of fault; these few checks prove that the fake itself is correct.
"""

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.hub.server import FakeHub, Fault, Repo
from tests.waiting import wait_until

DATA = bytes(range(251)) * 1024
SIZE, HALF = len(DATA), len(DATA) // 2


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes
    end: str


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    before = set(threading.enumerate())
    with FakeHub() as hub:
        hub.add("o/m", {"a.gguf": DATA, "small.json": b"{}"})
        yield hub
    assert set(threading.enumerate()) <= before  # a thread of an earlier test may end meanwhile


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return hub.repos["o/m"]


def get(url: str, start: int | None = None, method: str = "GET", silent_at: int = SIZE) -> Got:
    """One request on its own connection, without redirects: the response as far as it came.

    A response that should end with silence after so many bytes is waited for half a second from there on.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    got, body = Got(0, {}, b"", "clean"), bytearray()
    try:
        headers = {} if start is None else {"Range": f"bytes={start}-"}
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        with connection.getresponse() as response:
            got.status, got.headers = response.status, dict(response.getheaders())
            while block := response.read1(1 << 16):
                body += block
                if silent_at <= len(body) < SIZE and connection.sock:
                    connection.sock.settimeout(0.5)
            expected = int(response.headers.get("Content-Length", "0")) if method == "GET" else 0
            got.end = "clean" if len(body) == expected else "short"
    except TimeoutError:
        got.end = "silence"
    except (ConnectionError, http.client.HTTPException) as error:
        got.end = "reset" if isinstance(error, ConnectionResetError) and got.status else type(error).__name__
    finally:
        connection.close()
    got.body = bytes(body)
    return got


def file(hub: FakeHub) -> str:
    """A new signed URL of the model."""
    return get(f"{hub.endpoint}/o/m/resolve/main/a.gguf", method="HEAD").headers["Location"]


@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("close", "short"), ("stall", "silence")])
def test_fake_hub_breaks_the_connection_at_the_requested_byte(hub: FakeHub, kind: str, end: str) -> None:
    hub.faults += [Fault(kind, at=HALF), Fault("status:503", path="b.gguf")]
    got = get(file(hub), silent_at=HALF if kind == "stall" else SIZE)
    assert (got.status, got.end, got.body == DATA[:HALF]) == (200, end, True)
    assert hub.requests("cdn")[0].sent == HALF
    rest = get(file(hub), start=HALF)
    assert (rest.status, rest.end, rest.body == DATA[HALF:]) == (206, "clean", True)
    assert hub.faults[1].struck == 0


@pytest.mark.parametrize("kind", ["status:503", "status:429", "status:416", "html", "redirect", "full"])
def test_fake_hub_sends_another_response_at_the_requested_byte(hub: FakeHub, kind: str) -> None:
    hub.faults.append(Fault(kind, at=HALF, retry_after=3600))
    assert get(file(hub)).body == DATA[:HALF]
    got = get(file(hub), start=HALF)
    assert got.status == {"html": 200, "redirect": 302, "full": 200}.get(kind) or int(kind[7:])
    assert got.headers.get("Retry-After") == ("3600" if kind.startswith("status") else None)
    assert (got.body == DATA) == (kind == "full")
    assert get(file(hub), start=HALF).body == DATA[HALF:]


def test_fake_hub_sends_corrupted_body_with_correct_length(hub: FakeHub) -> None:
    hub.faults += [Fault(kind, at=HALF) for kind in ("truncated", "extra", "corrupt", "wrong_range")]
    short, long, other = (get(file(hub)) for _ in range(3))
    assert {short.end, long.end, other.end} == {"clean"}
    assert short.body == DATA[:HALF]
    assert len(long.body) == SIZE + 1000
    assert [k for k in range(SIZE) if other.body[k] != DATA[k]] == [HALF]
    assert get(file(hub), start=HALF).headers["Content-Range"] == f"bytes {HALF - 1}-{SIZE - 2}/{SIZE}"


def test_fake_hub_expires_a_signed_url(hub: FakeHub) -> None:
    old = file(hub)
    hub.faults.append(Fault("status:403", at=HALF))
    assert get(old).body == DATA[:HALF]
    assert [get(old, start=HALF).status for _ in range(2)] == [403, 403]
    assert get(file(hub), start=HALF).body == DATA[HALF:]


def test_fake_hub_lists_wrong_checksums_commits_and_paths(hub: FakeHub, repo: Repo) -> None:
    hub.faults += [Fault(kind, api=True) for kind in ("hostile_etag", "hostile_commit", "hostile_path", "bad_json")]
    etag, commit, path = (json.loads(get(f"{hub.endpoint}/api/models/o/m?blobs=true").body) for _ in range(3))
    assert etag["siblings"][0]["lfs"]["sha256"] == "../../../../evil"
    assert commit["sha"] == "../../x"
    assert [entry["rfilename"] for entry in path["siblings"]][-2:] == ["/abs.gguf", "a\x1b[2J.gguf"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(get(f"{hub.endpoint}/api/models/o/m").body)
    assert json.loads(get(f"{hub.endpoint}/api/models/o/m?blobs=true").body)["sha"] == repo.head


def test_fake_hub_stops_a_download_until_its_release(hub: FakeHub) -> None:
    hub.hold_at = HALF
    assert get(file(hub), silent_at=HALF).body == DATA[:HALF]
    assert hub.served == HALF
    spinner: list[Got] = []
    thread = threading.Thread(target=lambda: spinner.append(get(file(hub), start=HALF - 1)))
    thread.start()
    wait_until(lambda: hub.served > HALF)
    hub.hold_at = None
    thread.join()
    assert spinner[0].body == DATA[HALF - 1 :]


def test_fake_hub_refuses_an_unknown_fault() -> None:
    with pytest.raises(ValueError, match="no such fault: rest"):
        Fault("rest")
