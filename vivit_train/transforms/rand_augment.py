"""RandAugment for clips, every frame alike: Scenic's operations, or torchvision's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import v2

from vivit_train.errors import UserError
from vivit_train.seeds import derive_seed

OPERATION_SETS = ("paper", "torchvision")
# In Scenic's order. Each layer takes one of the twelve.
PAPER_OPERATIONS = (
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "cutout",
    "solarize_add",
    "identity",
)
_TORCHVISION_MAGNITUDES = 31


class RandAugment:
    """A few operations in a row, drawn for the whole clip.

    Paper: Cubuk et al., RandAugment (arXiv 1909.13719). ``paper`` is what ViViT was trained with
    (Scenic ``video_ops.distort_image_with_randaugment``): `distort` says what the operations do.
    ``torchvision`` is ``torchvision.transforms.v2.RandAugment``, with rotation, shear and
    translation.

    Args:
        layers: Operations in a row, 1 or more.
        magnitude: Strength of all of them. ``paper``: 0 or more, on the scale of TensorFlow's
            code, whose levels end at 10; the paper's 15 and 20 lie beyond. ``torchvision``: a
            whole number from 0 to 30.
        operations: ``paper`` or ``torchvision``.

    Raises:
        UserError: A value outside its range.
    """

    def __init__(self, layers: int, magnitude: float, operations: str = "paper") -> None:
        if layers < 1 or layers != int(layers):
            raise UserError(
                f"rand_augment_layers must be a whole number, 0 (off) or more, not {layers}"
            )
        if operations not in OPERATION_SETS:
            raise UserError(
                f"rand_augment_operations={operations!r} is not one of {', '.join(OPERATION_SETS)}"
            )
        most = _TORCHVISION_MAGNITUDES - 1
        if operations == "torchvision" and magnitude not in range(most + 1):
            raise UserError(
                f"rand_augment_magnitude must be a whole number from 0 to {most} with "
                f"torchvision's operations, not {magnitude}"
            )
        if magnitude < 0:
            raise UserError(f"rand_augment_magnitude must be 0 or more, e.g. 10, not {magnitude}")
        self.layers = int(layers)
        self.magnitude = magnitude
        self.operations = operations

    def __call__(self, clip: Tensor, seed: int) -> Tensor:
        """Distort a clip.

        Args:
            clip: uint8 [T, 3, h, w].
            seed: 0 or more; the result is a function of it and the clip.

        Returns:
            uint8 [T, 3, h, w].
        """
        if self.operations == "torchvision":
            transform = v2.RandAugment(self.layers, int(self.magnitude), _TORCHVISION_MAGNITUDES)
            with torch_draws(derive_seed(seed, "rand_augment")):
                return transform(clip)
        rng = np.random.Generator(np.random.PCG64(derive_seed(seed, "rand_augment")))
        clip = clip.movedim(1, 0).contiguous()  # [T, 3, h, w] -> [3, T, h, w]
        for operation, *center in rng.random((self.layers, 3)).tolist():
            name = PAPER_OPERATIONS[int(operation * len(PAPER_OPERATIONS))]
            clip = distort(clip, name, self.magnitude, (center[0], center[1]))
        return clip.movedim(0, 1)


def distort(
    clip: Tensor, name: str, magnitude: float, center: tuple[float, float] = (0.5, 0.5)
) -> Tensor:
    """Apply one of Scenic's operations to a clip.

    All frames count as one image, as there: autocontrast and equalize look at the whole clip.
    Strengths are those of TensorFlow's Model Garden (``image_classification/augment.py``,
    ``level_to_arg``), with l = magnitude / 10: posterize keeps ``4 l`` bits; solarize inverts from
    ``256 l`` on; solarize_add adds ``110 l`` to pixels below 128; color, contrast, brightness and
    sharpness blend with ``0.1 + 1.8 l``; cutout blackens a square of twice ``40 l`` pixels.

    Two things that happen there by accident are part of the recipe, and so of this: the threshold
    of solarize is a byte, so that 384 (magnitude 15) acts as 128 and 512 (20) as 0, which inverts
    all; and contrast takes a grey that is the number of the clip's pixels / 256, at most 255, for
    the mean grey, so that beyond factor 1 it darkens what is not white.

    Args:
        clip: uint8 [3, T, h, w], contiguous.
        name: One of ``PAPER_OPERATIONS``.
        magnitude: 0 or more.
        center: Of cutout's square, down and to the right, as fractions in [0, 1).

    Returns:
        uint8 [3, T, h, w].
    """
    level = magnitude / 10
    factor = 0.1 + 1.8 * level
    image = clip.flatten(1, 2)  # the frames below each other: [3, T * h, w]
    match name:
        case "autocontrast":
            image = F.autocontrast(image)
        case "equalize":
            image = F.equalize(image)
        case "invert":
            image = F.invert(image)
        case "posterize":
            image = F.posterize(image, min(int(level * 4), 8))
        case "solarize":
            image = F.solarize(image, int(level * 256) % 256)
        case "color":
            image = F.adjust_saturation(image, factor)
        case "contrast":
            gray = int(min(image[0].numel() / 256, 255))
            image = (gray + factor * (image.float() - gray)).clamp_(0, 255).to(torch.uint8)
        case "brightness":
            image = F.adjust_brightness(image, factor)
        case "sharpness":
            image = F.adjust_sharpness(image, factor)
        case "cutout":
            image = _cutout(clip, int(level * 40), center)
        case "solarize_add":
            added = (image.to(torch.int32) + int(level * 110)).clamp_(max=255).to(torch.uint8)
            image = torch.where(image < 128, added, image)
    return image.view_as(clip)


def _cutout(clip: Tensor, half: int, center: tuple[float, float]) -> Tensor:
    """Blackens the same square in all frames; it may reach over the edge."""
    y, x = (int(place * edge) for place, edge in zip(center, clip.shape[-2:]))
    clip = clip.clone()
    clip[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return clip


@contextmanager
def torch_draws(seed: int) -> Iterator[None]:
    """Within, torchvision's transforms draw from this seed; torch's generators stay untouched."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs' generators as well.
        torch.default_generator.manual_seed(seed)
        yield
