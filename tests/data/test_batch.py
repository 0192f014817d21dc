import numpy as np
import torch

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.dataset import Sample, collate
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DecodeError

PROCESSOR = Processor(size=18, crop_size=16)


def decoded(*lead: int) -> DecodedBatch:
    """Two clips of random pixels and of two sizes."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i, size in enumerate([(24, 40), (30, 20)]):
        shape = (*lead, 4, *size, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        broken = [DecodeError("bad.mp4", "not a video")] if i else []
        samples.append(Sample(frames, i, 7 + i, 100 + i, decoded=not broken, broken=broken))
    return collate(samples)


def test_what_training_sees() -> None:
    augment, batch = Augment(PROCESSOR), decoded()
    seen = batch.augmented(augment, augment.rules(["a", "b"], {}, 2), (0, 0, 0))
    assert torch.equal(seen.clips, augment.clips(batch.frames, [100, 101]))
    assert seen.shares is None
    assert torch.equal(seen.targets, batch.labels)
    assert (seen.indices.tolist(), seen.decoded.tolist()) == ([7, 8], [True, False])
    assert (seen.seeds, seen.broken) == ([100, 101], batch.broken)


def test_all_that_is_known_of_several_clips_of_one_video() -> None:
    augment, batch = Augment(PROCESSOR, repeats=2, mixup=1.0), decoded()
    seen = batch.augmented(augment, augment.rules(["a", "b"], {}, 2), (0, 0, 0))
    assert seen.clips.shape == (4, 3, 4, 16, 16)
    assert seen.labels.tolist() == [0, 0, 1, 1]
    assert seen.targets is seen.shares
    assert seen.indices.tolist() == [7, 7, 8, 8]
    assert seen.decoded.tolist() == [True, True, False, False]
    assert len(seen.seeds) == 4
    assert seen.broken == batch.broken * 2


def test_what_evaluation_sees() -> None:
    """The spatial views of a clip side by side, then the next temporal view."""
    batch = decoded(2)
    for spatial in (1, 3):
        clips = batch.processed(PROCESSOR, spatial).clips
        assert clips.shape == (2 * 2 * spatial, 3, 4, 16, 16)
        by_video = clips.unflatten(0, (2, 2, spatial))
        for video, temporal in np.ndindex(2, 2):
            expected = PROCESSOR(batch.frames[video][temporal][None], spatial)
            assert torch.equal(by_video[video, temporal], expected)
        assert not torch.equal(by_video[0, 0], by_video[0, 1])
