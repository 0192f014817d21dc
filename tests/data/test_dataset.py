"""Videos of flat colour: red tells the frame, blue the video, so that what is shown can be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.dataset import (
    MAX_REDRAWS,
    EvalDataset,
    Sample,
    Sampling,
    TrainDataset,
    collate,
)
from vivit_train.data.records import Records
from vivit_train.data.sampler import Key
from vivit_train.errors import UserError
from vivit_train.seeds import derive_seed
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import random_window, spread_windows
from vivit_train.video.write import write_video

NUM_VIDEOS, NUM_FRAMES = 6, 24
SAMPLING = Sampling(clip_frames=4, frame_stride=2)
BROKEN = (1, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<number>.mp4``, all whole; ``bad.mp4``, not a video; ``cut.mp4``, which ends too early."""
    root = tmp_path_factory.mktemp("videos")
    for video in range(NUM_VIDEOS):
        frames = np.zeros((NUM_FRAMES, 32, 48 + 2 * video, 3), np.uint8)
        frames[..., 0] = (20 + 8 * np.arange(NUM_FRAMES))[:, None, None]
        frames[..., 2] = 20 + 30 * video
        write_video(root / f"{video}.mp4", frames, options={"crf": "2", "g": "8"})
    (root / "bad.mp4").write_bytes(b"this is no video")
    whole = (root / "0.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return root


def records(root: Path, broken: tuple[int, ...] = ()) -> Records:
    names = ["bad.mp4" if i in broken else f"{i}.mp4" for i in range(NUM_VIDEOS)]
    return Records(root, names, range(10, 10 + NUM_VIDEOS))


def shown(frames: torch.Tensor) -> list[int]:
    """Numbers of the frames of a clip ``[T, H, W, 3]``."""
    red = frames[..., 0].float().mean(dim=(1, 2))
    return ((red - 20) / 8).round().int().tolist()


def video_of(frames: torch.Tensor) -> int:
    return round((float(frames[..., 2].float().mean()) - 20) / 30)


def test_a_clip_is_the_window_that_its_key_draws(root: Path) -> None:
    sample = TrainDataset(records(root), SAMPLING, seed=7)[Key(3, 5)]
    rng = np.random.default_rng(derive_seed(7, 5, 3))
    assert shown(sample.frames) == random_window(NUM_FRAMES, 4, 2, rng).tolist()
    assert video_of(sample.frames) == 3
    assert (sample.frames.dtype, sample.frames.shape) == (torch.uint8, (4, 32, 54, 3))
    assert (sample.label, sample.index, sample.decoded, sample.broken) == (13, 3, True, [])


def test_epoch_and_seed_change_the_clip(root: Path) -> None:
    data = TrainDataset(records(root), SAMPLING, seed=0)
    epochs = [data[Key(2, epoch)] for epoch in range(6)]
    assert len({shown(sample.frames)[0] for sample in epochs}) > 2
    assert len({sample.seed for sample in epochs}) == 6
    assert {video_of(sample.frames) for sample in epochs} == {2}
    other_seed = TrainDataset(records(root), SAMPLING, seed=1)[Key(2, 0)]
    assert other_seed.seed != epochs[0].seed


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_same_key_gives_the_same_clip_in_any_worker_and_order(
    root: Path, num_workers: int
) -> None:
    data = TrainDataset(records(root, BROKEN), SAMPLING, seed=0)
    keys = [Key(row, epoch) for epoch in range(2) for row in range(NUM_VIDEOS)]
    alone = {key: data[key] for key in keys}
    order = keys[::-1]
    loader = DataLoader(
        data,
        sampler=order,
        batch_size=2,
        num_workers=num_workers,
        collate_fn=collate,
        multiprocessing_context="fork",
    )
    batches = list(loader)
    frames = [clip for batch in batches for clip in batch.frames]
    assert all(torch.equal(alone[key].frames, clip) for key, clip in zip(order, frames))
    assert [seed for batch in batches for seed in batch.seeds] == [alone[k].seed for k in order]
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    assert indices == [alone[key].index for key in order]
    assert sum(len(batch.broken) for batch in batches) >= 2 * len(BROKEN)  # pickled to here


def test_a_broken_video_gives_way_to_another(root: Path) -> None:
    data = TrainDataset(records(root, BROKEN), SAMPLING, seed=0)
    replacements = []
    for epoch in range(8):
        sample, again = data[Key(1, epoch)], data[Key(1, epoch)]
        assert torch.equal(sample.frames, again.frames)
        assert sample.index == again.index == video_of(sample.frames)
        assert sample.index not in BROKEN
        assert sample.label == 10 + sample.index
        assert sample.broken[0].path == str(root / "bad.mp4")
        assert sample.decoded
        replacements.append(sample.index)
    assert len(set(replacements)) > 1  # not always the neighbour


def test_a_video_that_ends_too_early_is_broken(root: Path) -> None:
    data = TrainDataset(Records(root, ["cut.mp4", "2.mp4"], [0, 1]), SAMPLING, seed=0)
    sample = data[Key(0, 0)]
    assert sample.index == 1
    assert {error.path for error in sample.broken} == {str(root / "cut.mp4")}


def test_missing_file_is_broken(root: Path) -> None:
    sample = TrainDataset(Records(root, ["gone.mp4", "2.mp4"], [0, 1]), SAMPLING, 0)[Key(0, 0)]
    assert "no such file" in str(sample.broken[0])


def test_all_broken(root: Path) -> None:
    data = TrainDataset(records(root, tuple(range(NUM_VIDEOS))), SAMPLING, seed=0)
    with pytest.raises(UserError, match=rf"{MAX_REDRAWS + 1} videos in a row.*bad\.mp4"):
        data[Key(0, 0)]


@pytest.mark.parametrize("dataset", ["training", "evaluation"])
def test_frame_orders_act(root: Path, dataset: str) -> None:
    def clip(frame_order: str, seed: int = 0) -> list[int]:
        sampling = Sampling(8, 1, frame_order=frame_order)
        if dataset == "training":
            return shown(TrainDataset(records(root), sampling, seed)[Key(0, 0)].frames)
        return shown(EvalDataset(records(root), sampling, 1, seed)[0].frames[0])

    natural, shuffled, repeated = (clip(o) for o in ("natural", "shuffled", "repeated"))
    assert natural == list(range(natural[0], natural[0] + 8))
    assert shuffled != natural
    assert sorted(shuffled) == natural
    assert len(set(repeated)) == 1
    assert repeated[0] in natural
    assert shuffled == clip("shuffled")
    permutations = [clip("shuffled", seed) for seed in range(4)]
    assert len({tuple(frame - min(p) for frame in p) for p in permutations}) > 1


def test_views_come_from_one_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vivit_train.video.decode import VideoReader

    reads = []
    read = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda s, i, r: reads.append(len(i)) or read(s, i, r))
    sample = EvalDataset(records(root), SAMPLING, num_views=3, seed=0)[4]
    assert reads == [12]
    assert sample.frames.shape == (3, 4, 32, 56, 3)
    windows = spread_windows(NUM_FRAMES, 4, 2, 3).tolist()
    assert [shown(view) for view in sample.frames] == windows
    assert windows[0][0] == 0
    assert windows[1] != windows[2]
    assert (sample.label, sample.index, sample.decoded) == (14, 4, True)


