"""Colour changes of training clips: what each clip gets, and the same done with torchvision."""

from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor


class Colors(NamedTuple):
    """The colour changes of one clip, for pixels in 0..1.

    Attributes:
        jitter: Whether the next four are done, in this order.
        brightness: Added to all pixels.
        saturation: Factor of the difference from the grey image.
        contrast: Factor of the difference from the mean grey of each frame.
        hue: Rotation of the hue, in turns.
        gray: Whether colour is dropped after them.
    """

    jitter: bool
    brightness: float
    saturation: float
    contrast: float
    hue: float
    gray: bool


def recolor(images: Tensor, colors: Colors) -> Tensor:
    """Change the colours of a clip with torchvision's functions.

    Args:
        images: uint8 ``[..., 3, h, w]``.
        colors: What to do.

    Returns:
        The images where nothing is to do, else float32 with values in 0..255, of the same shape.
    """
    if not (colors.jitter or colors.gray):
        return images
    images = images.to(torch.float32, memory_format=torch.contiguous_format) / 255
    if colors.jitter:
        images = (images + colors.brightness).clamp_(0, 1)
        images = F.adjust_saturation(images, colors.saturation)
        images = F.adjust_contrast(images, colors.contrast)
        if colors.hue:  # on a CPU it takes several times as long as the rest together
            images = F.adjust_hue(images, colors.hue)
    if colors.gray:
        images = F.rgb_to_grayscale(images, num_output_channels=3)
    return images * 255
