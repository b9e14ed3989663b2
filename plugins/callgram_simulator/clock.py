"""The simulator's time, which a test may move: 48 hours pass at a word."""

import time


class Clock:
    """Real time plus what it was moved by. Only forwards; ``now`` is Unix time in seconds."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def now(self) -> float:
        return time.time() + self.shift_s

    def move(self, seconds: float) -> None:
        self.shift_s += max(seconds, 0.0)
