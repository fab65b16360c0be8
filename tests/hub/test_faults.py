"""Each fault of the test hub strikes where it was ordered, and only there."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.hub.server import FakeHub, Fault, Repo

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
    before = threading.active_count()
    with FakeHub() as hub:
        hub.add("o/m", {"a.gguf": DATA, "small.json": b"{}"})
        yield hub
    assert threading.active_count() == before


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return hub.repos["o/m"]


def get(url: str, start: int | None = None, method: str = "GET", patience: float = 5) -> Got:
    """One request on its own connection, without following redirects; whatever the end, what came before it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=patience)
    got, body = Got(0, {}, b"", "clean"), bytearray()
    try:
        headers = {} if start is None else {"Range": f"bytes={start}-"}
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        with connection.getresponse() as response:
            got.status, got.headers = response.status, dict(response.getheaders())
            while block := response.read1(1 << 16):
                body += block
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
    """A fresh signed address of the model."""
    return get(f"{hub.endpoint}/o/m/resolve/main/a.gguf", method="HEAD").headers["Location"]


@pytest.mark.parametrize("at", [0, HALF, SIZE - 1])
@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("close", "short"), ("stall", "silence")])
def test_a_break_comes_after_exactly_the_bytes_before_it(hub: FakeHub, kind: str, end: str, at: int) -> None:
    hub.faults.append(Fault(kind, at=at))
    got = get(file(hub), patience=0.3)
    assert (got.status, got.end, got.body == DATA[:at]) == (200, end, True)
    assert hub.requests("cdn")[0].sent == at
    again = get(file(hub), start=at)
    assert (again.status, again.end, again.body == DATA[at:]) == (206, "clean", True)


def test_a_fault_spares_requests_for_other_bytes(hub: FakeHub) -> None:
    hub.faults.append(Fault("reset", at=HALF))
    assert get(file(hub), start=HALF + 1).body == DATA[HALF + 1 :]
    assert hub.faults[0].struck == 0


def test_a_fault_spares_other_files_and_methods(hub: FakeHub) -> None:
    hub.faults += [Fault("status:503", path="b.gguf"), Fault("status:503", method="HEAD")]
    assert get(file(hub)).body == DATA
    assert get(file(hub), method="HEAD").status == 503


@pytest.mark.parametrize("kind", ["status:503", "status:429", "status:416", "html", "redirect", "full"])
def test_another_answer_waits_until_its_byte_is_next(hub: FakeHub, kind: str) -> None:
    hub.faults.append(Fault(kind, at=HALF, retry_after=3600))
    assert get(file(hub)).body == DATA[:HALF]
    got = get(file(hub), start=HALF)
    assert got.status == {"html": 200, "redirect": 302, "full": 200}.get(kind) or int(kind[7:])
    assert got.headers.get("Retry-After") == ("3600" if kind.startswith("status") else None)
    assert (got.body == DATA) == (kind == "full")
    assert get(file(hub), start=HALF).body == DATA[HALF:]


@pytest.mark.parametrize("at", [0, HALF, -1])
def test_bent_bodies_end_well_and_are_wrong(hub: FakeHub, at: int) -> None:
    hub.faults += [Fault(kind, at=at) for kind in ("truncated", "extra", "corrupt")]
    short, long, other = (get(file(hub)) for _ in range(3))
    place = at % SIZE
    assert {short.end, long.end, other.end} == {"clean"}
    assert short.body == DATA[:place]
    assert len(long.body) == SIZE + 1000
    assert [k for k in range(SIZE) if other.body[k] != DATA[k]] == [place]


def test_a_wrong_range_lies_about_its_start_or_its_total(hub: FakeHub) -> None:
    hub.faults += [Fault("wrong_range"), Fault("wrong_range", value="total")]
    said = [get(file(hub), start=10).headers["Content-Range"] for _ in range(3)]
    assert said == [f"bytes 9-{SIZE - 2}/{SIZE}", f"bytes 10-{SIZE - 1}/{SIZE + 1}", f"bytes 10-{SIZE - 1}/{SIZE}"]