@pytest.mark.parametrize("name", ["bad.mp4", "cut.mp4", "gone.mp4"])
def test_evaluation_replaces_nothing(root: Path, name: str) -> None:
    data = EvalDataset(Records(root, ["0.mp4", name], [5, 6]), SAMPLING, num_views=2, seed=0)
    sample = data[1]
    assert (sample.label, sample.index, sample.decoded) == (6, 1, False)
    assert [error.path for error in sample.broken] == [str(root / name)]
    assert sample.frames.shape[:2] == (2, 4)
    assert sample.frames.dtype == torch.uint8
    assert not sample.frames.any()


def test_padding(root: Path) -> None:
    sample = EvalDataset(records(root), SAMPLING, num_views=2, seed=0)[-1]
    assert sample.index == -1
    assert sample.frames.shape[:2] == (2, 4)
    assert not sample.frames.any()
    assert sample.broken == []


def test_collate_keeps_clips_of_any_size_and_all_that_is_known(root: Path) -> None:
    data = EvalDataset(records(root, BROKEN), SAMPLING, num_views=1, seed=0)
    samples = [data[0], data[1], data[-1], data[3]]
    batch = collate(samples)
    assert [clip.shape[3] for clip in batch.frames] == [48, 16, 16, 54]
    assert batch.labels.tolist() == [10, 11, 0, 13]
    assert batch.labels.dtype == torch.int64
    assert batch.indices.tolist() == [0, 1, -1, 3]
    assert batch.decoded.tolist() == [True, False, True, True]
    assert [error.path for error in batch.broken] == [str(root / "bad.mp4")]
    seeds = collate([Sample(torch.zeros(1), 0, 0, seed) for seed in (5, 9)]).seeds
    assert seeds == [5, 9]


