"""One file for each library that decodes, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import ceil, inf
from typing import Protocol, SupportsFloat

import numpy as np

# What is done to a frame as soon as it is decoded: uint8 [H, W, 3] -> uint8 [h, w, 3].
OnFrame = Callable[[np.ndarray], np.ndarray]
# What looks at each frame that is decoded on the way: its brightness, uint8 [H, W].
OnLuma = Callable[[np.ndarray], object]


class Backend(Protocol):
    """One open video in one library; errors of any kind mean that it cannot be read."""

    num_frames: int
    fps: float
    promised: int

    @property
    def shown_at(self) -> np.ndarray | None:
        """See `VideoReader.shown_at`; ``None``: the file does not tell."""
        ...

    def __init__(
        self, path: str, segment: tuple[float, float] | None, data: bytes | None = None
    ) -> None: ...

    def read(self, wanted: list[int], on_frame: OnFrame) -> list[np.ndarray]:
        """Sorted, distinct, existing frames, of which only one is held as it was decoded."""
        ...

    def stream(self, wanted: list[int], look: OnLuma | None = None) -> Iterator[np.ndarray]:
        """The same frames one by one, each as it was decoded, without decoding any twice.

        ``look`` gets every frame up to the last one wanted, each before it is given.
        """
        ...

    def decode_all(self) -> Iterator[int]:
        """Decodes every frame in order; yields how many there have been."""
        ...

    def close(self) -> None:
        """Frees the decoder."""
        ...


class ByNumber(ABC):
    """What a `Backend` does whose library gives frames by number, as RGB."""

    num_frames: int

    @abstractmethod
    def _frame(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], upright."""

    def read(self, wanted: list[int], on_frame: OnFrame) -> list[np.ndarray]:
        """One after the other: a batch would hold them all as decoded."""
        return [on_frame(frame) for frame in self.stream(wanted)]

    def stream(self, wanted: list[int], look: OnLuma | None = None) -> Iterator[np.ndarray]:
        """One by one. Most of a colour's brightness is its green."""
        due = set(wanted)
        for index in range(wanted[-1] + 1) if wanted and look else wanted:
            frame = self._frame(index)
            if look:
                look(frame[..., 1])
            if index in due:
                yield frame

    def decode_all(self) -> Iterator[int]:
        """Yields how many have been decoded."""
        for index in range(self.num_frames):
            self._frame(index)
            yield index + 1


def span(start: float, end: float, fps: float, num_frames: int) -> tuple[int, int]:
    """First frame and number of frames of a segment, counted at a constant rate."""
    if not fps:
        raise ValueError("no frame rate, by which to find a segment")
    first, last = (ticks(seconds * fps) for seconds in (start, end))
    if start * fps >= num_frames:
        raise ValueError(f"no frame from {start:.2f} s on, where a segment should begin")
    last = min(max(1, last), num_frames)
    first = min(first, last - 1)  # where no frame is shown first, the one on display
    return first, last - first


def ticks(time: float) -> int:
    """The first whole tick at or after a time; a product's last digits are none of it."""
    return ceil(round(time, 4))


def known_rate(fps: SupportsFloat | None) -> float:
    """A frame rate, 0 where the container does not say: None, 0/0 and nan."""
    rate = float(fps or 0)
    return rate if 0 < rate < inf else 0.0
