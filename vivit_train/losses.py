"""Training losses with label smoothing: cross-entropy of one head or several, and binary."""

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
    _check_smoothing(label_smoothing)
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


def binary_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy in float32, averaged over the batch and the classes (multi-label).

    Each class is a question of its own: is it shown, or not? Smoothing comes after any mixing: a
    target y becomes ``y * (1 - a) + a / 2``, as 1/2 is the answer to such a question that says
    nothing. Scenic (``weighted_sigmoid_cross_entropy``) sums over the classes, so its loss is K
    times this one, and smooths by ``a / K``, as if the classes excluded each other. The mean is
    what transformers and torch have, and keeps a learning rate's meaning where K changes.

    Args:
        logits: Float ``[B, K]``.
        targets: 0 or 1 of each class, int64 ``[B, K]``; or their mixtures, float ``[B, K]``.
        label_smoothing: The share a in [0, 1).

    Returns:
        Float32 scalar.

    Raises:
        UserError: If ``label_smoothing`` is out of range.
    """
    _check_smoothing(label_smoothing)
    targets = targets.float() * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def loss_of(
    logits: Tensor,
    targets: Tensor,
    heads: Mapping[str, int],
    multi_label: bool,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """The loss of a model by what its logits mean.

    Args:
        logits: Float ``[B, K]``.
        targets: As for `binary_cross_entropy`, `multi_head_cross_entropy` or `cross_entropy`.
        heads: Name and number of classes of each head; empty: one head.
        multi_label: Whether each class is a question of its own.
        label_smoothing: The share that is smoothed.
        weights: Of the classes of one head that exclude each other.

    Returns:
        Float32 scalar.
    """
    if multi_label:
        return binary_cross_entropy(logits, targets, label_smoothing)
    if heads:
        return multi_head_cross_entropy(logits, targets, heads, label_smoothing)
    return cross_entropy(logits, targets, label_smoothing, weights)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise UserError(
            f"optim.label_smoothing must be at least 0 and below 1, got {label_smoothing}"
        )
