"""What the data sets of these tests are made of: tiny clips, decoded here, or empty files."""

from pathlib import Path
from typing import Any

from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor

PROCESSOR = Processor(size=18, crop_size=16)
TINY: dict[str, Any] = {
    "clip_frames": 2,
    "frame_stride": 1,
    "batch_size": 2,
    "num_workers": 0,
    "processor": PROCESSOR,
    "augment": Augment(PROCESSOR),
}


def touch(root: Path, *paths: str) -> None:
    """Makes empty files, and their folders."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
