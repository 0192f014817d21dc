"""Which frames make a clip: pure functions from counts or moments to frame numbers.

Windows follow Scenic's input pipeline (DMVR's ``sample_sequence`` and
``sample_linspace_sequence``): a window of ``clip_frames`` frames, ``frame_stride`` apart, that
loops where the video is too short. Scenic's copy of Kinetics had been converted to one frame rate
before; with a rate in frames per second each video is read as if it had been.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Protocol

import numpy as np

from vivit_train.errors import UserError

FRAME_ORDERS = ("natural", "shuffled", "repeated")
SAMPLINGS = ("window", "whole")
# What says how far apart a window's frames are. Without any of them it is the published ViViTs'.
SPACINGS = ("frame_stride", "frame_rate", "clip_seconds")
PUBLISHED_STRIDE = 2
# Moments are quotients of seconds: their last digits are rounding. A millionth of a frame at most.
ROUNDING = 1e-7  # seconds


class Timed(Protocol):
    """A video as far as frames are chosen from it: see `VideoReader`."""

    @property
    def num_frames(self) -> int:
        """How many there are."""
        ...

    @property
    def shown_at(self) -> np.ndarray:
        """Float [num_frames + 1], seconds."""
        ...


class Array(NamedTuple):
    """One that is no file: see `Timed`."""

    num_frames: int
    shown_at: np.ndarray


@dataclass(frozen=True)
class Sampling:
    """How frames are taken from a video.

    Attributes:
        clip_frames: Frames T of a clip.
        frame_stride: Frames of the video from one frame of the clip to the next.
        frame_rate: In place of it, the clip's frames per second of the video.
        clip_seconds: In place of these, seconds of the video that a clip covers.
        sampling: ``window``: a part of the video, by exactly one of the three (none is a stride
            of 2). ``whole``: the frames are spread over the whole video, and none is given.
        frame_order: ``natural``, or one of the ablations ``shuffled`` and ``repeated``.
        decoder: One that `VideoReader` knows.

    Raises:
        UserError: If a value is out of range, or they contradict each other.
    """

    clip_frames: int
    frame_stride: int | None = None
    frame_rate: float | None = None
    clip_seconds: float | None = None
    sampling: str = "window"
    frame_order: str = "natural"
    decoder: str = "auto"

    def __post_init__(self) -> None:
        for name, choices in (("sampling", SAMPLINGS), ("frame_order", FRAME_ORDERS)):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"data.{name}={value!r} is not one of {', '.join(choices)}")
        spacing = {name: getattr(self, name) for name in SPACINGS}
        given = {name: value for name, value in spacing.items() if value is not None}
        for name, value in {"clip_frames": self.clip_frames, **given}.items():
            is_count = name in ("clip_frames", "frame_stride")
            if value < 1 if is_count else not value > 0:
                least = "1 or more" if is_count else "above 0"
                raise UserError(f"data.{name} must be {least}, got {value}")
        if len(given) > (self.sampling == "window"):
            words = " and ".join(f"data.{name}={value}" for name, value in given.items())
            if self.sampling == "whole":
                words += " with data.sampling=whole, which spreads a clip over the whole video"
            raise UserError(f"{words}: give only one of them")
        if self.sampling == "window" and not given:
            object.__setattr__(self, "frame_stride", PUBLISHED_STRIDE)

    @property
    def rate(self) -> float | None:
        """Frames of a clip per second of the video; ``None`` where time does not tell."""
        return self.frame_rate or (self.clip_seconds and self.clip_frames / self.clip_seconds)

    def seconds(self, video_rate: float | None) -> float | None:
        """Seconds of a video that a clip covers.

        Args:
            video_rate: The video's frames per second; ``None``: unknown.

        Returns:
            ``None`` where it is the whole video, or the rate would tell and is unknown.
        """
        if self.rate:
            return self.clip_frames / self.rate
        if self.frame_stride and video_rate:
            return self.clip_frames * self.frame_stride / video_rate
        return None

    def span(self, video_rate: float) -> float:
        """Frames of a video that a clip spans; of a shorter one it shows some more than once.

        Args:
            video_rate: The video's frames per second; 0: unknown, and then no video is too short
                for what is told by time.
        """
        if self.rate:
            return round(self.clip_frames / self.rate * video_rate, 6)
        return self.clip_frames * (self.frame_stride or 1)

    def contract(self) -> dict[str, Any]:
        """What a model that is trained so must be given again: plain values by name."""
        return {name: getattr(self, name) for name in ("clip_frames", *SPACINGS, "sampling")}

    def __str__(self) -> str:
        if self.sampling == "whole":
            return f"{self.clip_frames} frames, spread over the whole video"
        if self.clip_seconds:
            return f"{self.clip_frames} frames, spread over {self.clip_seconds:g} s"
        if self.frame_rate:
            return f"{self.clip_frames} frames, {self.frame_rate:g} per second"
        return f"{self.clip_frames} frames, {self.frame_stride} frames of the video apart"

    def draw(self, video: Timed, rng: np.random.Generator) -> np.ndarray:
        """Draw a training clip: int64 [T], frame numbers.

        Raises:
            DecodeError: If clips are taken by time, and the file has no times of its frames.
        """
        if self.frame_stride:
            return random_window(video.num_frames, self.clip_frames, self.frame_stride, rng)
        duration = float(video.shown_at[-1])
        if self.rate:
            seconds = random_moments(duration, self.clip_frames, self.rate, rng)
        else:
            seconds = random_parts(duration, self.clip_frames, rng)
        return frames_at(video.shown_at, seconds)

    def spread(self, video: Timed, num_views: int) -> np.ndarray:
        """The temporal views V of an evaluation: int64 [V, T], frame numbers.

        Raises:
            DecodeError: As for `draw`.
            UserError: If there is no view.
        """
        if num_views < 1:
            raise UserError(f"{num_views} temporal views: 1 or more are needed")
        if self.frame_stride:
            return spread_windows(video.num_frames, self.clip_frames, self.frame_stride, num_views)
        duration = float(video.shown_at[-1])
        if self.rate:
            seconds = spread_moments(duration, self.clip_frames, self.rate, num_views)
        else:
            seconds = spread_parts(duration, self.clip_frames, num_views)
        return frames_at(video.shown_at, seconds)


def random_window(
    num_frames: int, clip_frames: int, frame_stride: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw a training clip from a video.

    Args:
        num_frames: Length of the video.
        clip_frames: Length of the clip.
        frame_stride: Video frames from one frame of the clip to the next.
        rng: Draws the clip's first frame, uniformly among those from which the clip fits, or
            among all where it fits from none.

    Returns:
        int64 [clip_frames], frame numbers in [0, num_frames).
    """
    num_offsets = num_frames - (clip_frames - 1) * frame_stride
    offset = rng.integers(num_offsets if num_offsets > 0 else num_frames)
    return (offset + frame_stride * np.arange(clip_frames, dtype=np.int64)) % num_frames


