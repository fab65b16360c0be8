"""The backend that is a Ray cluster: its driver gets the lines in blocks, and gives the answers in order."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, NetworkError, UsageError
from llmcli.params.settings import resolve
from llmcli.pipelines.batch import LineFeed
from llmcli.pipelines.batch_input import BatchLine
from llmcli.pipelines.batch_output import WrittenLine
from llmcli.pipelines.ray_actor import Block, BlockAnswers
from llmcli.pipelines.ray_driver import LOCAL, DriverPlan, Pipe, drive
from llmcli.pipelines.ray_placement import Placement
from llmcli.text import plural

# Releases of Ray: the first with a token, without which any user of a machine could give it work, and the first that
# takes no limit for the restarts of an actor: a line that ends its actor would be tried for ever.
OLDEST, TOO_NEW = (2, 52), (2, 64)
_PARTS = ("ray", "pyarrow")
_MOST_LINES, _BLOCKS_PER_ACTOR = 64, 4  # of a block; blocks that the cluster has at a time
_MOST_PENDING = 10_000  # parts of what is still to be written
_TICK = 0.1  # seconds
_END_SECONDS = 10.0  # for the end of the cluster


def check_ray(version_of: Callable[[str], str] = metadata.version) -> None:
    """Raise UsageError if Ray is not installed, too old or too new. Importing it for that would take seconds."""
    oldest, too_new = (".".join(map(str, release)) for release in (OLDEST, TOO_NEW))
    hint = f"install it: pip install 'ray[data]>={oldest},<{too_new}'"
    try:
        version, _ = (version_of(name) for name in _PARTS)
    except metadata.PackageNotFoundError as missing:
        raise UsageError(f"--ray needs Ray Data: the package {missing.name} is not installed", hint) from None
    if not OLDEST <= tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < TOO_NEW:
        raise UsageError(f"--ray needs Ray {oldest} or newer, below {too_new}, and {version} is installed", hint)


class RayCluster:
    """The backend. The cluster has a few blocks of lines for each actor at a time, however long the input is."""

    def __init__(
        self,
        plan: DriverPlan,
        cancellation: Cancellation,
        show_log: Callable[[str], None] = lambda _line: None,
        driver: Callable[[Pipe, DriverPlan], None] = drive,
    ) -> None:
        """`show_log` gets the lines of Ray's log at the end.

        `driver` is what runs in a process of its own, and stands between the batch and Ray.
        """
        self._plan, self._cancellation = plan, cancellation
        self._show_log, self._driver = show_log, driver
        self._placement: Placement | None = None
        # What is still to be written: so many lines that the cluster has, or one of an earlier run.
        self._pending: deque[int | WrittenLine] = deque()
        self._first: BatchLine | None = None  # of those that the cluster does not have yet
        self._n_open = 0  # blocks that the cluster has
        self._restarts: set[str] = set()
        self._notes: dict[str, None] = {}
        self.n_tokens = 0
        self.seed = resolve(plan.actor.layers).settings.seed or 0

    def notes(self) -> list[str]:
        return [*self._notes]

    def totals(self) -> list[str]:
        if not self._placement:
            return []
        each = f"{self._placement.num_cpus:g} CPU" + (", 1 GPU" if self._placement.num_gpus else "")
        return [f"Ray: {plural(self._placement.n_actors, 'actor')}, each with {each}"]

    def run(self, feed: LineFeed) -> None:
        """See `Backend`. Raises NetworkError if the cluster does not answer, or goes away."""
        first = feed.take(True)
        while isinstance(first, WrittenLine):
            feed.emit(first)
            first = feed.take(True)
        if first is None:
            return
        self._first = first
        if self._plan.address == LOCAL:
            feed.notify("starting a Ray cluster on this machine, for this command: about 10 seconds")
        with tempfile.TemporaryDirectory(prefix="llmcli-", ignore_cleanup_errors=True) as folder:
            log = Path(folder, "driver.log")
            log.touch()
            pipe, process = _start(self._driver, replace(self._plan, folder=folder, log=str(log)))
            patience = 0.0
            try:
                self._drive(pipe, feed)
                patience = 0.0 if self._cancellation.is_set() else _END_SECONDS
            except (EOFError, OSError):  # the driver has ended, as Ray ends it
                if not self._cancellation.is_set():
                    raise self._gone() from None
            finally:
                _end(pipe, process, patience)
                for line in log.read_text("utf-8", "replace").splitlines():
                    self._show_log(line)

    def _gone(self) -> NetworkError:
        where = "the local Ray cluster" if self._plan.address == LOCAL else "the Ray cluster"
        if not self._placement:
            return NetworkError(f"{where} went away before it began", "-vv shows the log of Ray")
        return NetworkError(f"{where} went away", "with --output, --resume goes on")

    def _drive(self, pipe: Pipe, feed: LineFeed) -> None:
        placement = self._receive(pipe, feed)
        if not isinstance(placement, Placement):
            return
        self._placement = placement
        n_each, n_actors = _MOST_LINES, placement.n_actors
        if self._plan.n_lines is not None:
            n_each = max(1, min(n_each, -(-self._plan.n_lines // (n_actors * _BLOCKS_PER_ACTOR))))
        feed.notify(f"{self.totals()[0]}; answers come up to {plural(n_each, 'line')} at a time")
        if placement.has_to_wait:
            feed.notify("the cluster is busy with something else: the actors wait for free CPUs")
        is_at_end = False
        while True:
            if not is_at_end:
                is_at_end = self._send(pipe, feed, n_each, n_actors * _BLOCKS_PER_ACTOR)
            found = self._receive(pipe, feed, is_at_end)
            if isinstance(found, BlockAnswers):
                self._end_block(feed, found)
            elif is_at_end or self._cancellation.is_set():
                return

    def _send(self, pipe: Pipe, feed: LineFeed, n_each: int, most: int) -> bool:
        """Send blocks of so many lines, until the cluster has `most` blocks; returns whether the input has ended."""
        while self._n_open < most:
            block = self._take(feed, n_each)
            may_be_end = not block and not self._n_open
            if self._cancellation.is_set() or not (block or may_be_end):
                return False
            with suppress(OSError):  # what the driver said before it ended is read next
                pipe.send(Block(block, feed.format) if block else None)
            if may_be_end:
                return True
            self._n_open += 1
        return False

    def _take(self, feed: LineFeed, n_each: int) -> list[BatchLine]:
        """The lines of the next block: as many as there are without a wait. Only where nothing is open, it waits."""
        block: list[BatchLine] = []
        while len(block) < n_each and len(self._pending) < _MOST_PENDING:
            is_idle = not block and not self._n_open
            line, self._first = self._first or feed.take(is_idle), None
            if line is None:
                break
            if isinstance(line, WrittenLine):
                self._pending.append(line)
                if is_idle:
                    self._write(feed)
                continue
            last = self._pending.pop() if self._pending else 0
            self._pending += [last + 1] if isinstance(last, int) else [last, 1]
            block.append(line)
        return block

    def _receive(self, pipe: Pipe, feed: LineFeed, may_wait: bool = True) -> Placement | BlockAnswers | None:
        """What the driver sends next; None at the end, after a cancellation, or without `may_wait` after a moment.

        Raises the error that it sends.
        """
        while not self._cancellation.is_set():
            if not pipe.poll(_TICK):
                feed.on_event()
                if not may_wait:
                    return None
                continue
            found: Placement | BlockAnswers | LlmcliError | None = pipe.recv()
            if isinstance(found, LlmcliError):
                raise found
            return found
        return None

    def _end_block(self, feed: LineFeed, found: BlockAnswers) -> None:
        if found.restart and found.restart not in self._restarts:
            self._restarts.add(found.restart)
            feed.notify("an actor ended and was started again: the lines that it had are answered again")
        if found.error:
            raise found.error
        self._n_open -= 1
        self.n_tokens += found.n_tokens
        self._notes |= dict.fromkeys(found.notes)
        self._write(feed, found)
        feed.on_event()

    def _write(self, feed: LineFeed, found: BlockAnswers | None = None) -> None:
        """Write the answers of a block, and the lines of earlier runs before and after them."""
        answers = deque(found.answers if found else ())
        while self._pending and (answers or isinstance(self._pending[0], WrittenLine)):
            first = self._pending.popleft()
            if isinstance(first, WrittenLine):
                feed.emit(first)
                continue
            feed.emit(answers.popleft())
            if first > 1:
                self._pending.appendleft(first - 1)


def _start(
    driver: Callable[[Pipe, DriverPlan], None], plan: DriverPlan
) -> tuple[Pipe, "multiprocessing.process.BaseProcess"]:
    """The driver, in a process of its own that Ctrl-C does not reach."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=driver, args=(other, plan), name="llmcli-ray")
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        process.start()
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
    other.close()
    return pipe, process


def _end(pipe: Pipe, process: "multiprocessing.process.BaseProcess", patience: float) -> None:
    """End the driver, and with it a local cluster; it has so many seconds to do that itself."""
    with suppress(OSError):
        pipe.close()
    process.join(patience)
    for end in (process.terminate, process.kill):
        if process.exitcode is None:
            end()
            process.join(_END_SECONDS)
    if process.pid and hasattr(os, "killpg"):
        with suppress(OSError):  # what a driver that was killed has left of a cluster
            os.killpg(process.pid, signal.SIGKILL)
    process.close()
