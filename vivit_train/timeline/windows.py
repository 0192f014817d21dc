"""Windows that slide over a film, and the clip of each; every frame is decoded once at most."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np

from vivit_train.errors import UserError
from vivit_train.video.sampling import ROUNDING, frames_at

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "": 1.0}


def parse_seconds(option: str, text: str, is_zero_some: bool = False) -> float:
    """``2s``, ``0.5``, ``500ms`` or ``1min`` as seconds.

    Args:
        option: Its name, for the message.
        text: What was given.
        is_zero_some: Whether 0 is a time as well.

    Raises:
        UserError: If it is no time, or too short.
    """
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ms|s|min|)", text.strip())
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if seconds < 1e-3 and not (is_zero_some and found and not seconds):
        least = "1 ms or more, or 0" if is_zero_some else "1 ms or more"
        raise UserError(f"{option} {text}: expected a time of {least}, e.g. 2s or 500ms")
    return seconds


@dataclass(frozen=True)
class Windows:
    """Where windows lie in a film of some seconds; of a shorter film there is one, all of it.

    Attributes:
        duration: Seconds of the film; infinite where it has no end, and then no number of windows.
        window: Seconds of a window.
        every: Seconds from the beginning of a window to that of the next. The last window ends
            with the film, and so may begin earlier.
    """

    duration: float
    window: float
    every: float

    @property
    def seconds(self) -> float:
        """Of a window, at most those of the film."""
        return min(self.window, self.duration)

    def __len__(self) -> int:
        return ceil((self.duration - self.seconds) / self.every - ROUNDING) + 1

    def start(self, number: int) -> float:
        """When a window begins, in seconds."""
        return min(number * self.every, self.duration - self.seconds)

    def span(self, number: int) -> tuple[float, float]:
        """The seconds that a window speaks for: those of which its middle is the nearest.

        Together the spans are the film, without gaps and overlaps.
        """
        return self._border(number), self._border(number + 1)

    def _border(self, number: int) -> float:
        """Where the span of a window begins, and that of the one before it ends."""
        if number == 0:
            return 0.0
        if isfinite(self.duration) and number == len(self):
            return self.duration
        return (self.start(number - 1) + self.start(number) + self.seconds) / 2

    def moments(self, number: int, clip_frames: int) -> np.ndarray:
        """When the frames of a window's clip are shown: where its T equal parts begin.

        Returns:
            Float ``[T]``, seconds.
        """
        return self.start(number) + np.arange(clip_frames) * (self.seconds / clip_frames)


def wanted(shown_at: np.ndarray, windows: Windows, clip_frames: int) -> np.ndarray:
    """The frames of a film that windows need: int64 ``[N]``, ascending, each once.

    Args:
        shown_at: See `VideoReader`.
        windows: Over the film.
        clip_frames: T of a clip.
    """
    is_wanted = np.zeros(len(shown_at) - 1, bool)
    for number in range(len(windows)):
        is_wanted[frames_at(shown_at, windows.moments(number, clip_frames))] = True
    return np.flatnonzero(is_wanted)


def clips(
    frames: Iterator[tuple[int, np.ndarray]],
    shown_at: np.ndarray,
    windows: Windows,
    clip_frames: int,
) -> Iterator[np.ndarray]:
    """The clip of each window, in order: uint8 ``[T, h, w, 3]``.

    In memory are the frames of one window, and 8 bytes for each frame of the film.

    Args:
        frames: Numbers and frames, uint8 ``[h, w, 3]``: those `wanted`.
        shown_at: As for `wanted`, and so are the others.
        windows: Over the film.
        clip_frames: T of a clip.
    """
    held: dict[int, np.ndarray] = {}
    for number in range(len(windows)):
        indices = frames_at(shown_at, windows.moments(number, clip_frames)).tolist()
        held = {index: frame for index, frame in held.items() if index >= indices[0]}
        while indices[-1] not in held:
            index, frame = next(frames)
            if index >= indices[0]:
                held[index] = frame
        yield np.stack([held[index] for index in indices])
