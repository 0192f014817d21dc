"""Resize large frames where they are decoded, one by one, instead of with all others later."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from vivit_train.transforms.processor import Processor

# Frames of 256x340 are never shrunk: their resize stays on the device. Beyond four times the
# pixels that are left, i.e. about 512x680, memory and transfers cost more than resizing here: 32
# frames of 3840x2160 are 800 MB, of which 256x455 leave 11 MB.
LARGE = 4


class Resize(NamedTuple):
    """A box of a frame, and the height and width that it is resized to; all in pixels."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]


class Shrink:
    """Resizes the frames of one clip, if they are large, to the bit as it is done on a CPU later.

    Args:
        processor: Resizes.
        choose: From a frame's height and width, what is to become of it.
        large: A frame of more pixels than this many times those that are left is large.

    Attributes:
        shrunk: Whether it did: the clip must then not be resized again.
    """

    def __init__(
        self,
        processor: Processor,
        choose: Callable[[int, int], Resize],
        large: float = LARGE,
    ) -> None:
        self.processor = processor
        self.choose = choose
        self.large = large
        self.shrunk = False
        self._chosen: dict[tuple[int, int], Resize] = {}

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 ``[H, W, 3]`` -> ``[h, w, 3]``, or as it is where it is not large."""
        height, width = frame.shape[:2]
        if (height, width) not in self._chosen:
            self._chosen[height, width] = self.choose(height, width)
        top, left, box_height, box_width, size = self._chosen[height, width]
        if height * width <= self.large * size[0] * size[1]:
            return frame
        self.shrunk = True
        # A rotated frame lies backwards in memory, which torch does not take.
        box = np.ascontiguousarray(frame[top : top + box_height, left : left + box_width])
        images = self.processor.resize(torch.from_numpy(box)[None, None], size)  # [1, 1, 3, h, w]
        return images[0, 0].movedim(0, -1).numpy()


def for_evaluation(processor: Processor, large: float = LARGE) -> Shrink:
    """What the processor does to a frame before it crops; done again, it changes nothing.

    Args:
        processor: Resizes.
        large: As for `Shrink`. With 1 all frames are resized that get smaller by it.
    """

    def choose(height: int, width: int) -> Resize:
        return Resize(0, 0, height, width, processor.resized_size(height, width))

    return Shrink(processor, choose, large)
