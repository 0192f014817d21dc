"""Mixup: each clip blended with another of its batch, and their labels alike."""

import numpy as np
from torch import Tensor


def draw_share(alpha: float, seed: int) -> float:
    """One batch's share of the first clip in each pair, drawn from Beta(alpha, alpha).

    Args:
        alpha: Above 0. Small values leave most clips nearly unmixed; 1 is uniform.
        seed: 0 or more; one for each step and process.

    Returns:
        A share in [0, 1]. As in the original (Scenic) it may be below one half.
    """
    return float(np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha))


def mixup(clips: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blends every clip with its partner: the batch in reversed order, as in the original.

    Paper: ViViT, Table 7 (Scenic ``dataset_utils.mixup``). A batch of one is its own partner.

    Args:
        clips: Float ``[B, ...]``.
        labels: Float ``[B, K]``, one-hot or already soft.
        share: Share in [0, 1] of the clip itself; its partner has the rest.

    Returns:
        The clips and the soft labels, shaped as they came.
    """
    return _blend(clips, share), _blend(labels, share)


def _blend(x: Tensor, share: float) -> Tensor:
    return share * x + (1 - share) * x.flip(0)