def test_a_batch_moves_all_its_tensors() -> None:
    batch = collate([Sample(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), 1, 2, seed=3)])
    moved = batch.to(torch.device("meta"))
    tensors = [*moved.frames, moved.labels, moved.indices, moved.decoded]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.seeds == [3]
    assert isinstance(moved, DecodedBatch)
    assert batch.labels.device.type == "cpu"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """A video of 90x160, whose neighbour is as large as what is made of it."""
    root = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for name, shape in (("large.mp4", (90, 160)), ("small.mp4", (32, 56))):
        write_video(root / name, rng.integers(0, 256, (NUM_FRAMES, *shape, 3), np.uint8))
    return Records(root, ["large.mp4", "small.mp4"], [0, 1])


@pytest.mark.parametrize("random_resized_crop", [None, (0.3, 1.0)])
def test_large_frames_are_resized_in_training(
    large: Records, random_resized_crop: tuple[float, float] | None
) -> None:
    """And the model sees what it would have seen."""
    augment = Augment(
        Processor(size=32, crop_size=28), random_resized_crop=random_resized_crop, hue=0.0
    )
    plain, shrinking = (TrainDataset(large, SAMPLING, 0, a) for a in (None, augment))
    keys = [Key(row=0, epoch=0), Key(row=1, epoch=0), Key(row=0, epoch=1)]
    whole = collate([plain[key] for key in keys])
    batch = collate([shrinking[key] for key in keys])
    assert (whole.shrunk, batch.shrunk) == ([False] * 3, [True, False, True])
    assert whole.frames[0].shape == (4, 90, 160, 3)
    assert max(batch.frames[0].shape[1:3]) < 90
    assert torch.equal(batch.frames[1], whole.frames[1])
    expected = augment.clips(whole.frames, whole.seeds)
    assert torch.equal(augment.clips(batch.frames, batch.seeds, batch.shrunk), expected)


def test_large_frames_are_resized_in_evaluation(large: Records) -> None:
    processor = Processor(size=32, crop_size=28)
    for row in (0, 1):
        whole = EvalDataset(large, SAMPLING, 3, seed=0)[row]
        sample = EvalDataset(large, SAMPLING, 3, seed=0, processor=processor)[row]
        assert (whole.shrunk, sample.shrunk) == (False, row == 0)
        assert sample.frames.shape == (3, 4, 32, 56, 3)
        assert torch.equal(processor(sample.frames, 3), processor(whole.frames, 3))


def test_a_crop_that_fits_no_frame_ends_the_run(large: Records) -> None:
    """It is no broken video, in whose place another could be drawn."""
    augment = Augment(Processor(size=(32, 20), crop_size=28))
    with pytest.raises(UserError, match="does not fit"):
        TrainDataset(large, SAMPLING, 0, augment)[Key(row=0, epoch=0)]


def test_a_segment_is_within_its_video(root: Path) -> None:
    """Written at 30 frames a second: 24 frames last 0.8 s."""
    segments = [(0.2, 0.5), (0.4, 1.0), (0.4, 2.0)]
    parts = Records(root, ["0.mp4"] * 3, [0] * 3, segments)
    sampling = Sampling(clip_frames=2, frame_stride=1)
    train = TrainDataset(parts, sampling, seed=0)
    shows = [shown(train[Key(0, epoch)].frames)[0] for epoch in range(20)]
    assert 6 <= min(shows) < max(shows) <= 13
    evaluation = EvalDataset(parts, sampling, 1, 0)
    assert evaluation[1].decoded  # more than half of it is there
    sample = evaluation[2]
    assert not sample.decoded
    assert "from 0.4 to 2 s ends after the video: 12 of 48 frames" in str(sample.broken[0])
