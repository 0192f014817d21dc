from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit_train.data.batch import DecodedBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.dataset import Sample, collate
from vivit_train.data.records import Records
from vivit_train.errors import UserError
from vivit_train.transforms import shrink
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.video.write import write_video

PROCESSOR = Processor(size=18, crop_size=16)
AUGMENT = Augment(PROCESSOR)


class Listed(VideoDataModule):
    """Splits as given: name -> rows (path, label) and class names."""

    def __init__(self, splits: dict[str, tuple[list[tuple[str, int]], list[str]]], **kwargs: Any):
        super().__init__(**kwargs)
        self.given = splits
        self.asked: list[str] = []

    def read_split(self, split: str) -> tuple[Records, list[str]]:
        self.asked.append(split)
        rows, names = self.given[split]
        return Records(self.root, [row[0] for row in rows], [row[1] for row in rows]), names


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(4):
        frames = rng.integers(0, 256, (12, 24, 32 + 4 * i, 3), dtype=np.uint8)
        write_video(root / f"{i}.mp4", frames)
    return root


def build(root: Path | None, splits: Any = None, **kwargs: Any) -> Listed:
    rows = [(f"{i}.mp4", i % 2) for i in range(4)]
    given = splits or {"train": (rows, ["a", "b"]), "val": (rows[:3], ["a", "b"])}
    arguments = {
        "root": root, "name": "listed", "clip_frames": 4, "frame_stride": 1, "batch_size": 2,
        "num_workers": 0, "eval_views": [2, 3], "processor": PROCESSOR, "augment": AUGMENT,
    }  # fmt: skip
    return Listed(given, **arguments | kwargs)