def test_an_expired_address_stays_so_and_a_fresh_one_works(hub: FakeHub) -> None:
    old = file(hub)
    hub.faults.append(Fault("status:403", at=HALF))
    assert get(old).body == DATA[:HALF]
    assert [get(old, start=HALF).status for _ in range(2)] == [403, 403]
    assert get(file(hub), start=HALF).body == DATA[HALF:]


def test_digests_commits_and_names_lie_on_order(hub: FakeHub, repo: Repo) -> None:
    hub.faults += [Fault("hostile_etag", origin="hub"), Fault("hostile_commit", origin="hub")]
    etag, commit = (get(f"{hub.endpoint}/o/m/resolve/main/a.gguf").headers for _ in range(2))
    assert (etag["X-Linked-Etag"], etag["X-Repo-Commit"]) == ('"../../../../evil"', repo.head)
    assert (commit["X-Linked-Etag"][1:-1], commit["X-Repo-Commit"]) == (repo.files["a.gguf"].sha256, "../../x")
    hub.faults += [Fault(kind, api=True) for kind in ("hostile_etag", "hostile_commit", "hostile_path")]
    told = [json.loads(get(f"{hub.endpoint}/api/models/o/m?blobs=true").body) for _ in range(4)]
    assert told[0]["siblings"][0]["lfs"]["sha256"] == "../../../../evil"
    assert told[1]["sha"] == "../../x"
    assert [entry["rfilename"] for entry in told[2]["siblings"]][-2:] == ["/abs.gguf", "a\x1b[2J.gguf"]
    assert told[3]["sha"] == repo.head


def test_json_can_be_broken_and_endless(hub: FakeHub) -> None:
    hub.faults += [Fault("bad_json", api=True), Fault("huge_json", api=True)]
    with pytest.raises(json.JSONDecodeError):
        json.loads(get(f"{hub.endpoint}/api/models/o/m").body)
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=5)
    connection.request("GET", "/api/models/o/m")
    with connection.getresponse() as response:
        assert len(response.read(10_000_000)) == 10_000_000
    connection.close()


def test_a_redirect_leads_to_a_host_that_logs_what_it_gets(hub: FakeHub) -> None:
    hub.faults.append(Fault("redirect", origin="hub", times=None))
    assert get(file(hub)).status == 404
    hub.other_serves = b"evil"
    assert get(file(hub)).body == b"evil"
    assert [request.path for request in hub.requests("other")] == ["/o/m/resolve/main/a.gguf"] * 2


def test_nothing_passes_the_held_position_until_it_is_released(hub: FakeHub) -> None:
    hub.hold_at = HALF
    assert get(file(hub), patience=0.3).body == DATA[:HALF]
    assert hub.served == HALF
    waiting: list[Got] = []
    thread = threading.Thread(target=lambda: waiting.append(get(file(hub), start=HALF - 1)))
    thread.start()
    while hub.served < HALF + 1:
        time.sleep(0.005)
    hub.hold_at = None
    thread.join()
    assert waiting[0].body == DATA[HALF - 1 :]


def test_the_throttle_sets_the_pace(hub: FakeHub) -> None:
    hub.throttle = SIZE * 4
    start = time.monotonic()
    assert get(file(hub)).body == DATA
    assert 0.2 < time.monotonic() - start < 3


def test_headers_can_be_added_and_taken_away(hub: FakeHub) -> None:
    hub.extra_headers = {"X-Linked-Size": "1", "X-Repo-Commit": None}
    headers = get(f"{hub.endpoint}/o/m/resolve/main/a.gguf").headers
    assert (headers["X-Linked-Size"], "X-Repo-Commit" in headers) == ("1", False)


def test_three_clients_get_a_large_file_at_once(hub: FakeHub, tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(DATA * 200)
    hub.add("o/big", {"big.gguf": big})
    urls = [get(f"{hub.endpoint}/o/big/resolve/main/big.gguf").headers["Location"] for _ in range(3)]
    sizes: list[int] = []
    threads = [threading.Thread(target=lambda url=url: sizes.append(len(get(url).body))) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [len(DATA) * 200] * 3
    assert hub.served == sum(sizes)


def test_an_unknown_fault_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="no such fault: rest"):
        Fault("rest")
