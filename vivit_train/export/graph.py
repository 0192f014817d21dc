"""One graph from frames of any size to logits, which runtimes without our code can run."""

from typing import Any

import torch
from torch import Tensor, nn

from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export.clips import demo_clips
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.resize import resize


class FramesToLogits(nn.Module):
    """A classifier as one graph for frames of any size: the processor's steps and the model.

    It resizes with the operator that `Processor` uses on a CPU. In ``torch.export`` the pixels are
    the same; ONNX Runtime rounds on its own, and may differ as `transforms.resize` may from Pillow.

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

    def forward(self, frames: Tensor) -> Tensor:
        """Class logits.

        Args:
            frames: uint8 ``[B, T, H, W, 3]``, RGB.

        Returns:
            Float ``[B, K]``.
        """
        height, width = frames.shape[2:4]
        images = frames.flatten(0, 1).movedim(-1, 1)  # [B * T, 3, H, W]
        if self.processor.do_resize:
            height, width = self.resized_size(height, width)
            images = resize(images, (height, width), self.processor.resample)
        crop_height, crop_width = self.output_size
        images = images.narrow(-2, (height - crop_height) // 2, crop_height)
        images = images.narrow(-1, (width - crop_width) // 2, crop_width)
        images = images.float().unflatten(0, frames.shape[:2])  # [B, T, 3, h, w]
        # As in Processor.to_float, but not in place, which exporters do not all understand.
        channels = zip(images.unbind(2), self.processor.affine())
        scaled = [(channel - shift) / scale for channel, (shift, scale) in channels]
        return self.model(torch.stack(scaled, dim=1))  # of [B, 3, T, h, w]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """As ``Processor.resized_size``, without asking which side is the shorter."""
        size = self.processor.size
        if isinstance(size, tuple):
            return size
        shortest: Any = torch.sym_min(height, width)  # an int, or the symbol of one
        return size * height // shortest, size * width // shortest


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
