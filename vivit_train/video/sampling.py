"""Which frames make a clip: pure functions from counts to frame numbers.

Windows follow the original's input pipeline (DMVR's ``sample_sequence`` and
``sample_linspace_sequence``): a window of ``clip_frames`` frames, ``frame_stride`` apart, that
loops where the video is too short.
"""

import numpy as np

from vivit_train.errors import UserError

FRAME_ORDERS = ("natural", "shuffled", "repeated")


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

    Raises:
        UserError: If a count is below 1.
    """
    _check_at_least_one(num_frames=num_frames, clip_frames=clip_frames, frame_stride=frame_stride)
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

    Raises:
        UserError: If a count is below 1.
    """
    _check_at_least_one(
        num_frames=num_frames,
        clip_frames=clip_frames,
        frame_stride=frame_stride,
        num_views=num_views,
    )
    last_offset = max(0, num_frames - clip_frames * frame_stride)
    if num_views == 1:
        offsets = np.array([last_offset // 2])
    else:
        # The original computes in float32, whose rounding decides some of the truncations.
        step = np.float32(last_offset) / np.float32(num_views - 1)
        offsets = (step * np.arange(num_views, dtype=np.float32)).astype(np.int64)
        offsets[-1] = last_offset
    strides = frame_stride * np.arange(clip_frames, dtype=np.int64)
    return (offsets[:, None] + strides) % num_frames  # [V, 1] + [T] -> [V, T]


def reorder(indices: np.ndarray, frame_order: str, rng: np.random.Generator) -> np.ndarray:
    """Take the motion out of a clip, to see what a data set owes to it.

    Args:
        indices: int64 [T], frame numbers.
        frame_order: ``natural`` leaves the clip as it is, ``shuffled`` permutes its frames (what
            moves remains, how is lost), ``repeated`` shows one of its frames throughout.
        rng: Draws the permutation or the frame; untouched by ``natural``.

    Returns:
        int64 [T].

    Raises:
        UserError: If ``frame_order`` is not one of the three.
    """
    if frame_order == "natural":
        return indices
    if frame_order == "shuffled":
        return rng.permutation(indices)
    if frame_order == "repeated":
        return np.full_like(indices, rng.choice(indices))
    raise UserError(
        f"frame_order={frame_order!r} does not exist; choose {' or '.join(FRAME_ORDERS)}"
    )


def _check_at_least_one(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")
