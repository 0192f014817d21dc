"""From a row to frames, in a worker: choose frame indices, decode them, hand on uint8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_train.data.records import Records
from vivit_train.data.sampler import Key, derive_seed
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.sampling import random_window, reorder, spread_windows

MAX_REDRAWS = 10


class Sampling(NamedTuple):
    """How frames are taken from a video.

    ``clip_frames`` frames ``frame_stride`` apart; ``frame_order`` is ``natural``, or one of the
    ablations ``shuffled`` and ``repeated``; ``decoder`` is ``auto``, ``decord`` or ``pyav``.
    """

    clip_frames: int
    frame_stride: int
    frame_order: str = "natural"
    decoder: str = "auto"


@dataclass
class Sample:
    """What a worker makes of one row.

    ``frames`` is uint8 ``[T, H, W, 3]`` in training and ``[V, T, H, W, 3]``, V temporal views, in
    evaluation. ``label`` is a class index, with several heads one per head. ``index`` is the row
    that is shown, -1 for padding; ``seed`` that of the device's random draws. ``decoded`` is
    False where evaluation could not read the row's video (its frames are then black). ``broken``
    has an error per unreadable video: in training those that this one replaces.
    """

    frames: Tensor
    label: int | list[int]
    index: int
    seed: int = 0
    decoded: bool = True
    broken: list[DecodeError] = field(default_factory=list)


@dataclass
class Batch:
    """A batch of clips that differ in size, and after the transfer what the model sees.

    Attributes:
        frames: Per row uint8 ``[T, H, W, 3]`` (training) or ``[V, T, H, W, 3]`` (evaluation).
        labels: int64 ``[B]``, class indices; after mixup float ``[B, K]``, shares of the classes.
            With several heads int64 ``[B, heads]``: indices into all the class names until the
            transfer, which makes them count from 0 within each head.
        indices: int64 ``[B]``, rows of the records; -1 marks padding.
        decoded: bool ``[B]``, whether the row's own video could be read.
        seeds: Per row the seed of its random draws on the device.
        broken: Videos that could not be decoded.
        clips: Float ``[B, 3, T, h, w]``, in evaluation ``[B * views, 3, T, h, w]`` with a
            video's views side by side; made on the device from ``frames``.
    """

    frames: list[Tensor]
    labels: Tensor
    indices: Tensor
    decoded: Tensor
    seeds: list[int]
    broken: list[DecodeError]
    clips: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device; the copy overlaps with work where memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (called by the DataLoader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def repeated(self, times: int) -> "Batch":
        """Every clip ``times`` times, side by side, the copies with seeds of their own.

        Frames are shared, not copied; broken videos count once for each clip.
        """
        if times == 1:
            return self
        return replace(
            self,
            frames=[frames for frames in self.frames for _ in range(times)],
            labels=self.labels.repeat_interleave(times, dim=0),
            indices=self.indices.repeat_interleave(times),
            decoded=self.decoded.repeat_interleave(times),
            seeds=[
                derive_seed(seed, "repeat", copy) if copy else seed
                for seed in self.seeds
                for copy in range(times)
            ],
            broken=self.broken * times,
        )

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            frames=[move(frames) for frames in self.frames],
            labels=move(self.labels),
            indices=move(self.indices),
            decoded=move(self.decoded),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Puts samples side by side; frames stay a list, as their sizes differ."""
    return Batch(
        frames=[sample.frames for sample in samples],
        labels=torch.tensor([sample.label for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
        decoded=torch.tensor([sample.decoded for sample in samples]),
        seeds=[sample.seed for sample in samples],
        broken=[error for sample in samples for error in sample.broken],
    )


def _open(records: Records, index: int, decoder: str) -> VideoReader:
    return VideoReader(records.path(index), decoder, records.segment(index))


class TrainDataset(Dataset[Sample]):
    """One random clip per row; a broken video gives way to another, drawn from the same key.

    Args:
        records: The training split.
        sampling: How frames are taken.
        seed: The run's seed.
    """

    def __init__(self, records: Records, sampling: Sampling, seed: int) -> None:
        self.records = records
        self.sampling = sampling
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        """The clip of a key, a function of (seed, epoch, row) alone.

        Raises:
            UserError: If this video and ten others drawn in its place are all broken.
        """
        seed = derive_seed(self.seed, key.epoch, key.row)
        rng = np.random.default_rng(seed)
        index, broken = key.row, []
        for _ in range(1 + MAX_REDRAWS):
            try:
                frames = self._clip(index, rng)
            except DecodeError as error:
                broken.append(error)
                index = int(rng.integers(len(self.records)))
            else:
                label = self.records.labels[index].tolist()
                # The device draws from a stream of its own, whatever was drawn here.
                device_seed = derive_seed(seed, "device")
                return Sample(torch.from_numpy(frames), label, index, device_seed, broken=broken)
        raise UserError(
            f"{len(broken)} videos in a row cannot be decoded, the last: {broken[-1]}. "
            "Check data.root and the files"
        )

    def _clip(self, index: int, rng: np.random.Generator) -> np.ndarray:
        clip_frames, frame_stride, frame_order, decoder = self.sampling
        with _open(self.records, index, decoder) as video:
            window = random_window(video.num_frames, clip_frames, frame_stride, rng)
            return video.read(reorder(window, frame_order, rng))


class EvalDataset(Dataset[Sample]):
    """All temporal views of a row, decoded once; row -1 is padding.

    Args:
        records: The split to evaluate.
        sampling: How frames are taken.
        num_views: Temporal views V per video.
        seed: The run's seed; only the frame-order ablations draw from it.
    """

    def __init__(self, records: Records, sampling: Sampling, num_views: int, seed: int) -> None:
        self.records = records
        self.sampling = sampling
        self.num_views = num_views
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The views of one video; black frames, and the error, where it cannot be decoded."""
        clip_frames = self.sampling.clip_frames
        black = torch.zeros(self.num_views, clip_frames, 16, 16, 3, dtype=torch.uint8)
        if index < 0:
            any_label = np.zeros_like(self.records.labels[0]).tolist()
            return Sample(black, any_label, index=-1)
        label = self.records.labels[index].tolist()
        try:
            return Sample(torch.from_numpy(self._views(index)), label, index)
        except DecodeError as error:
            return Sample(black, label, index, decoded=False, broken=[error])

    def _views(self, index: int) -> np.ndarray:
        clip_frames, frame_stride, frame_order, decoder = self.sampling
        rng = np.random.default_rng(derive_seed(self.seed, "evaluation", index))
        with _open(self.records, index, decoder) as video:
            windows = spread_windows(video.num_frames, clip_frames, frame_stride, self.num_views)
            windows = np.stack([reorder(window, frame_order, rng) for window in windows])
            frames = video.read(windows.ravel())  # [V*T, H, W, 3]
        return frames.reshape(self.num_views, clip_frames, *frames.shape[1:])