def attach(data: VideoDataModule, stage: str, **kwargs: Any) -> None:
    """A trainer as far as the DataModule asks it."""
    data.trainer = SimpleNamespace(
        training=stage == "fit",
        testing=stage == "test",
        global_rank=kwargs.get("rank", 0),
        world_size=kwargs.get("world_size", 1),
        num_training_batches=2,
        accumulate_grad_batches=1,
        limit_val_batches=1.0,
        limit_test_batches=kwargs.get("limit", 1.0),
        lightning_module=SimpleNamespace(dtype=kwargs.get("dtype", torch.float32)),
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(
                batch_progress=SimpleNamespace(
                    total=SimpleNamespace(processed=kwargs.get("done", 0))
                )
            )
        ),
    )


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_rare_classes_come_more_often(root: Path, strength: float) -> None:
    rows = [(f"{i}.mp4", int(i == 3)) for i in range(4)]
    given = {"train": (rows, ["a", "b"]), "val": (rows, ["a", "b"])}
    data = build(root, given, class_sampling=strength)
    data.setup("fit")
    attach(data, "fit")
    assert data.class_counts("optim.class_weights").tolist() == [3, 1]
    indices = torch.cat([batch.indices for batch in data.train_dataloader()])
    assert (indices == 3).sum() == (2 if strength else 1)
    data.heads = {"noun": 1, "verb": 1}
    if strength:
        told = "data.class_sampling=1 needs one class per video, and a video of listed has 2: "
        with pytest.raises(UserError, match=told):
            data.train_dataloader()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": None}, "data.root is not set: .*data.root=..."),
        ({"batch_size": 0}, "data.batch_size must be 1 or more, got 0"),
        ({"clip_frames": 0}, "data.clip_frames must be 1 or more, got 0"),
        ({"frame_stride": 0}, "data.frame_stride must be 1 or more, got 0"),
        ({"num_workers": -1}, "data.num_workers must be 0 or more, got -1"),
        ({"eval_views": [4, 2]}, r"data.eval_views .* either 1 or 3, got \[4, 2\]"),
        ({"eval_views": [0, 1]}, r"data.eval_views .* got \[0, 1\]"),
        ({"val_views": [1]}, r"data.val_views is \[temporal, spatial\] views.* got \[1\]"),
        ({"val_views": [1, 1, 1]}, "data.val_views"),
        ({"frame_order": "random"}, "'random' is not one of natural, shuffled, repeated"),
        ({"decoder": "opencv"}, "data.decoder='opencv' is not one of auto, "),
    ],
)
def test_values_out_of_range(root: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(change.pop("root", root), **change)


def test_fewer_videos_than_a_global_batch(root: Path) -> None:
    data = build(root, batch_size=5)
    data.setup()
    with pytest.raises(UserError, match=r"has 4 training videos.*data.batch_size=5 x 1 processes"):
        data.train_dataloader()
    data = build(root, batch_size=3)
    data.setup()
    assert len(data.train_dataloader()) == 1
    attach(data, "fit", world_size=2)
    with pytest.raises(UserError, match="global batch of 6"):
        data.train_dataloader()


def test_training_loader_starts_where_the_run_stands(root: Path) -> None:
    data = build(root)
    data.setup()

    def rows(done: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
        data.batch_size = 2 // world_size
        attach(data, "fit", done=done, rank=rank, world_size=world_size)
        return [batch.indices.tolist() for batch in data.train_dataloader()]

    first, second = rows(0), rows(2)
    assert sorted(np.ravel(first)) == sorted(np.ravel(second)) == [0, 1, 2, 3]
    assert rows(1) == first[1:]
    assert rows(3) == second[1:]
    assert any(rows(2 * epoch) != first for epoch in range(1, 6))
    ranks = [rows(0, rank, 2) for rank in range(2)]
    assert [ours + theirs for ours, theirs in zip(*ranks)] == first


def test_videos_that_were_given_up_in_an_earlier_epoch_are_in_the_keys(root: Path) -> None:
    data = build(root)
    data.setup("fit")
    attach(data, "fit")
    names = [data.records["train"].name(row) for row in range(3)]
    data.given_up = {names[2]: (0, "hung"), names[1]: (1, "hung")}
    keys = {epoch: data._given_up_before(epoch) for epoch in range(3)}
    assert keys == {0: [], 1: [2], 2: [1, 2]}
    sampler = data.train_dataloader().sampler
    assert {key.given_up for key in sampler} == {frozenset(keys[next(iter(sampler)).epoch])}


def test_a_batch_of_evaluation_holds_as_many_views_as_training_has_clips(root: Path) -> None:
    for batch_size, views, expected in [
        (12, (2, 3), [2, 1]),
        (11, (2, 3), [1, 1, 1]),
        (1, (4, 3), [1, 1, 1]),
        (8, (1, 1), [3]),
        (3, (1, 1), [3]),
        (2, (1, 1), [2, 1]),
    ]:
        data = build(root, batch_size=batch_size, eval_views=views, val_views=views)
        data.setup()
        for loader in (data.test_dataloader(), data.val_dataloader()):
            batches = list(loader)
            assert [len(batch.labels) for batch in batches] == expected
            assert {frames.shape[0] for b in batches for frames in b.frames} == {views[0]}
            assert sorted(torch.cat([b.indices for b in batches]).tolist()) == [0, 1, 2]


def test_evaluation_is_shared_between_ranks_with_padding(root: Path) -> None:
    data = build(root)
    data.setup()
    rows = []
    for rank in range(2):
        attach(data, "test", rank=rank, world_size=2)
        rows.append(torch.cat([b.indices for b in data.test_dataloader()]).tolist())
    assert rows == [[0, 2], [1, -1]]


def test_a_limit_is_shared_between_ranks(root: Path) -> None:
    """One batch of one video for each, and of three videos one of each class."""
    data = build(root, batch_size=1, eval_views=(1, 1))
    data.setup()
    rows = []
    for rank in range(2):
        attach(data, "test", rank=rank, world_size=2, limit=1)
        message = r"trainer\.limit_test_batches=1: of the 3 videos of the split 'val' 2 are scored"
        with pytest.warns(UserWarning, match=message):
            rows.append(torch.cat([b.indices for b in data.test_dataloader()]).tolist())
    assert rows == [[0], [1]]
    attach(data, "test", limit=0.1)
    message = r"limit_test_batches=0\.1: that is less than one of the 3 batches of the split 'val'"
    with pytest.raises(UserError, match=message):
        data.test_dataloader()


def raw_batch(num_views: int | None = None) -> DecodedBatch:
    """Clips of random pixels, with two sizes; training's if ``num_views`` is None."""
    generator = torch.Generator().manual_seed(0)
    lead = () if num_views is None else (num_views,)
    samples = []
    for i, size in enumerate([(24, 40), (30, 20)]):
        shape = (*lead, 4, *size, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        frames[..., :2, :2, :] = 0
        samples.append(Sample(frames, label=i, index=i, seed=100 + i))
    return collate(samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trainer_gets_what_follows_from_seed_step_and_process(
    root: Path, dtype: torch.dtype
) -> None:
    data = build(root, augment=Augment(PROCESSOR, mixup=1.0), seed=7)
    data.setup("fit")
    attach(data, "fit", done=5, rank=1, world_size=2, dtype=dtype)
    seen = data.on_after_batch_transfer(raw_batch(), 0)
    expected = raw_batch().augmented(data.augment, data.augment.rules(["a", "b"], {}, 4), (7, 5, 1))
    assert torch.equal(seen.clips, expected.clips.to(dtype))
    assert torch.equal(seen.shares, expected.shares)


def test_mixup_needs_two_clips_in_a_batch(root: Path) -> None:
    data = build(root, augment=Augment(PROCESSOR, mixup=0.3), batch_size=1)
    data.setup()
    with pytest.raises(UserError, match="augment.mixup=0.3 .* needs 2 or more, but data.batch_siz"):
        data.train_dataloader()


def test_repeats_make_several_clips_of_one_decode(root: Path) -> None:
    data = build(root, augment=Augment(PROCESSOR, repeats=2), batch_size=4)
    data.setup()
    loader = data.train_dataloader()
    assert len(loader) == 2
    decoded = next(iter(loader))
    assert len(decoded.frames) == 2  # videos
    first, second = decoded.indices.tolist()
    assert data.augmented(decoded, step=0).indices.tolist() == [first, first, second, second]


@pytest.mark.parametrize(
    ("arguments", "batch_size", "message"),
    [
        ({"repeats": 2}, 3, "augment.repeats=2 .* data.batch_size=3, .* must be a divisor"),
        ({"repeats": 4}, 2, "augment.repeats=4 .* must be a divisor"),
        ({"cutmix": 1.0}, 1, "augment.cutmix=1.0 .* needs 2 or more, but data.batch_size=1: raise"),
        ({"mixup": 0.3, "repeats": 2}, 2, "data.batch_size=2 / augment.repeats=2: raise it"),
        ({"repeats": 2}, 16, "of 8 .data.batch_size=16 / augment.repeats=2 x 1 processes"),
    ],
)
def test_batches_that_cannot_be_filled(
    root: Path, arguments: dict[str, Any], batch_size: int, message: str
) -> None:
    data = build(root, augment=Augment(PROCESSOR, **arguments), batch_size=batch_size)
    data.setup()
    with pytest.raises(UserError, match=message):
        data.train_dataloader()


def test_flip_labels_are_checked_before_the_first_batch(root: Path) -> None:
    data = build(root, augment=Augment(PROCESSOR, flip_labels=[["a", "left"]]))
    data.setup()
    data.test_dataloader()  # no matter in evaluation
    with pytest.raises(UserError, match="augment.flip_labels names left, .* classes are a, b"):
        data.train_dataloader()


@pytest.mark.parametrize("stage", ["validate", "sanity check", "test"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_has_the_views_of_its_stage_and_no_augmentation(
    root: Path, stage: str, dtype: torch.dtype
) -> None:
    data = build(root, augment=Augment(PROCESSOR, mixup=1.0, repeats=3), batch_size=3)
    attach(data, stage, dtype=dtype)
    seen = data.on_after_batch_transfer(raw_batch(2), 0)
    expected = raw_batch(2).processed(PROCESSOR, 3 if stage == "test" else 1)
    assert torch.equal(seen.clips, expected.clips.to(dtype))
    assert len(seen.labels) == 2


def test_no_worker_before_the_first_next(
    root: Path, children: Callable[[], set[BaseProcess]]
) -> None:
    data = build(root, num_workers=1)
    data.setup()
    attach(data, "fit")
    loader = data.train_dataloader()
    batches = iter(loader)
    assert not children()
    next(batches)
    (worker,) = children()
    list(batches)
    data.trainer.fit_loop.epoch_loop.batch_progress.total.processed = 2
    list(loader)  # the second epoch, in the same worker
    assert children() == {worker}
    loader._iterator._shutdown_workers()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_workers_message_comes_without_its_traceback(root: Path, num_workers: int) -> None:
    rows = [(f"gone_{i}.mp4", 0) for i in range(4)]
    data = build(root, {"train": (rows, ["a"]), "val": (rows, ["a"])}, num_workers=num_workers)
    data.setup()
    attach(data, "fit")
    with pytest.raises(UserError) as caught:
        next(iter(data.train_dataloader()))
    assert str(caught.value).startswith("11 videos in a row cannot be decoded, the last: ")
    assert str(caught.value).endswith("Check data.root and the files")


def test_loaders_take_nothing_from_the_global_generator(root: Path) -> None:
    data = build(root)
    data.setup()
    attach(data, "fit")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture(scope="module")
def large_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 1280x720, one of them upright."""
    root = tmp_path_factory.mktemp("large")
    coarse = np.random.default_rng(0).integers(0, 256, (4, 45, 80, 3), dtype=np.uint8)
    frames = coarse.repeat(16, axis=1).repeat(16, axis=2)
    write_video(root / "0.mp4", frames, options={"preset": "ultrafast"})
    write_video(root / "1.mp4", frames.swapaxes(1, 2), options={"preset": "ultrafast"})
    return root


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("stage", ["fit", "val", "test"])
def test_large_frames_are_shrunk_by_who_decodes_them(
    large_root: Path, stage: str, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is small before it is moved, and what the model sees is the same to the bit."""

    def batches(num_workers: int) -> tuple[Any, Any]:
        rows = [("0.mp4", 0), ("1.mp4", 1)]
        splits = {"train": (rows, ["a", "b"]), "val": (rows, ["a", "b"])}
        batch_size = 2 if stage == "fit" else 12  # of which 2 videos have 2 x 3 views
        sizes = {"batch_size": batch_size, "clip_frames": 2, "val_views": [2, 3]}
        data = build(large_root, splits, num_workers=num_workers, **sizes)
        data.setup()
        if stage == "fit":
            batch = next(iter(data.train_dataloader()))
            return batch, data.augmented(batch, step=0)
        batch = next(iter(getattr(data, f"{stage}_dataloader")()))
        return batch, batch.processed(PROCESSOR, 3)

    moved, seen = batches(num_workers)
    assert moved.shrunk == [True, True]
    assert max(max(frames.shape[-3:-1]) for frames in moved.frames) < 64
    monkeypatch.setattr(shrink.Shrink, "__call__", lambda self, frame: frame)
    moved, expected = batches(0)
    assert moved.shrunk == [False, False]
    assert {tuple(frames.shape[-3:-1]) for frames in moved.frames} == {(720, 1280), (1280, 720)}
    assert torch.equal(seen.clips, expected.clips)
    assert torch.equal(seen.labels, expected.labels)


def test_frames_of_which_several_clips_are_made_are_not_shrunk(large_root: Path) -> None:
    """Each clip has its own resize of them."""
    rows = [("0.mp4", 0), ("1.mp4", 1)]
    splits = {"train": (rows, ["a", "b"]), "val": (rows, ["a", "b"])}
    augment = Augment(PROCESSOR, repeats=2)
    data = build(large_root, splits, clip_frames=2, batch_size=4, augment=augment)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.shrunk == [False, False]
    assert min(min(frames.shape[1:3]) for frames in batch.frames) == 720
