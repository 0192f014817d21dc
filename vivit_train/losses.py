"""Training losses: cross-entropy with label smoothing, for one head or several."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit_train.errors import UserError


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy in float32, averaged over the batch.

    Smoothing comes after any mixing: a target y becomes ``y * (1 - a) + a / K``. With weights w it
    is ``-sum(w * y * log p)`` of each clip, divided by the number of clips, not by the sum of
    their weights: so it is the same however a step is divided into batches and processes.

    Args:
        logits: Float ``[B, K]``.
        targets: Class indices, int64 ``[B]``, or shares of the classes, float ``[B, K]``.
        label_smoothing: The share a in [0, 1) that goes to all classes evenly.
        weights: Of the classes, float ``[K]``; ``None``: 1 each.

    Returns:
        Float32 scalar.

    Raises:
        UserError: If ``label_smoothing`` is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(
            f"optim.label_smoothing must be at least 0 and below 1, got {label_smoothing}"
        )
    if targets.is_floating_point():
        targets = targets.float()
    elif weights is not None:
        targets = F.one_hot(targets, logits.shape[1]).float()
    return F.cross_entropy(logits.float(), targets, weights, label_smoothing=label_smoothing)


def multi_head_cross_entropy(
    logits: Tensor, targets: Tensor, heads: Mapping[str, int], label_smoothing: float = 0.0
) -> Tensor:
    """The mean of the heads' cross-entropies, e.g. of nouns and verbs (EPIC-Kitchens).

    Args:
        logits: Float ``[B, K]``, the heads' logits side by side.
        targets: A class index per head, int64 ``[B, number of heads]``, or shares of each head's
            classes side by side, float ``[B, K]``.
        heads: Name and number of classes of each head, in the order of the logits; K in sum.
        label_smoothing: As for ``cross_entropy``, within each head.

    Returns:
        Float32 scalar.

    Raises:
        UserError: If ``label_smoothing`` is out of range.
    """
    sizes = list(heads.values())
    are_shares = targets.is_floating_point()
    per_head = targets.split(sizes, dim=1) if are_shares else targets.unbind(dim=1)
    losses = [
        cross_entropy(head, target, label_smoothing)
        for head, target in zip(logits.split(sizes, dim=1), per_head)
    ]
    return torch.stack(losses).mean()
