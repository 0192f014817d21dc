"""Train, fine-tune, evaluate and ship ViViT.

>>> from vivit_train import load
>>> classifier = load("runs/vivit_b_folder/2026-01-31_12-00-00")
>>> logits = classifier(frames)  # uint8 [T, H, W, 3] -> float [1, K]
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier

try:
    __version__ = version("vivit-train")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "unknown"

__all__ = ["load"]


def load(source: str | Path, **model: Any) -> "Classifier":
    """A classifier from any checkpoint: frames in, logits out.

    Args:
        source: A run's folder, which stands for its best checkpoint; one of its checkpoints; a
            folder that ``vivit export --format safetensors`` wrote; a Hugging Face folder or file;
            a hub id ``owner/name``; or a Scenic checkpoint. ``model.pretrained`` takes the same.
        **model: Arguments of `ViViT` that the source does not tell, as Scenic's do not tell
            ``image_size``, or that are to differ, such as ``num_frames``; positions are then
            interpolated.

    Returns:
        The model with its processor and class names, in evaluation mode, on the CPU.

    Raises:
        UserError: If the source cannot be read, or needs an argument that is not given.
    """
    # Here, because importing torch takes seconds and `vivit --help` should not.
    from vivit_train.classifier import load_classifier

    return load_classifier(source, **model)
