"""What every transform expects of the frames that it is given."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_train.errors import UserError


def as_tensor(frames: Any) -> Tensor:
    """Frames as people hold them: a tensor, a NumPy array, or a list of either or of images.

    Raises:
        UserError: If they do not make one array, such as frames of several sizes.
    """
    if isinstance(frames, Tensor):
        return frames
    try:
        array = np.ascontiguousarray(frames)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            "frames must be a tensor, a NumPy array or a list of frames of one size, uint8 "
            f"[T, H, W, 3], not {type(frames).__name__} ({error})"
        ) from None


def check_frames(frames: Tensor, layout: str) -> None:
    """Check that frames are as decoders give them.

    Args:
        frames: What the caller passed.
        layout: The shape expected, channels last, like "[T, H, W, 3]".

    Raises:
        UserError: Another dtype, rank or channel order.
    """
    shape = list(frames.shape)
    if frames.dtype != torch.uint8:
        raise UserError(
            f"pixels must be uint8 0..255 in {layout}, not {frames.dtype} {shape}: "
            "pass frames as decoded, the processor does the scaling"
        )
    if len(shape) != layout.count(",") + 1:
        raise UserError(f"frames must be {layout}, not {shape} (rank {len(shape)})")
    if shape[-1] != 3:
        channels_first = shape[-3] == 3
        raise UserError(
            f"frames must be {layout} with the three RGB channels last, not {shape}"
            + (": move them with .movedim(-3, -1)" if channels_first else "")
        )
    if 0 in shape:
        raise UserError(f"frames must be {layout} with at least one pixel, not {shape}")
