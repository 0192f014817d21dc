"""What a seed means: the draws of one clip, and what becomes of the clip by them."""

from typing import NamedTuple

import numpy as np

from vivit_train.errors import UserError
from vivit_train.transforms.colors import Colors
from vivit_train.transforms.shrink import Resize

# What erasing leaves, of 0..255: 0 in the model's range [-1, 1].
MID_GRAY = 127.5
NO_BOX = (0, 0, 0, 0)


class Draws(NamedTuple):
    """One clip's random numbers, each uniform in [0, 1), in the order in which they are drawn.

    All are drawn whether used or not, so switching one augmentation off leaves the others as they
    were. New ones go at the end: then a seed keeps its meaning. RandAugment, the resized crop and
    random erasing draw from streams of their own, named after them.
    """

    height_scale: float
    width_scale: float
    top: float
    left: float
    flip: float
    color_jitter: float
    brightness: float
    saturation: float
    contrast: float
    hue: float
    grayscale: float


class Plan(NamedTuple):
    """What becomes of one clip.

    Attributes:
        resize: What is cut out of the frames, and to what size it is resized; ``None``: done.
        corner: Top and left of the crop in resized frames, in pixels.
        flip: Whether left and right change places.
        colors: The colour changes; RandAugment takes their place.
        erased: Top, left, height and width of the box that becomes grey; ``NO_BOX``: none.
        seed: Of the clip, for RandAugment.
    """

    resize: Resize | None
    corner: tuple[int, int]
    flip: bool
    colors: Colors
    erased: tuple[int, int, int, int]
    seed: int


def draw(seed: int) -> Draws:
    """The draws of a seed, 0 or more; anything below is a UserError."""
    if seed < 0:
        raise UserError(f"seeds must be 0 or more, not {seed}")
    return Draws(*np.random.Generator(np.random.PCG64(seed)).random(len(Draws._fields)).tolist())
