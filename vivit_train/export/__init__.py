"""Exports of a classifier: a folder in another format, checked before it appears."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vivit_train.classifier import Classifier
from vivit_train.errors import UserError
from vivit_train.export import huggingface, lora, onnx, safetensors, torch_export
from vivit_train.export.staging import staged

# uint8 frames [B, T, H, W, 3] -> logits [B, K].
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Attributes:
        write: Writes a classifier into an empty folder.
        read: Loads the folder as those who use it will: (what it was loaded with, its function).
        tolerance: By how much logits may differ from the classifier's, relative to
            max(1, abs(logit)).
        own_resize: Whether what loads it resizes frames with other arithmetic than ours, so that
            some pixels are a grey level off. Logits are then compared on frames that need no
            resize: how far a grey level moves them depends on the model.
    """

    write: Callable[[Classifier, Path], None]
    read: Callable[[Path], tuple[str, Logits]]
    tolerance: float
    own_resize: bool = False


@dataclass(frozen=True)
class Report:
    """What came of an export.

    Attributes:
        reader: What loaded the export for the check, e.g. ``transformers 5.23.0``.
        difference: Largest difference of the logits, relative to max(1, abs(logit)).
        tolerance: What was allowed.
    """

    reader: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"loaded back with {self.reader}: largest difference of logits {self.difference:.2g}, "
            f"allowed {self.tolerance:.0e}"
        )


@torch.no_grad()
def export(classifier: Classifier, format_name: str, output: Path, clips: Tensor) -> Report:
    """Writes a classifier in a format, loads it back and compares logits.

    The folder appears under its name only when it is whole and agrees; after any failure nothing
    is left.

    Args:
        classifier: What to export, in evaluation mode on the CPU.
        format_name: One of ``FORMATS``.
        output: The folder to write; must not exist, or be empty.
        clips: uint8 ``[2, T, H, W, 3]``, T frames of a clip. They are compared as
            a batch of two and the first alone.

    Returns:
        How well it agrees.

    Raises:
        UserError: If the format cannot hold the model, the folder exists, or logits differ.
    """
    form = FORMATS[format_name]
    with staged(output) as folder:
        form.write(classifier, folder)
        reader, logits = form.read(folder)
        if form.own_resize:
            clips = classifier.processor.resize(clips).movedim(2, -1)  # [2, T, h, w, 3]
        batches = (clips, clips[:1])
        ours, reference = (torch.cat([f(batch) for batch in batches]) for f in (logits, classifier))
        difference = relative_difference(ours, reference)
        if not difference <= form.tolerance:  # so that NaN fails as well
            raise UserError(
                f"--format {format_name}: loaded with {reader}, the logits differ from the "
                f"checkpoint's by {difference:.2g}, and at most {form.tolerance:.0e} is allowed; "
                "nothing was written. Use --format safetensors, and report this"
            )
    return Report(reader, difference, form.tolerance)


def relative_difference(ours: Tensor, reference: Tensor) -> float:
    """Largest abs(ours - reference) / max(1, abs(reference)); NaN if either holds one."""
    return float(((ours - reference).abs() / reference.abs().clamp(min=1)).max())


FORMATS = {
    "huggingface": Format(huggingface.write, huggingface.read, 1e-5, own_resize=True),
    "safetensors": Format(safetensors.write, safetensors.read, 1e-6),
    "lora": Format(lora.write, safetensors.read, 1e-6),
    "torch-export": Format(torch_export.write, torch_export.read, 1e-6),
    "onnx": Format(onnx.write, onnx.read, 1e-4, own_resize=True),
}
