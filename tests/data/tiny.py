"""What the data sets of these tests are built with: tiny clips, decoded in this process."""

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
