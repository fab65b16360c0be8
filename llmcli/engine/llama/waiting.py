"""How the threads of a computation wait for one another where other programs need the processors too.

After each operation all threads wait for the last one. GNU's OpenMP (libgomp) lets them look for it for milliseconds
before they sleep, which is fastest while each thread has a processor of its own. Beside other programs the last one has
to wait for a processor, and those that look for it take the time away that it needs: an answer can take 20 times as
long. libgomp looks a hundred times only where it knows that processors are short: where its own threads are more than
they are (libgomp/config/linux/wait.h, `do_wait`). So while other programs compute, it gets a team that does nothing.

The results are the same either way: which thread computes what does not change.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from threading import Event, Lock, Thread
from time import monotonic, perf_counter, process_time, sleep

from llmcli.engine.llama import bindings

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # a user who sets one of them decides
# The share of the time that threads get a processor. Two cores, two threads, the starter: with 0.73 (two programs
# that need half of a core each) those that look are 1.35 times as fast, with 0.6 as fast, with 0.5 (two programs that
# need all they get, or the same command twice) those that sleep are 1.5 to 5 times as fast.
_LEAST, _ENOUGH = 0.6, 0.7
_WINDOW = 0.2  # seconds of computation for a share
_TRIAL = 0.03  # seconds in which threads look again, to see if they get the processors by now
_PAUSE, _LONGEST_PAUSE = 1.0, 8.0  # seconds between two trials: the first ones, and after many


class ThreadWaits:
    """Lets threads that wait sleep soon while others need the processors. One for all contexts of the process."""

    def __init__(self, hold_team: Callable[[int, Event], object]) -> None:
        self._hold_team = hold_team  # makes the threads more than the processors, until the event is set
        self._seconds = self._processor = 0.0  # of threads, in this window
        self._team_end: Event | None = None  # while waiting threads sleep soon
        self._pause, self._trial_at = _PAUSE, 0.0
        self._in_trial, self._changing = Lock(), Lock()

    def compute(self, n_threads: int, function: Callable[..., int], *args: object) -> int:
        """The result of a function that computes in so many threads. How often they get a processor is measured."""
        if self._team_end or self._in_trial.locked():
            is_due = monotonic() >= self._trial_at and self._in_trial.acquire(blocking=False)
            if is_due and not _start(self._try, n_threads):
                self._in_trial.release()
            return function(*args)
        start, processor = perf_counter(), process_time()
        result = function(*args)
        self._seconds += (perf_counter() - start) * n_threads
        self._processor += process_time() - processor
        if self._seconds > _WINDOW * n_threads:
            if self._processor < _LEAST * self._seconds:
                self._pause = _PAUSE
                self._sleep(n_threads)
            self._seconds = self._processor = 0.0
        return result

    def _sleep(self, n_threads: int) -> None:
        with self._changing:  # contexts of two models can ask for it at once: a second team would never end
            end = Event()
            if not self._team_end and _start(self._hold_team, n_threads, end):
                self._team_end, self._trial_at = end, monotonic() + self._pause

    def _try(self, n_threads: int) -> None:
        """Look again for a moment, in a thread: where others still compute, a computation may not end in it."""
        with self._changing:
            if self._team_end:
                self._team_end.set()
                self._team_end = None
        start, processor = perf_counter(), process_time()
        sleep(_TRIAL)
        if process_time() - processor < _ENOUGH * n_threads * (perf_counter() - start):
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._sleep(n_threads)
        self._in_trial.release()


def _start(function: Callable[..., object], *args: object) -> bool:
    """Run a function in a thread; False where the system has no more of them."""
    try:
        Thread(target=function, args=args, daemon=True).start()
    except RuntimeError:
        return False
    return True


@cache
def thread_waits() -> ThreadWaits | None:
    """What changes how threads wait in this process; None where they are not libgomp's, or where the user decides."""
    if any(name in os.environ for name in _VARIABLES):
        return None
    library = bindings.ggml()
    # LLVM's OpenMP has the functions of libgomp as well, and another rule.
    if not hasattr(library, "GOMP_parallel") or hasattr(library, "__kmpc_fork_call"):
        return None
    start, n_processors = library.GOMP_parallel, library.omp_get_num_procs
    start.restype, start.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    nothing = ctypes.cast(bindings.C_LIBRARY.free, ctypes.c_void_p)  # of no pointer: a C function without an effect

    def hold(n_threads: int, end: Event) -> None:
        # The team of a thread stays until the thread ends. libgomp ends the process if it gets no thread: so few.
        start(nothing, None, max(n_processors() - n_threads, 0) + 2, 0)
        end.wait()

    return ThreadWaits(hold)
