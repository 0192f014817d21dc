"""Training transforms on the device: scale jitter, crop, flip and colour, alike in all frames."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.transforms.processor import Processor, check_frames


class Draws(NamedTuple):
    """One clip's random numbers, each uniform in [0, 1), in the order in which they are drawn.

    All are drawn whether used or not, so switching one augmentation off leaves the others as they
    were. New ones go at the end: then a seed keeps its meaning.
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


class Augment(nn.Module):
    """Augment clips, every frame of a clip alike, and bring them into the model's order and range.

    The defaults are the original's for Kinetics (ViViT, Table 7; DMVR ``scale_jitter_augm`` and
    ``color_default_augm``): shortest edge to ``processor.size`` times independent factors for
    height and width, random crop, flip, then brightness, saturation, contrast and hue in this
    order, then grayscale. What a clip gets depends on its seed alone. With everything off the
    result is the processor's.

    Differences from the original: the two resizes are one, antialiased. Brightness adds as there;
    saturation, contrast and hue are torchvision's, which blend with the grey image and the grey
    mean of each frame (TensorFlow scales HSV's saturation, and contrasts about the mean of each
    channel) and clip after every step rather than at the end.

    Args:
        processor: Gives size, crop and scaling. Its output must be of one size.
        scale_jitter: Range of the factors by which height and width are stretched, or None.
        random_crop: Whether to crop anywhere rather than in the centre.
        horizontal_flip: Probability of a flip. Set 0 where left and right matter.
        color_jitter: Probability of the four colour changes together.
        brightness: Largest change added to pixels, as a fraction of white.
        contrast: Largest change of the contrast factor from 1.
        saturation: Largest change of the saturation factor from 1.
        hue: Largest rotation of the hue, in turns, up to 0.5.
        grayscale: Probability of dropping colour (three equal channels remain).
        mixup: Alpha of the Beta distribution from which a batch's share is drawn; 0: off. It mixes
            the clips of a batch and their labels, so the DataModule does it, after all else.

    Raises:
        UserError: A value outside its range, or a processor whose output sizes vary.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        scale_jitter: Sequence[float] | None = (0.9, 1.33),
        random_crop: bool = True,
        horizontal_flip: float = 0.5,
        color_jitter: float = 0.8,
        brightness: float = 32 / 255,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.2,
        grayscale: float = 0.1,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        if processor.output_size is None:
            raise UserError(
                "clips of one batch need one size: set do_center_crop=True, "
                "or size=(height, width), in the processor"
            )
        if scale_jitter is not None and not (
            len(scale_jitter) == 2 and 0 < scale_jitter[0] <= scale_jitter[1]
        ):
            raise UserError(
                "scale_jitter must be (smallest, largest) with 0 < smallest <= largest, or None, "
                f"not {scale_jitter}"
            )
        upper_limits = {
            "horizontal_flip": (horizontal_flip, 1),
            "color_jitter": (color_jitter, 1),
            "brightness": (brightness, 1),
            "contrast": (contrast, 1),
            "saturation": (saturation, 1),
            "hue": (hue, 0.5),
            "grayscale": (grayscale, 1),
        }
        for name, (value, limit) in upper_limits.items():
            if not 0 <= value <= limit:
                raise UserError(f"{name} must be between 0 and {limit}, not {value}")
        if mixup < 0:
            raise UserError(f"mixup must be 0 (off) or more, e.g. 0.3, not {mixup}")

        self.processor = processor
        self.scale_jitter = None if scale_jitter is None else tuple(scale_jitter)
        self.random_crop = random_crop
        self.horizontal_flip = horizontal_flip
        self.color_jitter = color_jitter
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.grayscale = grayscale
        self.mixup = mixup

    def forward(self, frames: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
        """Augment a batch.

        Args:
            frames: B clips, each uint8 [T, H, W, 3]; H and W may differ between clips.
            seeds: One for each clip, 0 or more.

        Returns:
            float32 [B, 3, T, h, w] with values in ``processor.value_range``.

        Raises:
            UserError: No clips, clips of another type or shape, of different lengths, smaller than
                the crop once resized, or another number of seeds than of clips.
        """
        if len(frames) != len(seeds):
            raise UserError(f"every clip needs its seed: {len(frames)} clips, {len(seeds)} seeds")
        for clip in frames:
            check_frames(clip, "[T, H, W, 3]")
        lengths = sorted({len(clip) for clip in frames})
        if len(lengths) != 1:
            raise UserError(f"a batch needs clips with one number of frames, not {lengths}")
        return torch.cat([self._augment(clip, _draw(seed)) for clip, seed in zip(frames, seeds)])

    def _augment(self, clip: Tensor, draws: Draws) -> Tensor:
        """uint8 [T, H, W, 3] -> float32 [1, 3, T, h, w]."""
        images = self.processor.resize(clip[None], self._target_size(clip, draws))
        images = self._crop(images, draws)  # [1, T, 3, h, w], still uint8
        if draws.flip < self.horizontal_flip:
            images = F.horizontal_flip(images)
        jitter, gray = draws.color_jitter < self.color_jitter, draws.grayscale < self.grayscale
        if jitter or gray:
            images = images.to(torch.float32, memory_format=torch.contiguous_format) / 255
            if jitter:
                images = self._jitter_color(images, draws)
            if gray:
                images = F.rgb_to_grayscale(images, num_output_channels=3)
            images = images * 255
        return self.processor.to_float(images)

    def _target_size(self, clip: Tensor, draws: Draws) -> tuple[int, int]:
        """Combine the processor's resize and the jitter: one resize costs less and blurs less."""
        base = self.processor.resized_size(*clip.shape[1:3])
        if self.scale_jitter is None:
            return base
        low, high = self.scale_jitter
        crop = self.processor.output_size
        assert crop is not None
        self.processor.free_pixels(*base)  # too small without jitter: an error, whatever the draw
        height, width = (
            max(int(edge * (low + (high - low) * draw)), smallest)
            for edge, draw, smallest in zip(base, (draws.height_scale, draws.width_scale), crop)
        )
        return height, width

    def _crop(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [1, T, 3, H', W'] -> [1, T, 3, h, w], a view."""
        if not self.random_crop:
            return self.processor.crop(images, self.processor.corners(images))
        free_height, free_width = self.processor.free_pixels(*images.shape[-2:])
        corner = (int(draws.top * (free_height + 1)), int(draws.left * (free_width + 1)))
        return self.processor.crop(images, [corner])

    def _jitter_color(self, images: Tensor, draws: Draws) -> Tensor:
        """Float32 [1, T, 3, h, w] in 0..1, and so returned."""

        def change(largest: float, draw: float) -> float:
            return largest * (2 * draw - 1)

        images = (images + change(self.brightness, draws.brightness)).clamp_(0, 1)
        images = F.adjust_saturation(images, 1 + change(self.saturation, draws.saturation))
        images = F.adjust_contrast(images, 1 + change(self.contrast, draws.contrast))
        if self.hue:  # on a CPU it takes several times as long as the rest together
            images = F.adjust_hue(images, change(self.hue, draws.hue))
        return images


def _draw(seed: int) -> Draws:
    if seed < 0:
        raise UserError(f"seeds must be 0 or more, not {seed}")
    return Draws(*np.random.Generator(np.random.PCG64(seed)).random(len(Draws._fields)).tolist())
