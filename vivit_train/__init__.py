"""Train, fine-tune, evaluate and ship ViViT.

>>> from vivit_train import load
>>> classifier = load("runs/vivit_b_folder/2026-01-31_12-00-00")
>>> logits = classifier(frames)  # uint8 [T, H, W, 3] -> float [1, K]

The public names, each imported when it is first used:

- `load`: a classifier from any checkpoint; `Classifier`: what it returns.
- `ViViT`: the bare model, float ``[B, 3, T, H, W]`` -> ``[B, K]``.
- `VideoReader`: frames of a video file, uint8 ``[T, H, W, 3]``.
- `Processor` and `Augment`: frames to what a model takes, and what training adds.
- `VivitModule`: the Lightning module, with the training step.
- `VideoDataModule`: what the data sets have in common. They are `Demo`, `Diving48`, `EpicKitchens`,
  `Folder`, `Hmdb51`, `Kinetics`, `ListFiles`, `MomentsInTime`, `SomethingSomethingV2`, `Ucf101`
  and `WebDataset`.
- `UserError`: raised for what a user can put right, with what to do.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier
    from vivit_train.data.datamodule import VideoDataModule
    from vivit_train.data.demo import Demo
    from vivit_train.data.diving48 import Diving48
    from vivit_train.data.epic_kitchens import EpicKitchens
    from vivit_train.data.folder import Folder, ListFiles
    from vivit_train.data.hmdb51 import Hmdb51
    from vivit_train.data.kinetics import Kinetics
    from vivit_train.data.moments_in_time import MomentsInTime
    from vivit_train.data.ssv2 import SomethingSomethingV2
    from vivit_train.data.ucf101 import Ucf101
    from vivit_train.data.webdataset import WebDataset
    from vivit_train.errors import UserError
    from vivit_train.model.vivit import ViViT
    from vivit_train.module import VivitModule
    from vivit_train.transforms.augment import Augment
    from vivit_train.transforms.processor import Processor
    from vivit_train.version import __version__
    from vivit_train.video.decode import VideoReader

__all__ = [
    "Augment",
    "Classifier",
    "Demo",
    "Diving48",
    "EpicKitchens",
    "Folder",
    "Hmdb51",
    "Kinetics",
    "ListFiles",
    "MomentsInTime",
    "Processor",
    "SomethingSomethingV2",
    "Ucf101",
    "UserError",
    "ViViT",
    "VideoDataModule",
    "VideoReader",
    "VivitModule",
    "WebDataset",
    "__version__",
    "load",
]

# The same for Python as the imports above are for type checkers: torch alone takes seconds.
_MODULES = {
    "Augment": "vivit_train.transforms.augment",
    "Classifier": "vivit_train.classifier",
    "Demo": "vivit_train.data.demo",
    "Diving48": "vivit_train.data.diving48",
    "EpicKitchens": "vivit_train.data.epic_kitchens",
    "Folder": "vivit_train.data.folder",
    "Hmdb51": "vivit_train.data.hmdb51",
    "Kinetics": "vivit_train.data.kinetics",
    "ListFiles": "vivit_train.data.folder",
    "MomentsInTime": "vivit_train.data.moments_in_time",
    "Processor": "vivit_train.transforms.processor",
    "SomethingSomethingV2": "vivit_train.data.ssv2",
    "Ucf101": "vivit_train.data.ucf101",
    "UserError": "vivit_train.errors",
    "ViViT": "vivit_train.model.vivit",
    "VideoDataModule": "vivit_train.data.datamodule",
    "VideoReader": "vivit_train.video.decode",
    "VivitModule": "vivit_train.module",
    "WebDataset": "vivit_train.data.webdataset",
    "__version__": "vivit_train.version",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of them

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, getattr(import_module(_MODULES[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(source: str | Path, **model: Any) -> "Classifier":
    """A classifier from any checkpoint: frames in, logits out.

    Args:
        source: A run's folder, which stands for its best checkpoint; one of its checkpoints; a
            folder that ``vivit export --format safetensors`` wrote; a Hugging Face folder or file;
            a hub id, ``owner/name`` or ``hf://owner/name@revision``; or a Scenic checkpoint.
            ``model.pretrained`` takes the same.
        **model: Arguments of `ViViT` that the source does not contain, such as ``image_size``
            for a Scenic checkpoint, or that should differ from it, such as ``num_frames``.
            Positions are then interpolated.

    Returns:
        The model with its processor and class names, in evaluation mode, on the CPU.

    Raises:
        UserError: If the source cannot be read, or needs an argument that is not given.
    """
    from vivit_train.classifier import load_classifier

    return load_classifier(source, **model)
