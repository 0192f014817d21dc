"""The clips of a film's windows, decoded in a process whose time and memory are limited."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_train.timeline.still import Changes, Still
from vivit_train.timeline.windows import Windows, clips, wanted
from vivit_train.transforms.shrink import Shrink
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.guard import DECODE_SECONDS, Failure
from vivit_train.video.stream import guarded_stream

# That are handed over at once: each way takes a fraction of a millisecond.
FRAMES_AT_ONCE = 16
# The decoder works on while the model is at a batch, which is 8 clips of up to 16 new frames.
PIECES_AHEAD = 8
# Numbers of frames; the frames, uint8 [n, h, w, 3]; and the numbers of those until the last of
# them, wanted or not, at which the picture changed. The first piece of a film has the times.
Piece = tuple[tuple[int, ...], Tensor, tuple[int, ...]]


class Film(NamedTuple):
    """A film that is being read.

    Attributes:
        windows: That slide over it.
        clips: Of each window uint8 ``[T, h, w, 3]``, in order. Each frame is decoded once.
        num_frames: Of the film.
        still: When the picture stands still, as far as the clips have come.
    """

    windows: Windows
    clips: Iterator[np.ndarray]
    num_frames: int
    still: Still


@contextmanager
def decoded(
    path: str, window: float, every: float, clip_frames: int, shrink: Shrink, least: float = 0.0
) -> Iterator[Film]:
    """Opens a film.

    Args:
        path: The file.
        window: Seconds of a window.
        every: Seconds from one window to the next.
        clip_frames: T of a clip.
        shrink: What is done to each frame first.
        least: Seconds of a still picture, as for `Still`; 0: nobody looks for it.

    Raises:
        DecodeError: If the film cannot be decoded, hangs or kills the decoder; also within, at the
            clip that needs the frame.
    """
    make = partial(_pieces, path, window, every, clip_frames, shrink, least > 0)
    still = Still(least)
    try:
        with closing(guarded_stream(make, DECODE_SECONDS, PIECES_AHEAD)) as pieces:
            shown_at = next(pieces)[1].numpy()
            windows = Windows(float(shown_at[-1]), window, every)
            frames = _frames(pieces, shown_at, still)
            num_frames = len(shown_at) - 1
            yield Film(windows, clips(frames, shown_at, windows, clip_frames), num_frames, still)
    except Failure as failure:
        raise DecoderLost(path, failure.reason) from None


def _frames(
    pieces: Iterator[Piece], shown_at: np.ndarray, still: Still
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of pieces, when it is known whether the picture stood still until they go."""
    for numbers, frames, changes in pieces:
        for change in changes:
            still.change(float(shown_at[change]))
        still.last(float(shown_at[numbers[-1] + 1]))
        yield from zip(numbers, frames.numpy())


def _pieces(
    path: str, window: float, every: float, clip_frames: int, shrink: Shrink, looks: bool
) -> Iterator[Piece]:
    """When frames are shown, float64 ``[N + 1]``, and then the frames; see `Piece`."""
    changed: list[int] = []
    numbers, is_new = count(), Changes()

    def look(brightness: np.ndarray) -> None:
        number = next(numbers)
        if is_new(brightness):
            changed.append(number)

    with VideoReader(path) as video:
        shown_at = video.shown_at
        yield (), torch.from_numpy(shown_at), ()
        windows = Windows(float(shown_at[-1]), window, every)
        needed = wanted(shown_at, windows, clip_frames)
        frames = video.stream(needed, shrink, look if looks else None)
        held: list[tuple[int, np.ndarray]] = []
        try:
            for pair in frames:
                held.append(pair)
                if len(held) == FRAMES_AT_ONCE:
                    yield _together(held, changed)
                    held = []
        except DecodeError:
            if held:  # what is before the damage is shown
                yield _together(held, changed)
            raise
        if held:
            yield _together(held, changed)


def _together(frames: list[tuple[int, np.ndarray]], changed: list[int]) -> Piece:
    """A piece; its changes are taken out of ``changed``."""
    numbers, pictures = zip(*frames)
    changes = tuple(number for number in changed if number <= numbers[-1])
    del changed[: len(changes)]
    return numbers, torch.from_numpy(np.stack(pictures)), changes
