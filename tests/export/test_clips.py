from pathlib import Path

import pytest
import torch

from tests.export.classifiers import build, noise
from vivit_train.errors import UserError
from vivit_train.export.clips import demo_clips, video_clips
from vivit_train.transforms.processor import Processor
from vivit_train.video.write import write_video


@pytest.mark.parametrize(
    "settings",
    [{"crop_size": 16}, {"crop_size": (16, 40)}, {"crop_size": (40, 16)}, {"size": (20, 40)},
     {"crop_size": 16, "do_resize": False}, {"do_resize": False, "do_center_crop": False}],
)  # fmt: skip
def test_drawn(settings: dict) -> None:
    processor = Processor(**{"crop_size": 16} | settings)
    native = list(processor.output_size or (16, 16))
    classifier = build(processor, image_size=native)
    clips = demo_clips(classifier)
    assert (clips.dtype, clips.shape[:2]) == (torch.uint8, (2, 4))
    assert not torch.equal(clips[0], clips[1])
    assert classifier(clips).shape == (2, 5)


def test_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", noise(30, 32, 48, 3).numpy())
    clips = video_clips(build(), tmp_path / "a.mp4")
    assert clips.shape == (2, 4, 32, 48, 3)
    assert not torch.equal(clips[0], clips[1])


def test_of_no_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--video .*none\.mp4: no such file"):
        video_clips(build(), tmp_path / "none.mp4")
