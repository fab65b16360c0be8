"""Every fault of the Hub in every state: the right file, or an error and nothing published; then a pull that works."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmcli.errors import ExitStatus, LlmcliError
from llmcli.models.download import http
from tests.hub.server import FakeHub, Fault, Request
from tests.models.pulls import FILE, MIB, REPO, Pulls, be_quick, digest_of, end_session, sha256, some_bytes

DATA = some_bytes(3 * MIB + 4321)
SIZE = len(DATA)
BEGUN = SIZE // 3  # bytes of a partial file
OK, DENIED, MISSING = ExitStatus.OK, ExitStatus.NOT_ALLOWED, ExitStatus.MODEL_NOT_FOUND
NETWORK, INVALID = ExitStatus.NETWORK, ExitStatus.MODEL_INVALID

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A kind of fault, and how a pull ends that meets it once, and always."""

    kind: str
    once: ExitStatus = OK
    always: ExitStatus = NETWORK
    more: Mapping[str, str | bytes | int] = field(default_factory=dict)

    def fault(self, times: int | None, origin: str, at: int | None) -> Fault:
        where = {"origin": "cdn" if origin == "cdn" else "hub", "api": origin == "api"}
        return Fault(self.kind, at=at, times=times, **where, **self.more)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "-".join([self.kind, *(str(value)[:9] for value in self.more.values())]).replace("/", "")


SILENT = [Case("stall"), Case("slow_headers")]
BREAKS = [Case("reset"), Case("close"), *SILENT]
BUSY = [Case(f"status:{status}") for status in (408, 429, 500, 503)]
LONG_BUSY = Case("status:429", NETWORK, more={"retry_after": 3600})
CDN = [
    *BREAKS,
    *BUSY,
    LONG_BUSY,
    Case("status:403"),  # the signed address has expired
    Case("status:416"),
    Case("status:404"),
    Case("unauthorized"),
    Case("gated"),
    Case("wrong_range"),
    Case("wrong_range", more={"value": "total"}),
    Case("truncated"),
    Case("redirect"),
    Case("html"),
    Case("html", more={"body": DATA}),
    Case("full", always=OK),
    Case("etag", always=OK),  # the storage's own; the hub's is what counts
    Case("hostile_etag", always=OK),
    Case("corrupt", always=INVALID),
    Case("extra", always=INVALID),
]
HUB = [
    *BREAKS,
    *BUSY,
    LONG_BUSY,
    Case("status:416"),
    Case("status:403", DENIED, DENIED),
    Case("status:404", MISSING, MISSING),
    Case("status:400", NETWORK),
    Case("unauthorized", DENIED, DENIED),
    Case("gated", DENIED, DENIED),
    Case("etag", NETWORK),
    Case("hostile_etag", NETWORK),
    Case("hostile_commit", NETWORK),
    Case("redirect"),
    Case("redirect", NETWORK, more={"value": "ftp://127.0.0.1/a"}),
    Case("html"),
]
API = [
    *BREAKS,
    *BUSY,
    LONG_BUSY,
    Case("status:416", NETWORK),
    Case("status:403", DENIED, DENIED),
    Case("status:404", MISSING, MISSING),
    Case("unauthorized", DENIED, DENIED),
    Case("gated", DENIED, DENIED),
    Case("etag", NETWORK),
    Case("hostile_etag", always=OK),  # a checksum that is not valid is asked for in another way
    Case("hostile_commit", NETWORK),
    Case("hostile_path", always=OK),
    Case("redirect", NETWORK),
    Case("html", NETWORK),
    Case("bad_json", NETWORK),
    Case("bad_json", NETWORK, more={"body": b"[" * 99999}),
    Case("huge_json", NETWORK),
    Case("truncated", NETWORK),
    Case("extra", NETWORK),
]


# What always fails fails in the same way each time, so that not every place is tried with it from every start.
FRESH = [(1, "fresh", "first"), (1, "fresh", "middle"), (1, "fresh", "last")]
PARTIAL = [(1, "partial", "first"), (1, "partial", "middle"), (1, "partial", "last")]
STORAGE_SPOTS = [*FRESH, *PARTIAL, (None, "fresh", "first"), (None, "partial", "middle"), (None, "fresh", "last")]
HUB_SPOTS = [*FRESH[:2], PARTIAL[0], PARTIAL[2], (None, "fresh", "first"), (None, "partial", "last")]
API_SPOTS = [(1, "fresh"), (None, "partial")]


def as_id(value: object) -> str:
    return {1: "once", None: "always"}.get(value, str(value))  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def one_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(REPO, {FILE: DATA})
        yield hub
        end_session()


