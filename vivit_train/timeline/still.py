"""When the picture of a film stands still: a classifier of motions has nothing to say of it.

The definition is that of FFmpeg's filter ``freezedetect``: a picture stands still for as long as
no later one differs from it by more than noise on average. Here no block of it may differ much
either: so a small thing that moves is seen in a large scene.
"""

from collections import deque
from collections.abc import Iterator
from math import inf

import numpy as np
from PIL import Image, ImageChops

from vivit_train.video.sampling import ROUNDING

# Seconds of a still picture that get no class, unless told otherwise.
LEAST_SECONDS = 0.5
# Grey levels of 255 by which the picture may differ on average, and any block of it, rounded. As
# measured: while x264 refines a still picture, at crf 12 to 28, blocks differ by up to 4.4 and the
# picture by 0.2. With a camera's noise of 2 levels the picture and all blocks differ by 2.3.
NOISE, BLOCK_NOISE = 1.0, 4
BLOCK = 8  # samples along a side
SAMPLES = 160  # along the shorter side of a picture, about; all pixels of a smaller one
LINES = 8  # of so many lines one is in the average


class Changes:
    """Tells of pictures that come in order which ones differ from the last one that did."""

    def __init__(self) -> None:
        self._reference: np.ndarray | None = None

    def __call__(self, brightness: np.ndarray) -> bool:
        """Whether a picture differs, uint8 ``[H, W]``; the first one does."""
        step = max(1, round(min(brightness.shape) / SAMPLES))
        # A copy: the frame's memory is the decoder's. Columns are left out only where they must be:
        # that takes longer than to compare a few lines, which tells of most pictures that move.
        picture = brightness[::step].copy()
        reference = self._reference
        if reference is not None and reference.shape == picture.shape:
            lines, before = picture[::LINES], reference[::LINES]
            is_near = (np.maximum(lines, before) - np.minimum(lines, before)).mean() <= NOISE
            if is_near and _largest(picture[:, ::step], reference[:, ::step]) <= BLOCK_NOISE:
                return False
        self._reference = picture
        return True


def _largest(picture: np.ndarray, reference: np.ndarray) -> int:
    """The largest mean difference of a block, rounded; blocks at the edges may be smaller."""
    change = ImageChops.difference(Image.fromarray(picture), Image.fromarray(reference))
    return int(np.asarray(change.reduce(BLOCK)).max())


class Still:
    """The spans in which the picture stands still, as they become known.

    Args:
        least: Seconds that such a span lasts at least; 0: there is none.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self._ended: deque[tuple[float, float]] = deque()
        self._since = self._until = 0.0  # the picture that is shown now
        self._seconds = 0.0  # of spans that have ended

    def change(self, at: float) -> None:
        """Another picture is shown from now on."""
        if self._lasts(self._since, at):
            self._ended.append((self._since, at))
            self._seconds += at - self._since
        self._since = self._until = at

    def last(self, until: float) -> None:
        """The picture is shown until then at least."""
        self._until = until

    def forget(self, before: float) -> None:
        """Nobody will ask for what was before."""
        while self._ended and self._ended[0][1] <= before:
            self._ended.popleft()

    def _lasts(self, start: float, end: float) -> bool:
        return self.least > 0 and end - start >= self.least - ROUNDING

    @property
    def known(self) -> float:
        """Until when it is known whether the picture stands still."""
        if not self.least:
            return inf
        return self._until if self._lasts(self._since, self._until) else self._since

    @property
    def seconds(self) -> float:
        """Of all spans so far."""
        now = self._until - self._since
        return self._seconds + (now if self._lasts(self._since, self._until) else 0.0)

    def parts(self, start: float, end: float) -> Iterator[tuple[float, float, bool]]:
        """A span, cut where the picture begins to stand still, and where it moves again.

        A picture that stands still now is taken to go on.

        Yields:
            Where a part begins and ends, and whether the picture stands still in it.
        """
        now = [(self._since, inf)] if self._lasts(self._since, self._until) else []
        at = start
        for first, last in (*self._ended, *now):
            first, last = max(first, at), min(last, end)
            if last - first <= ROUNDING:
                continue
            if first - at > ROUNDING:
                yield at, first, False
            yield first, last, True
            at = last
        if end - at > ROUNDING:
            yield at, end, False

    def covers(self, start: float, end: float) -> bool:
        """Whether the picture stands still all the time, as far as it is known."""
        return all(is_still for *_, is_still in self.parts(start, end))
