"""The one resize of frames: for the processor on every device, and in the graphs of an export."""

import torch.nn.functional as F
from torch import Tensor, uint8


def resize(images: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """Resize images as Pillow does: along the rows, then the columns, each rounded to 8 bits.

    Bilinear and bicubic average where they shrink (antialiasing). They differ from Pillow by at
    most one grey level (bicubic two) in at most 5 % of the values of a video: on a CPU weights have
    16 bits (Pillow's have 22), elsewhere they are floats, and fewer than one value in 10,000 is two
    levels off. Two exceptions: nearest may take the other of two pixels that are equally near. Of
    frames that lose more than twice as many rows as columns, Pillow 13 resizes the columns first:
    more values then differ, with bicubic some by tens of levels.

    Args:
        images: uint8 [N, 3, H, W]; on a CPU channels last in memory are fastest.
        size: (height, width) in pixels.
        resample: "nearest", "bilinear" or "bicubic".

    Returns:
        uint8 [N, 3, height, width].
    """
    if resample == "nearest":
        # At pixel centres, like Pillow's. Torch's plain "nearest" is OpenCV's: it shifts.
        return F.interpolate(images, size, mode="nearest-exact")
    if images.device.type == "cpu":
        return F.interpolate(images, size, mode=resample, antialias=True)
    # Only CPUs average bytes.
    rows = in_floats(images, (images.shape[-2], size[1]), resample)
    return in_floats(rows, size, resample)


def in_floats(images: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """One pass of ``resize`` on devices without a kernel for bytes."""
    resized = F.interpolate(images.float(), size, mode=resample, antialias=True)
    # Halves up as in Pillow; bicubic overshoots.
    return resized.add_(0.5).floor_().clamp_(0, 255).to(uint8)
