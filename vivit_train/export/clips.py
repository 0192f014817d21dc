"""Clips on which an export is compared with the checkpoint."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivit_train.classifier import Classifier
from vivit_train.data.demo_clips import CLASS_NAMES, render
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader


def demo_clips(classifier: Classifier) -> Tensor:
    """Two drawn clips, larger than what the processor resizes to.

    Returns:
        uint8 ``[2, T, H, W, 3]``.
    """
    height, width = classifier.model.arguments.frame_size
    if classifier.processor.output_size is not None:  # else they keep their size
        height, width = classifier.processor.resized_size(height, width)
        # A portrait crop would no longer fit into something wider.
        height, width = 5 * height // 4, 5 * width // (3 if width >= height else 4)
    rng = np.random.default_rng(0)
    drawn = [
        render(n, rng, classifier.sampling.clip_frames, height, width) for n in CLASS_NAMES[:2]
    ]
    return torch.from_numpy(np.stack(drawn))


def video_clips(classifier: Classifier, path: str | Path) -> Tensor:
    """Two clips of a video, from its start and its end, sampled as for the model.

    Returns:
        uint8 ``[2, T, H, W, 3]``.

    Raises:
        UserError: If the video cannot be decoded.
    """
    try:
        with VideoReader(path) as video:
            windows = classifier.sampling.spread(video, 2)
            frames = video.read(windows.ravel())
    except DecodeError as error:
        raise UserError(f"--video {error}") from error
    return torch.from_numpy(frames).unflatten(0, windows.shape)
