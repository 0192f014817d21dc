"""The two batches on a clip's way: as it is decoded, and as the model sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vivit_train.data.clips import Clips
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.labels import LabelRules
from vivit_train.transforms.processor import Processor
from vivit_train.video.decode import DecodeError


class GivenUp(NamedTuple):
    """A training row whose video hung or killed its decoder every time that it was tried."""

    row: int
    epoch: int
    reason: str


@dataclass(kw_only=True)
class Batch:
    """What both batches know of their B clips or videos.

    Attributes:
        labels: int64 ``[B]``, of several heads ``[B, heads]``: the class within each head.
            Multi-label ``[B, K]``: 0 or 1 of each class.
        indices: int64 ``[B]``, rows of the records; -1 marks padding.
        decoded: bool ``[B]``, whether the row's own video could be read.
        seeds: Per row the seed of its random draws on the device.
        broken: Videos that could not be decoded.
        given_up: Those of them, in training, that hang or kill the decoder.
        decode_seconds: See `Sample`; the sum over the videos.
        clip_seconds: See `Sample`; the sum over the videos.
    """

    labels: Tensor
    indices: Tensor
    decoded: Tensor
    seeds: list[int]
    broken: list[DecodeError] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    decode_seconds: float = 0.0
    clip_seconds: float = 0.0


@dataclass(kw_only=True)
class ClipBatch(Batch):
    """A batch as the model sees it.

    Attributes:
        clips: Float ``[B, 3, T, h, w]``, in evaluation ``[B * views, 3, T, h, w]`` with a video's
            views side by side.
        shares: Float ``[B, K]``, the parts of the classes in each mixed clip, the heads' side by
            side; multi-label the mixtures of 0 and 1; ``None`` where none is mixed.
    """

    clips: Tensor
    shares: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What the loss is to: the shares where clips are mixed, else the labels."""
        return self.labels if self.shares is None else self.shares


@dataclass(kw_only=True)
class DecodedBatch(Batch):
    """A batch as the workers hand it over, of clips that differ in size.

    Attributes:
        frames: Per row uint8 ``[T, H, W, 3]`` (training) or ``[V, T, H, W, 3]``, V temporal views
            (evaluation), in one block of memory.
        shrunk: Per row whether its frames were resized already: see `Shrink`.
    """

    frames: Clips
    shrunk: list[bool]

    def to(self, device: torch.device | str) -> "DecodedBatch":
        """The batch on another device; the copy overlaps with work where memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "DecodedBatch":
        """The batch in page-locked memory (called by the DataLoader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def augmented(
        self, augment: Augment, rules: LabelRules, key: tuple[int, int, int]
    ) -> ClipBatch:
        """What training sees; see `Augment.forward`. Broken videos count once for each clip."""
        seen = augment(self.frames, self.labels, self.seeds, rules, key, self.shrunk)
        times, known = augment.repeats, self._known()
        if times > 1:
            known["indices"] = self.indices.repeat_interleave(times)
            known["decoded"] = self.decoded.repeat_interleave(times)
            known["broken"] = self.broken * times
        return ClipBatch(**known | seen._asdict())

    def processed(self, processor: Processor, spatial_views: int = 1) -> ClipBatch:
        """What evaluation sees: the spatial views of each temporal view, side by side."""
        views = [processor(frames, spatial_views) for frames in self.frames]
        clips = views[0] if len(views) == 1 else torch.cat(views)  # which copies one, too
        return ClipBatch(clips=clips, **self._known())

    def _known(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(Batch)}

    def _map(self, move: Callable[[Tensor], Tensor]) -> "DecodedBatch":
        return replace(
            self,
            frames=self.frames.moved(move),
            labels=move(self.labels),
            indices=move(self.indices),
            decoded=move(self.decoded),
        )
