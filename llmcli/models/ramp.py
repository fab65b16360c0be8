"""Would one more connection be faster? Found out by trying: add one, and go on as long as each one pays."""

WINDOW = 2.0  # seconds that a number of connections is watched
GAIN = 1.15  # times the speed before that a further one must bring
MOST = 8


class Ramp:
    """Asked again and again while a download runs; `now` is monotonic seconds, `done` bytes."""

    def __init__(self, now: float, done: int) -> None:
        self._begin, self._done = now, done
        self._best = 0.0
        self.settled = False

    def wants_more(self, now: float, done: int, connections: int) -> bool:
        """True when another connection should be tried now."""
        if self.settled or now - self._begin < WINDOW:
            return False
        speed = (done - self._done) / (now - self._begin)
        self._begin, self._done = now, done
        self.settled = connections >= MOST or speed < self._best * GAIN
        self._best = max(self._best, speed)
        return not self.settled and speed > 0
