"""Tells whoever watches a decoding process which video it begins, and that it makes progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A video as `VideoReader` is asked for it: path, and segment if any.
Source = tuple[str, tuple[float, float] | None]
# Gets each video before it is opened, which it may refuse by raising; ``None`` for each step within
# a video: a packet that was listed, a frame that was decoded.
Watcher = Callable[[Source | None], None]

# Between two reports of a decoder that makes progress.
WORD_SECONDS = 1.0

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within, a watcher hears what is decoded in this process."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def begin(source: Source) -> None:
    """Says that a video, or its bytes in a shard, will be opened now."""
    for watcher in _watchers:
        watcher(source)


def go_on() -> None:
    """Says that the video at hand has got further."""
    for watcher in _watchers:
        watcher(None)


def now_and_then(tell: Callable[[Source | None], None]) -> Watcher:
    """A watcher that reports each video, and every second whether it makes progress."""
    at: Source | None = None
    told = float("-inf")

    def hear(source: Source | None) -> None:
        nonlocal at, told
        if source is not None or time.monotonic() - told > WORD_SECONDS:
            at, told = source or at, time.monotonic()
            tell(at)

    return hear
