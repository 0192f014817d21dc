"""Mixup and cutmix: each clip mixed with another of its batch, and their labels alike."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from vivit_train.seeds import derive_seed


class Box(NamedTuple):
    """A rectangle in pixels; ``bottom`` and ``right`` are the first outside."""

    top: int
    left: int
    bottom: int
    right: int


def mix(
    clips: Tensor, labels: Tensor, mixup_alpha: float, cutmix_alpha: float, *key: int
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch; where both are on, one of them at even chances.

    Args:
        clips: Float ``[B, ..., height, width]``.
        labels: Float ``[B, K]``, one-hot or already soft.
        mixup_alpha: Of `draw_share`; 0: no mixup.
        cutmix_alpha: Of `draw_box`; 0: no cutmix. One of them is above 0.
        key: What the draws are a function of: seed, step and process.

    Returns:
        The clips and the soft labels, shaped as they came.
    """
    seed, *place = key
    cuts = cutmix_alpha > 0
    if mixup_alpha and cutmix_alpha:
        cuts = derive_seed(seed, "mixup or cutmix", *place) % 2 == 1
    if cuts:
        box = draw_box(cutmix_alpha, derive_seed(seed, "cutmix", *place), *clips.shape[-2:])
        return cutmix(clips, labels, box)
    return mixup(clips, labels, draw_share(mixup_alpha, derive_seed(seed, "mixup", *place)))


def draw_share(alpha: float, seed: int) -> float:
    """One batch's share of the first clip in each pair, drawn from Beta(alpha, alpha).

    Args:
        alpha: Above 0. Small values leave most clips nearly unmixed; 1 is uniform.
        seed: 0 or more; one for each step and process.

    Returns:
        A share in [0, 1]. As in Scenic it may be below one half.
    """
    return float(np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha))


def draw_box(alpha: float, seed: int, height: int, width: int) -> Box:
    """The box that one batch's cutmix replaces.

    Its centre lies anywhere, its edges are sqrt(1 - share) of the frame's, with a share from
    Beta(alpha, alpha); what reaches over the edge is cut off.

    Args:
        alpha: Above 0. Paper: 1, a uniform area.
        seed: 0 or more; one for each step and process.
        height: Of the clips, in pixels.
        width: Likewise.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    half = 0.5 * (1 - rng.beta(alpha, alpha)) ** 0.5
    y, x = int(rng.random() * height), int(rng.random() * width)
    down, right = int(half * height), int(half * width)
    return Box(max(0, y - down), max(0, x - right), min(height, y + down), min(width, x + right))


def mixup(clips: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blends every clip with its partner: the batch in reversed order, as in Scenic.

    Paper: ViViT, Table 7 (Scenic ``dataset_utils.mixup``). A batch of one is its own partner.

    Args:
        clips: Float ``[B, ...]``.
        labels: Float ``[B, K]``, one-hot or already soft.
        share: Share in [0, 1] of the clip itself; its partner has the rest.

    Returns:
        The clips and the soft labels, shaped as they came.
    """
    return _blend(clips, share), _blend(labels, share)


def cutmix(clips: Tensor, labels: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Puts a box of its partner into every frame of every clip; labels follow the area.

    Paper: Yun et al., CutMix (arXiv 1905.04899). The partner is the batch in reversed order.

    Args:
        clips: Float ``[B, ..., height, width]``.
        labels: Float ``[B, K]``, one-hot or already soft.
        box: Inside the frame; may be empty.

    Returns:
        The clips and the soft labels, shaped as they came.
    """
    top, left, bottom, right = box
    height, width = clips.shape[-2:]
    clips = clips.clone()
    clips[..., top:bottom, left:right] = clips[..., top:bottom, left:right].flip(0)
    return clips, _blend(labels, 1 - (bottom - top) * (right - left) / (height * width))


def _blend(x: Tensor, share: float) -> Tensor:
    return share * x + (1 - share) * x.flip(0)
