"""Find the best number of connections: add one at a time, as long as each makes the download faster."""

WINDOW = 2.0  # seconds of one measurement
GAIN = 1.15  # minimal speed-up by one more connection
MOST = 8
FAST = 100e6  # bytes per second; above it this machine is the limit, and more connections only cost


class Ramp:
    """The number of connections of one download; `now` is in monotonic seconds, `done` in bytes."""

    def __init__(self, now: float, done: int, connections: int = 1) -> None:
        self.connections = connections  # the target
        self._start, self._done = now, done
        self._best = 0.0
        self._is_final = False

    def look(self, now: float, done: int) -> None:
        """Compare the speed of the last window with the best speed so far, and add a connection if it pays."""
        if self._is_final or now - self._start < WINDOW:
            return
        speed = (done - self._done) / (now - self._start)
        self._start, self._done = now, done
        self._is_final = self.connections >= MOST or speed < self._best * GAIN or speed > FAST
        self._best = max(self._best, speed)
        if not self._is_final and speed > 0:
            self.connections += 1
