"""Would one more connection be faster? Found out by trying: add one, and go on as long as each one pays."""

WINDOW = 2.0  # seconds that a number of connections is watched
GAIN = 1.15  # times the speed before that a further one must bring
MOST = 8
FAST = 100e6  # bytes per second; above that this machine is the limit, and a second connection only costs


class Ramp:
    """Asked again and again while a download runs; `now` is monotonic seconds, `done` bytes."""

    def __init__(self, now: float, done: int, connections: int = 1) -> None:
        self.connections = connections  # how many there should be
        self._begin, self._done = now, done
        self._best = 0.0
        self._settled = False

    def look(self, now: float, done: int) -> None:
        """Compare the speed of the last window with the best before it."""
        if self._settled or now - self._begin < WINDOW:
            return
        speed = (done - self._done) / (now - self._begin)
        self._begin, self._done = now, done
        self._settled = self.connections >= MOST or speed < self._best * GAIN or speed > FAST
        self._best = max(self._best, speed)
        if not self._settled and speed > 0:
            self.connections += 1
