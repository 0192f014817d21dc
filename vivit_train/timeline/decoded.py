"""The clips of a film's windows, decoded in a process whose time and memory are limited."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_train.timeline.windows import Windows, clips, wanted
from vivit_train.transforms.shrink import Shrink
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.guard import DECODE_SECONDS, Failure
from vivit_train.video.stream import guarded_stream

# That are handed over at once: each way takes a fraction of a millisecond.
FRAMES_AT_ONCE = 16


class Film(NamedTuple):
    """A film that is being read.

    Attributes:
        windows: That slide over it.
        clips: Of each window uint8 ``[T, h, w, 3]``, in order. Each frame is decoded once.
        num_frames: Of the film.
    """

    windows: Windows
    clips: Iterator[np.ndarray]
    num_frames: int


@contextmanager
def decoded(
    path: str, window: float, every: float, clip_frames: int, shrink: Shrink
) -> Iterator[Film]:
    """Opens a film.

    Args:
        path: The file.
        window: Seconds of a window.
        every: Seconds from one window to the next.
        clip_frames: T of a clip.
        shrink: What is done to each frame first.

    Raises:
        DecodeError: If the film cannot be decoded, hangs or kills the decoder; also within, at the
            clip that needs the frame.
    """
    make = partial(_pieces, path, window, every, clip_frames, shrink)
    try:
        with closing(guarded_stream(make, DECODE_SECONDS)) as pieces:
            shown_at = next(pieces)[1].numpy()
            windows = Windows(float(shown_at[-1]), window, every)
            frames = (pair for numbers, some in pieces for pair in zip(numbers, some.numpy()))
            yield Film(windows, clips(frames, shown_at, windows, clip_frames), len(shown_at) - 1)
    except Failure as failure:
        raise DecoderLost(path, failure.reason) from None


def _pieces(
    path: str, window: float, every: float, clip_frames: int, shrink: Shrink
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """When frames are shown, float64 ``[N + 1]``; then frames uint8 ``[n, h, w, 3]``, numbered."""
    with VideoReader(path) as video:
        shown_at = video.shown_at
        yield (), torch.from_numpy(shown_at)
        windows = Windows(float(shown_at[-1]), window, every)
        frames = video.stream(wanted(shown_at, windows, clip_frames), shrink)
        held: list[tuple[int, np.ndarray]] = []
        try:
            for pair in frames:
                held.append(pair)
                if len(held) == FRAMES_AT_ONCE:
                    yield _together(held)
                    held = []
        except DecodeError:
            if held:  # what is before the damage is shown
                yield _together(held)
            raise
        if held:
            yield _together(held)


def _together(frames: list[tuple[int, np.ndarray]]) -> tuple[tuple[int, ...], Tensor]:
    numbers, pictures = zip(*frames)
    return numbers, torch.from_numpy(np.stack(pictures))
