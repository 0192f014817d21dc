"""Time limits within one process: what runs over is left out, and the next thing begins."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """A limit was reached. Not an ``Exception``: a compiler catches those and wraps them."""


# Python drops an exception that comes within a weak reference's callback: then it comes again.
AGAIN_SECONDS = 2.0


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `OutOfTime` in the main thread once the time is over; an outer limit still holds.

    It comes as soon as Python runs again: not within one operation of a library.
    """
    outer, interval = signal.getitimer(signal.ITIMER_REAL)
    start = time.perf_counter()
    allowed = min(seconds, outer) if outer else seconds
    is_over = False

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_over:
            raise OutOfTime

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(allowed, 1e-3), AGAIN_SECONDS)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if outer:
            left = outer - (time.perf_counter() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)