def spread_windows(
    num_frames: int, clip_frames: int, frame_stride: int, num_views: int
) -> np.ndarray:
    """Spread an evaluation's temporal views over a video, from its start to its end.

    Args:
        num_frames: Length of the video.
        clip_frames: Length of each view.
        frame_stride: Video frames from one frame of a view to the next.
        num_views: Number of views; a single one is centred.

    Returns:
        int64 [num_views, clip_frames], frame numbers in [0, num_frames).
    """
    last_offset = max(0, num_frames - clip_frames * frame_stride)
    if num_views == 1:
        offsets = np.array([last_offset // 2])
    else:
        # Scenic computes in float32, whose rounding decides some of the truncations.
        step = np.float32(last_offset) / np.float32(num_views - 1)
        offsets = (step * np.arange(num_views, dtype=np.float32)).astype(np.int64)
        offsets[-1] = last_offset
    strides = frame_stride * np.arange(clip_frames, dtype=np.int64)
    return (offsets[:, None] + strides) % num_frames  # [V, 1] + [T] -> [V, T]


def frames_at(shown_at: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The frames that are on the screen at some moments.

    Args:
        shown_at: Float [N + 1], see `VideoReader`.
        seconds: Float, of any shape: moments from the video's beginning.

    Returns:
        int64 of the same shape, frame numbers in [0, N); beyond the ends the first or the last.
    """
    places = np.searchsorted(shown_at[:-1], seconds + ROUNDING, side="right") - 1
    return places.clip(min=0)


def random_moments(
    duration: float, clip_frames: int, frame_rate: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a training clip's moments: as `random_window`, with a start of any fraction.

    Args:
        duration: Length of the video in seconds, above 0.
        clip_frames: Length of the clip.
        frame_rate: Frames of the clip per second.
        rng: Draws the first moment.

    Returns:
        Float [clip_frames], seconds in [0, duration).
    """
    steps = np.arange(clip_frames) / frame_rate
    room = duration - steps[-1]
    if room > 0:
        return rng.random() * room + steps
    return (rng.random() * duration + steps) % duration


def spread_moments(
    duration: float, clip_frames: int, frame_rate: float, num_views: int
) -> np.ndarray:
    """Spread an evaluation's views over a video: `spread_windows` of the converted video.

    They begin at whole multiples of 1 / frame_rate, so that videos of one content and other rates
    are seen at the same moments, and at moments for which as many as possible have a frame.

    Returns:
        Float [num_views, clip_frames], seconds in [0, duration).
    """
    # To the nearest number: how long the last frame is shown, files tell least well.
    num_frames = max(1, ceil(duration * frame_rate - 0.5 - ROUNDING))
    return spread_windows(num_frames, clip_frames, 1, num_views) / frame_rate


def random_parts(duration: float, clip_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a training clip from the whole video: a moment in each of T equal parts.

    As Temporal Segment Networks do (arXiv 1608.00859), and most models for Something-Something.

    Returns:
        Float [clip_frames], seconds in [0, duration).
    """
    return (np.arange(clip_frames) + rng.random(clip_frames)) * (duration / clip_frames)


def spread_parts(duration: float, clip_frames: int, num_views: int) -> np.ndarray:
    """The views of the whole video: where its T equal parts begin, and 1/V, 2/V, ... later.

    At a constant rate the first view has the frames that transformers' video processors take:
    the numbers ``k * num_frames // clip_frames``.

    Returns:
        Float [num_views, clip_frames], seconds in [0, duration).
    """
    later = np.arange(num_views)[:, None] / num_views
    # [T] + [V, 1] -> [V, T]
    return (np.arange(clip_frames) + later) * (duration / clip_frames)


def reorder(indices: np.ndarray, frame_order: str, rng: np.random.Generator) -> np.ndarray:
    """Take the motion out of a clip, to measure how much a data set depends on it.

    Args:
        indices: int64 [T], frame numbers.
        frame_order: ``natural`` leaves the clip as it is, ``shuffled`` permutes its frames (what
            moves remains, how is lost), ``repeated`` shows one of its frames throughout.
        rng: Draws the permutation or the frame; untouched by ``natural``.

    Returns:
        int64 [T].
    """
    if frame_order == "natural":
        return indices
    if frame_order == "shuffled":
        return rng.permutation(indices)
    return np.full_like(indices, rng.choice(indices))
