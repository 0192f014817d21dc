"""The base of all DataModules: loaders, collation and the transforms on the device.

The journey of one clip: a sampler names a row, a worker decodes frames, `collate` makes a
`DecodedBatch`, Lightning moves it, and its `augmented` or `processed` is the `ClipBatch` that the
model sees.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from vivit_train.data.batch import ClipBatch, DecodedBatch
from vivit_train.data.class_sampling import rows_of_epoch
from vivit_train.data.dataset import EvalDataset, TrainDataset
from vivit_train.data.guarded import GuardedDataset
from vivit_train.data.loader import LazyLoader, available_cores, batches_done, build_loader
from vivit_train.data.records import Records
from vivit_train.data.sampler import EvalSampler, TrainSampler
from vivit_train.data.settings import check_count, check_views
from vivit_train.data.side_stream import SideStream
from vivit_train.data.splits import VideoSplits
from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.labels import LabelRules, within_heads
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DECODERS
from vivit_train.video.guard import DECODE_SECONDS
from vivit_train.video.sampling import Sampling


class VideoDataModule(VideoSplits, LightningDataModule):
    """Batches of a data set. `read_split` of a subclass says what there is: see `VideoSplits`.

    Args:
        root: Folder of the data set.
        name: The data set's name, for messages and results; ``None``: the class's.
        clip_frames: Frames per clip.
        frame_stride: See `Sampling`, which these four and ``frame_order`` and ``decoder`` make.
        frame_rate: See there.
        clip_seconds: See there.
        sampling: See there; ``None``: ``window``.
        batch_size: Clips per training step of one process.
        num_workers: Decoding processes per training process; ``None``: one per CPU core that
            this process may use, at most 16.
        eval_views: (temporal, spatial) views per video when testing; spatial is 1 or 3.
        val_views: The same for the validation between epochs.
        train_split: Name of the split to train on.
        val_split: Name of the split to validate on.
        test_split: Name of the split to test on.
        frame_order: ``natural``; ``shuffled`` or ``repeated`` show whether classes need motion.
        decoder: ``auto`` (PyAV), ``pyav``, ``decord`` or ``torchcodec``.
        picture_rate: Frames per second of videos that are folders of pictures, which do not tell;
            ``None``: unknown. Segments, and clips by time, need it.
        class_sampling: Between 0, each training video once per epoch, and 1, each class equally
            often: see `draws_per_epoch`.
        one_batch: Whether each epoch is one and the same batch, as a check that a model can
            overfit it.
        max_bad_fraction: Training stops when more than this fraction of an epoch is broken.
        decode_timeout: Seconds that decoding may take from one frame to the next before the video
            is tried again, and at last counts as broken; ``None``: no limit, and decoding within
            the worker itself.
        verdicts: The results of `vivit check`: a file, ``auto`` (the one in the root, if there
            is one) or ``None``.
        multi_label: Whether a video may have any number of the classes, none included. Only of
            data sets that can: see `VideoSplits.can_multi_label`.
        processor: The image processor; evaluation uses it as it is. ``None``: Scenic's, with
            its crop of 224 pixels.
        augment: Training transforms, built on the same processor; ``None``: Scenic's.
        seed: The run's seed.
        class_names: The order of classes to use; ``None``: the data set's own. Classes of the
            data set are found in it by name.

    Attributes, besides those of `VideoSplits`:
        sampling_reason: Why clips are taken so, where that was measured (`data.sampling=auto`).
        given_up: Training videos that hung or killed the decoder each time, by name, with the
            epoch in which they did and the reason. In that epoch another video took the place of
            each draw that met one, and in all later epochs they are not opened. So training
            samples are a function of this, and it is part of the run's checkpoints.

    Raises:
        UserError: If a value is out of range.
    """

    name: str  # Lightning's may be None

    def __init__(
        self,
        *,
        root: str | None,
        name: str | None = None,
        clip_frames: int = 32,
        frame_stride: int | None = None,
        frame_rate: float | None = None,
        clip_seconds: float | None = None,
        sampling: str | None = "window",
        batch_size: int = 8,
        processor: Processor | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        eval_views: Sequence[int] = (4, 3),
        val_views: Sequence[int] = (1, 1),
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "val",
        frame_order: str = "natural",
        decoder: str = "auto",
        picture_rate: float | None = None,
        class_sampling: float = 0.0,
        one_batch: bool = False,
        max_bad_fraction: float = 0.1,
        decode_timeout: float | None = DECODE_SECONDS,
        verdicts: str | None = "auto",
        multi_label: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        LightningDataModule.__init__(self)
        VideoSplits.__init__(
            self,
            root=root,
            name=name or type(self).__name__.lower(),
            splits={"train": train_split, "val": val_split, "test": test_split},
            verdicts=verdicts,
            decoder=decoder,
            picture_rate=picture_rate,
            class_names=class_names,
            multi_label=multi_label,
        )
        check_count("batch_size", batch_size)
        check_count("num_workers", num_workers or 0, least=0)
        if decoder not in DECODERS:
            raise UserError(f"data.decoder={decoder!r} is not one of {', '.join(DECODERS)}")
        check_views("eval_views", eval_views)
        check_views("val_views", val_views)
        if picture_rate is not None and not picture_rate > 0:
            raise UserError(f"data.picture_rate must be above 0, or null, got {picture_rate}")
        if decode_timeout is not None and decode_timeout <= 0:
            raise UserError(
                f"data.decode_timeout must be above 0 seconds, or null, got {decode_timeout}"
            )
        self.batch_size = batch_size
        self.num_workers = available_cores() if num_workers is None else num_workers
        self.eval_views = (eval_views[0], eval_views[1])
        self.val_views = (val_views[0], val_views[1])
        spacing = (frame_stride, frame_rate, clip_seconds)
        how = sampling or "window"
        self.sampling = Sampling(clip_frames, *spacing, how, frame_order, decoder)
        self.sampling_reason = ""
        self.class_sampling = class_sampling
        self.one_batch = one_batch
        self.max_bad_fraction = max_bad_fraction
        self.decode_timeout = decode_timeout
        self.processor = processor or Processor()
        self.augment = augment or Augment(self.processor)
        self.seed = seed
        self.given_up: dict[str, tuple[int, str]] = {}
        self._side_stream = SideStream()

    def train_dataloader(self) -> DataLoader:
        """Random clips in the order of `TrainSampler`; resumes where the trainer stands."""
        records = self.records["train"]
        rank, world_size = self._ranks()
        videos = self.videos_per_batch()
        global_batch = videos * world_size
        if len(records) < global_batch:
            repeats = self.augment.repeats
            divided = f" / augment.repeats={repeats}" if repeats > 1 else ""
            raise UserError(
                f"{self.name} has {len(records)} training videos, fewer than one global batch of "
                f"{global_batch} (data.batch_size={self.batch_size}{divided} x {world_size} "
                "processes): lower data.batch_size"
            )
        if self.class_sampling:
            self.class_counts(f"data.class_sampling={self.class_sampling:g}")
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        sampler = TrainSampler(
            len(records),
            videos,
            self.seed,
            rank,
            world_size,
            self._position,
            accumulate,
            self._given_up_before,
            partial(rows_of_epoch, records.labels, self.class_sampling, self.seed),
            self.one_batch,
        )
        # Several clips of one video are several resizes of the same frames: done on the device.
        augment = self.augment if self.augment.repeats == 1 else None
        dataset = TrainDataset(self._rows("train"), self.sampling, self.seed, augment)
        return self.loader(dataset, sampler, videos)

    def videos_per_batch(self) -> int:
        """Videos to decode for one training batch of this process.

        Raises:
            UserError: If they do not make up a batch, or cannot be mixed with each other.
        """
        augment = self.augment
        videos, rest = divmod(self.batch_size, augment.repeats)
        if rest or not videos:
            raise UserError(
                f"augment.repeats={augment.repeats} clips of each video do not fill "
                f"data.batch_size={self.batch_size}, the number of clips: it must be a divisor"
            )
        if self._rules.mixes and videos < 2:
            divided = f" / augment.repeats={augment.repeats}" if augment.repeats > 1 else ""
            mixes = "mixup" if augment.mixup else "cutmix"
            raise UserError(
                f"augment.{mixes}={getattr(augment, mixes)} mixes the videos of one process's "
                "batch with each other, which needs 2 or more, but "
                f"data.batch_size={self.batch_size}{divided}: raise it, or set augment.{mixes}=0"
            )
        return videos

    def val_dataloader(self) -> DataLoader:
        """Each video once, with `val_views`."""
        return self._eval_loader("val", self.val_views)

    def test_dataloader(self) -> DataLoader:
        """Each video once, with `eval_views`."""
        return self._eval_loader("test", self.eval_views)

    def transfer_batch_to_device(
        self, batch: DecodedBatch, device: torch.device, dataloader_idx: int
    ) -> DecodedBatch:
        """The copy to the device; on a GPU beside the step before."""
        with self._side_stream.on(device):
            return batch.to(device)

    def on_after_batch_transfer(self, batch: DecodedBatch, dataloader_idx: int) -> ClipBatch:
        """The transforms, on the device: augmentation in training, else the plain processor."""
        trainer = self.trainer
        assert trainer is not None
        with self._side_stream.on(batch.labels.device):
            # In the sanity check both `training` and `validating` are False: `training` tells.
            if trainer.training:
                seen = self.augmented(batch, batches_done(trainer), trainer.global_rank)
            else:
                spatial_views = (self.eval_views if trainer.testing else self.val_views)[1]
                seen = batch.processed(self.processor, spatial_views)
            # Runs outside autocast: under bf16-true the model takes nothing but bf16.
            seen = replace(seen, clips=seen.clips.to(trainer.lightning_module.dtype))
        self._side_stream.hand_over(
            (seen.clips, seen.shares, seen.labels, seen.indices, seen.decoded)
        )
        return seen

    def augmented(self, batch: DecodedBatch, step: int, rank: int = 0) -> ClipBatch:
        """What training sees of a batch, a function of the run's seed and of these.

        Args:
            batch: From `train_dataloader`, on any device.
            step: Training batches before it.
            rank: The process.

        Returns:
            The clips are float32.
        """
        return batch.augmented(self.augment, self._rules, (self.seed, step, rank))

    @cached_property
    def _rules(self) -> LabelRules:
        num_videos = len(self.records["train"])
        return self.augment.rules(self.class_names, self.heads, num_videos, self.multi_label)

    def _eval_loader(self, role: str, views: tuple[int, int]) -> DataLoader:
        records = self.records[role]
        rows = self._rows(role)
        dataset = EvalDataset(rows, self.sampling, views[0], self.seed, self.processor)
        videos_per_batch = max(1, self.batch_size // (views[0] * views[1]))
        limit = getattr(self.trainer, f"limit_{role}_batches") if self.trainer else 1.0
        sampler = EvalSampler(records.labels, videos_per_batch, *self._ranks(), limit)
        part, key = len(sampler.rows), f"trainer.limit_{role}_batches={limit}"
        if limit and not part:
            raise UserError(
                f"{key}: that is less than one of the {sampler.num_batches} batches of the split "
                f"{self.splits[role]!r}. Give a larger fraction, or a number of batches"
            )
        if part < len(records):
            rank_zero_warn(
                f"{key}: of the {len(records)} videos of the split {self.splits[role]!r} {part} "
                "are scored, of each class its share"
            )
        return self.loader(dataset, sampler, videos_per_batch)

    def _rows(self, role: str) -> Records:
        """The records of a role, with labels that count within each head."""
        records = self.records[role]
        return records.with_labels(within_heads(self.heads)) if self.heads else records

    def loader(self, dataset: Any, sampler: Any, batch_size: int) -> LazyLoader:
        """Batches of a `TrainDataset` or `EvalDataset`, decoded as the settings say."""
        refused = self.verdicts.refused(dataset.records)
        guarded = GuardedDataset(dataset, self.decode_timeout, refused)
        return build_loader(guarded, sampler, batch_size, self.num_workers)

    def _given_up_before(self, epoch: int) -> list[int]:
        """Training rows that were given up in an earlier epoch."""
        names = {name for name, (since, _) in self.given_up.items() if since < epoch}
        records = self.records["train"]
        return [row for row in range(len(records) if names else 0) if records.name(row) in names]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        """(epoch, videos that all processes have done in it), from the loop's progress."""
        if not self.trainer:
            return 0, 0
        epoch, batches = divmod(batches_done(self.trainer), int(self.trainer.num_training_batches))
        return epoch, batches * self.videos_per_batch() * self.trainer.world_size
