"""One graph from frames of any size to logits, which runtimes without our code can run."""

from typing import Any

import torch
from torch import Tensor, nn

from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export.clips import demo_clips
from vivit_train.transforms.processor import Processor


class FramesToLogits(nn.Module):
    """A classifier as one graph for frames of any size: the processor's steps and the model.

    Runtimes round differently when they resize. Here resizing and cropping are matrix products
    with Pillow's own arithmetic, so that every runtime makes the very pixels that
    `Processor` makes on the CPU. Only frames more than twice as tall as wide may differ, by one
    grey level: Pillow then resizes in the other order.

    Args:
        classifier: What to export.

    Raises:
        UserError: If the processor makes frames of no fixed size.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.processor: Processor = classifier.processor
        self.model = classifier.model
        if self.processor.output_size is None:
            raise UserError(
                "a graph needs a processor that makes frames of one size, and this one does not "
                "crop (do_center_crop=False): use --format safetensors"
            )
        self.output_size = self.processor.output_size
        self.resample = self.processor.resample if self.processor.do_resize else "bilinear"

    def forward(self, frames: Tensor) -> Tensor:
        """Class logits.

        Args:
            frames: uint8 ``[B, T, H, W, 3]``, RGB.

        Returns:
            Float ``[B, K]``.
        """
        height, width = frames.shape[2:4]
        # Floats of 64 bits hold the integers up to 2**31 that Pillow computes with.
        images = frames.movedim(-1, 2).double()  # [B, T, 3, H, W]
        new_height, new_width = self.resized_size(height, width)
        crop_height, crop_width = self.output_size
        across = resize_matrix(self.resample, width, new_width, crop_width)
        down = resize_matrix(self.resample, height, new_height, crop_height)
        images = round_to_pixels(images @ across.T)  # [B, T, 3, H, w]
        images = round_to_pixels(down @ images).float()  # [B, T, 3, h, w]
        # As in Processor.to_float, but not in place, which exporters do not all understand.
        channels = zip(images.unbind(2), self.processor.affine())
        scaled = [(channel - shift) / scale for channel, (shift, scale) in channels]
        return self.model(torch.stack(scaled, dim=1))  # of [B, 3, T, h, w]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """As ``Processor.resized_size``, without asking which side is the shorter."""
        size = self.processor.size
        if not self.processor.do_resize:
            return height, width
        if isinstance(size, tuple):
            return size
        shortest: Any = torch.sym_min(height, width)  # an int, or the symbol of one
        return size * height // shortest, size * width // shortest


def resize_matrix(resample: str, size: int, resized: int, crop: int) -> Tensor:
    """Pillow's resize of one axis, then the centre crop, as a matrix.

    Args:
        resample: "nearest", "bilinear" or "bicubic".
        size: Pixels before.
        resized: Pixels after resizing.
        crop: How many of these are kept.

    Returns:
        float64 ``[crop, size]``; rows sum to 1, in steps of 2**-22 as in Pillow.
    """
    start = (resized - crop) // 2
    scale = torch.ones((), dtype=torch.float64) * size / resized
    if resample == "nearest":
        # Pillow adds up steps, and the sum's rounding error decides between equally near pixels.
        steps = torch.cat([scale[None] / 2, scale.expand(resized - 1)])
        taken = steps.cumsum(0).narrow(0, start, crop).floor()
        return (torch.arange(size) == taken[:, None]).double()
    centres = (torch.arange(resized, dtype=torch.float64) + 0.5).narrow(0, start, crop) * scale
    # Distances of pixels from the centres, [crop, size]; the filter widens when shrinking.
    x = (torch.arange(size, dtype=torch.float64) + 0.5 - centres[:, None]).abs()
    x = x / scale.clamp(min=1)
    if resample == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1
        far = -0.5 * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights.sign() * (weights.abs() * 2**22 + 0.5).floor() / 2**22


def round_to_pixels(values: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, halves up, as Pillow rounds after each axis."""
    return (values + 0.5).floor().clamp(0, 255)


def trace(classifier: Classifier) -> torch.export.ExportedProgram:
    """The graph of uint8 ``[B, T, H, W, 3]`` -> float ``[B, K]``, with B, H and W dynamic."""
    module = FramesToLogits(classifier).eval()
    # Smaller sides would be other graphs: one pixel, or a crop that never fits.
    least = (2, 2) if classifier.processor.do_resize else module.output_size
    height, width = (torch.export.Dim(n, min=m) for n, m in zip(("height", "width"), least))
    program = torch.export.export(
        module,
        (demo_clips(classifier),),
        dynamic_shapes=({0: torch.export.Dim("batch"), 2: height, 3: width},),
        # Traces also what the model asks of Python, such as a tensor's len().
        strict=True,
        # Whether a crop fits is known only when frames come.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    program.example_inputs = None  # a clip, which would be saved too
    return program
