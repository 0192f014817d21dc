"""From a row to frames, in a worker: choose frame indices, decode them, hand on uint8."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vivit_train.data.batch import DecodedBatch, GivenUp
from vivit_train.data.clips import Clips
from vivit_train.data.records import Records
from vivit_train.data.sampler import Key
from vivit_train.errors import UserError
from vivit_train.seeds import derive_seed
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.shrink import Shrink, for_evaluation
from vivit_train.video.decode import DecodeError, DecoderLost, VideoReader
from vivit_train.video.sampling import Sampling, reorder

MAX_REDRAWS = 10


@dataclass
class Sample:
    """What a worker makes of one row.

    ``frames`` is uint8 ``[T, H, W, 3]`` in training and ``[V, T, H, W, 3]``, V temporal views, in
    evaluation. ``label`` is a class, of several heads one within each, multi-label 0 or 1 of each.
    ``index`` is the row that is shown, -1 for padding; ``seed`` that of the device's random draws.
    ``decoded`` is False where evaluation could not read the row's video (its frames are then
    black). ``shrunk`` is True where the frames were large, and are resized already: see `Shrink`.
    ``broken`` has an error per unreadable video: in training those that this one replaces, and
    ``given_up`` those of them that hang or kill the decoder. ``clip_seconds`` is the time that the
    worker took from the key to the frames, ``decode_seconds`` the CPU's in it: decoding, and
    resizing of large frames, but not waiting for the storage or for a core.
    """

    frames: Tensor
    label: int | list[int]
    index: int
    seed: int = 0
    decoded: bool = True
    shrunk: bool = False
    broken: list[DecodeError] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    decode_seconds: float = 0.0
    clip_seconds: float = 0.0


def collate(samples: Sequence[Sample]) -> DecodedBatch:
    """Puts samples side by side; frames stay a list, as their sizes differ."""
    return DecodedBatch(
        frames=Clips(sample.frames for sample in samples),
        labels=torch.tensor([sample.label for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
        decoded=torch.tensor([sample.decoded for sample in samples]),
        seeds=[sample.seed for sample in samples],
        broken=[error for sample in samples for error in sample.broken],
        shrunk=[sample.shrunk for sample in samples],
        given_up=[video for sample in samples for video in sample.given_up],
        decode_seconds=sum(sample.decode_seconds for sample in samples),
        clip_seconds=sum(sample.clip_seconds for sample in samples),
    )


def _open(records: Records, index: int, decoder: str) -> VideoReader:
    """The video or segment of a row.

    Raises:
        DecodeError: If it cannot be opened, or less than half of the segment is in the video: it
            then is that of another video, or its times are no seconds.
    """
    (path, segment), span = records.source(index), records.span(index)
    data = None if span is None else span.read(path)
    video = VideoReader(path, decoder, segment, data=data, picture_rate=records.picture_rate)
    if segment and 2 * video.num_frames < video.promised:
        video.close()
        raise DecodeError(
            path,
            f"the segment from {segment[0]:g} to {segment[1]:g} s ends after the video: "
            f"{video.num_frames} of {video.promised} frames are there",
        )
    return video


class TrainDataset(Dataset[Sample]):
    """One random clip per row; a broken video gives way to another, drawn from the same key.

    Args:
        records: The training split.
        sampling: How frames are taken.
        seed: The run's seed.
        augment: Whose resize large frames get here; ``None``: all stay as they are decoded.
    """

    def __init__(
        self, records: Records, sampling: Sampling, seed: int, augment: Augment | None = None
    ) -> None:
        self.records = records
        self.sampling = sampling
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        """The clip of a key, a function of (seed, key) and the files alone.

        Raises:
            UserError: If this video and ten others drawn in its place are all broken.
        """
        seed = derive_seed(self.seed, key.epoch, key.row)
        rng = np.random.default_rng(seed)
        # The device draws from a stream of its own, whatever is drawn here.
        device_seed = derive_seed(seed, "device")
        index, broken, given_up = key.row, [], []
        for _ in range(1 + MAX_REDRAWS):
            try:
                if index in key.given_up:
                    path, _ = self.records.source(index)
                    raise DecodeError(path, "given up in an earlier epoch")
                frames, shrunk = self._clip(index, rng, device_seed)
            except DecodeError as error:
                broken.append(error)
                if isinstance(error, DecoderLost):
                    given_up.append(GivenUp(index, key.epoch, error.reason))
                index = int(rng.integers(len(self.records)))
            else:
                label = self.records.labels[index].tolist()
                clip = torch.from_numpy(frames)
                return Sample(
                    clip,
                    label,
                    index,
                    device_seed,
                    shrunk=shrunk,
                    broken=broken,
                    given_up=given_up,
                )
        raise UserError(
            f"{len(broken)} videos in a row cannot be decoded, the last: {broken[-1]}. "
            "Check data.root and the files"
        )

    def _clip(
        self, index: int, rng: np.random.Generator, device_seed: int
    ) -> tuple[np.ndarray, bool]:
        """uint8 ``[T, H, W, 3]``, and whether it was resized already."""
        shrink = self.augment and Shrink(
            self.augment.processor, partial(self.augment.resize, seed=device_seed)
        )
        with _open(self.records, index, self.sampling.decoder) as video:
            window = self.sampling.draw(video, rng)
            frames = video.read(reorder(window, self.sampling.frame_order, rng), shrink)
        return frames, bool(shrink and shrink.shrunk)


class EvalDataset(Dataset[Sample]):
    """All temporal views of a row, decoded once; row -1 is padding.

    Args:
        records: The split to evaluate.
        sampling: How frames are taken.
        num_views: Temporal views V per video.
        seed: The run's seed; only the frame-order ablations draw from it.
        processor: Whose resize large frames get here; ``None``: all stay as they are decoded.
    """

    def __init__(
        self,
        records: Records,
        sampling: Sampling,
        num_views: int,
        seed: int,
        processor: Processor | None = None,
    ) -> None:
        self.records = records
        self.sampling = sampling
        self.num_views = num_views
        self.seed = seed
        self.processor = processor

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
            frames, shrunk = self._views(index)
            return Sample(torch.from_numpy(frames), label, index, shrunk=shrunk)
        except DecodeError as error:
            return Sample(black, label, index, decoded=False, broken=[error])

    def _views(self, index: int) -> tuple[np.ndarray, bool]:
        """uint8 ``[V, T, H, W, 3]``, and whether it was resized already."""
        shrink = for_evaluation(self.processor) if self.processor else None
        order = self.sampling.frame_order
        rng = np.random.default_rng(derive_seed(self.seed, "evaluation", index))
        with _open(self.records, index, self.sampling.decoder) as video:
            windows = self.sampling.spread(video, self.num_views)
            windows = np.stack([reorder(window, order, rng) for window in windows])
            frames = video.read(windows.ravel(), shrink)  # [V*T, H, W, 3]
        views = frames.reshape(*windows.shape, *frames.shape[1:])
        return views, bool(shrink and shrink.shrunk)