@pytest.fixture
def hub(one_hub: FakeHub) -> Iterator[FakeHub]:
    yield one_hub
    one_hub.faults.clear()
    one_hub.log.clear()
    one_hub.extra_headers = {}


@pytest.fixture
def pulls(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    be_quick(monkeypatch)
    yield Pulls(hub, tmp_path)
    for blob in tmp_path.glob("hf/hub/*/blobs/*"):
        blob.unlink()  # the matrix would leave a gigabyte behind


def begin(pulls: Pulls, start: str, where: str = "first") -> int:
    """Begin as ordered; gives the place of the first, the middle or the last of the bytes that are missing then."""
    missing = BEGUN if start == "partial" else 0
    if missing:
        pulls.begin(DATA[:missing], DATA)
    return {"first": missing, "middle": (missing + SIZE) // 2, "last": SIZE - 1}[where]


def check(pulls: Pulls, case: Case, times: int | None, fault: Fault) -> None:
    """One pull, judged by what it published; then one without faults."""
    since, path, status = time.monotonic(), None, OK
    # One try of what is silent, or eight; longer ones where the machine made a healthy answer wait as long.
    for seconds in (0.1, 1.0, 10.0) if times else (0.04, 0.4, 4.0):
        with pytest.MonkeyPatch.context() as silence:
            if case in SILENT:
                silence.setattr(http, "STALL_SECONDS", seconds)
            try:
                path, status = pulls.pull(), OK
            except LlmcliError as error:
                status = error.status
        if case not in SILENT or (fault.struck and status == (case.once if times else case.always)):
            break
    assert status == (case.once if times else case.always)
    assert time.monotonic() - since < 50  # less than one wait for a silent server, or for one that asks for a minute
    assert pulls.outside() == []
    if path is None:
        assert pulls.published() == []
    else:
        assert_right(pulls, path)
    pulls.hub.faults.clear()
    assert_right(pulls, pulls.pull())


def assert_right(pulls: Pulls, path: Path) -> None:
    digest, commit = digest_of(DATA), pulls.hub.repos[REPO].head
    assert sha256(path) == digest
    assert pulls.published() == [f"blobs/{digest}", "refs/main", f"snapshots/{commit}/{FILE}"]
    assert not [path for path in pulls.partials() if path.name.startswith(digest)]
    assert pulls.outside() == []


@pytest.mark.parametrize(("times", "start", "where"), STORAGE_SPOTS, ids=as_id)
@pytest.mark.parametrize("case", CDN, ids=str)
def test_a_fault_of_the_storage(pulls: Pulls, case: Case, times: int | None, start: str, where: str) -> None:
    fault = case.fault(times, "cdn", begin(pulls, start, where))
    pulls.hub.faults.append(fault)
    check(pulls, case, times, fault)
    assert fault.struck


@pytest.mark.parametrize(("times", "start", "where"), HUB_SPOTS, ids=as_id)
@pytest.mark.parametrize("case", HUB, ids=str)
def test_a_fault_of_the_hub(pulls: Pulls, case: Case, times: int | None, start: str, where: str) -> None:
    """The hub is asked for the address of the file at its first byte, and again when that has expired."""
    fault, at = case.fault(times, "hub", None), begin(pulls, start, where)
    if where == "first":
        pulls.hub.faults.append(fault)
    else:
        pulls.hub.faults.append(Fault("status:403", at=at))
        pulls.hub.extra_headers = order_later(pulls.hub, fault)
    check(pulls, case, times, fault)
    assert fault.struck


def order_later(hub: FakeHub, fault: Fault) -> Callable[[Request], Mapping[str, str | None]]:
    """Orders a fault as soon as the address of a file has been given once."""

    def answered(request: Request) -> Mapping[str, str | None]:
        if "resolve" in request.parts:
            hub.extra_headers = {}
            hub.faults.append(fault)
        return {}

    return answered


@pytest.mark.parametrize(("times", "start"), API_SPOTS, ids=as_id)
@pytest.mark.parametrize("case", API, ids=str)
def test_a_fault_of_the_listing(pulls: Pulls, case: Case, times: int | None, start: str) -> None:
    begin(pulls, start)
    fault = case.fault(times, "api", None)
    pulls.hub.faults.append(fault)
    check(pulls, case, times, fault)
    assert fault.struck


@pytest.mark.parametrize("at", [0, 300, -1])
@pytest.mark.parametrize("case", BREAKS[:3], ids=str)
def test_a_listing_that_breaks_in_its_middle(pulls: Pulls, case: Case, at: int) -> None:
    fault = case.fault(1, "api", at)
    pulls.hub.faults.append(fault)
    check(pulls, case, 1, fault)
