"""Accuracy of videos that have one class, or one of each head."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

# Classes that are kept of each video, most probable first.
TOP = 5
# Of equal width, in which confidence and accuracy are compared.
CALIBRATION_BINS = 15


class VideoAccuracy(Metric):
    """Top-1, top-5, mean class accuracy and macro-F1 over the videos of a split.

    Among five classes or fewer top-5 is always 1, and is left out.

    Integer counts, summed over processes: every number of processes and every batch size gives
    the same scores to the last digit. A video that cannot be decoded counts as wrong; a padding
    row does not count; a video that is seen twice is an error, not a second vote.

    Args:
        num_classes: Classes K.
        num_videos: Rows of the split.

    Attributes:
        right: int32 ``[num_videos]``, 1 where the most probable class is the video's own.
        top_classes: int32 ``[num_videos, 5]``, 1 + the most probable classes of each video, best
            first, with fewer columns among fewer classes; 0 where it was not seen, could not be
            decoded, or has logits that are not finite. Like all counts of one process until synced.
        top_probabilities: float32 ``[num_videos, 5]``, their probabilities.
        true_probability: float32 ``[num_videos]``, that of the video's own class.
        non_finite: int32 ``[num_videos]``, 1 for each video whose logits are NaN or infinite.
    """

    full_state_update = False
    correct1: Tensor
    correct5: Tensor
    total: Tensor
    seen: Tensor
    right: Tensor
    undecodable: Tensor
    top_classes: Tensor
    top_probabilities: Tensor
    true_probability: Tensor
    non_finite: Tensor
    loss_sum: Tensor

    def __init__(self, num_classes: int, num_videos: int) -> None:
        super().__init__()
        for name in ("correct1", "correct5", "total"):  # per class
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("seen", "right", "undecodable", "non_finite"):  # per video
            self.add_state(name, torch.zeros(num_videos, dtype=torch.int), dist_reduce_fx="sum")
        top = min(TOP, num_classes)
        for name, state in {
            "top_classes": torch.zeros(num_videos, top, dtype=torch.int),
            "top_probabilities": torch.zeros(num_videos, top),
            "true_probability": torch.zeros(num_videos),
        }.items():
            self.add_state(name, state, dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor, decoded: Tensor) -> None:
        """Counts a batch of videos.

        Args:
            logits: Float ``[B, K]``, already averaged over a video's views.
            labels: int64 ``[B]``.
            indices: int64 ``[B]``, the video's row; -1 marks padding.
            decoded: bool ``[B]``; where False the logits mean nothing.
        """
        real = indices >= 0
        logits, labels, indices = logits[real], labels[real], indices[real]
        decoded = decoded[real]
        valid = decoded & logits.isfinite().all(dim=1)
        rank = ranks(logits, labels)
        self.total.index_add_(0, labels, torch.ones_like(labels))
        self.correct1.index_add_(0, labels, (valid & (rank < 1)).long())
        self.right.index_add_(0, indices, (valid & (rank < 1)).int())
        self.correct5.index_add_(0, labels, (valid & (rank < 5)).long())
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int))
        self.undecodable.index_add_(0, indices, (~decoded).int())
        self.non_finite.index_add_(0, indices, (decoded & ~valid).int())
        probabilities = logits.float().softmax(dim=1)
        # A stable sort puts the lower index first where two are equal, as `ranks` does.
        order = logits.sort(dim=1, descending=True, stable=True).indices
        best = order[:, : self.top_classes.shape[1]]  # [B, 5]
        self.top_classes.index_add_(0, indices, (valid[:, None] * (best + 1)).int())
        for state, places in (
            (self.top_probabilities, best),
            (self.true_probability, labels[:, None]),
        ):
            found = probabilities.gather(1, places).where(valid[:, None], 0.0)
            state.index_add_(0, indices, found.view(len(found), *state.shape[1:]))
        losses = logits.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]
        self.loss_sum += losses[decoded].sum()

    @property
    def predicted(self) -> Tensor:
        """int32 ``[num_videos]``, 1 + the class that each video was taken for, or 0."""
        return self.top_classes[:, 0]

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5``, ``mean_class_accuracy`` and ``macro_f1``, and the mean ``loss``.

        There is no ``top5`` of five classes or fewer.

        Where videos have logits that are NaN or infinite, which count as wrong here, ``non_finite``
        is their number.

        The loss is the plain cross-entropy over the videos that could be decoded. The mean class
        accuracy, which others call balanced accuracy, is over the classes with a video. The F1 of a
        class is ``2 * right / (videos of it + videos taken for it)``; its mean is over the classes
        with a video, or for which one was taken, as in scikit-learn.

        Raises:
            RuntimeError: If a video was counted twice.
        """
        if (self.seen > 1).any():
            twice = (self.seen > 1).nonzero()[:5, 0].tolist()
            raise RuntimeError(f"videos counted more than once, e.g. rows {twice}")
        videos = int(self.total.sum())
        present = self.total > 0
        per_class = self.correct1[present].double() / self.total[present]
        both = self.total + self._taken()
        f1 = 2 * self.correct1[both > 0].double() / both[both > 0]
        decoded = max(1, videos - int(self.undecodable.sum()))
        top5 = {"top5": int(self.correct5.sum()) / max(1, videos)}
        non_finite = int(self.non_finite.sum())
        return {
            **({"non_finite": non_finite} if non_finite else {}),
            "top1": int(self.correct1.sum()) / max(1, videos),
            **(top5 if len(self.total) > 5 else {}),
            "mean_class_accuracy": float(per_class.mean()) if videos else 0.0,
            "macro_f1": float(f1.mean()) if videos else 0.0,
            "loss": float(self.loss_sum) / decoded,
        }

    def details(self) -> dict[str, float]:
        """More scores, for results.json, of the videos with a prediction or without.

        ``macro_`` and ``weighted_`` ``precision``, ``recall`` and ``f1``, as scikit-learn computes
        them with ``zero_division=0``: the plain mean over the classes with a video, or for which
        one was taken, and the mean weighted by the videos of each class. ``calibration_error`` is
        the expected calibration error of the most probable class in 15 bins of equal width
        (Guo et al., arXiv 1706.04599), over the videos that have a prediction.
        """
        taken, right, total = self._taken().double(), self.correct1.double(), self.total.double()
        per_class = {
            "precision": right / taken.clamp(min=1),
            "recall": right / total.clamp(min=1),
            "f1": 2 * right / (total + taken).clamp(min=1),
        }
        present = (total + taken) > 0
        scores: dict[str, float] = {}
        for name, values in per_class.items():
            scores[f"macro_{name}"] = float(values[present].mean()) if present.any() else 0.0
            scores[f"weighted_{name}"] = float((values * total).sum() / total.sum().clamp(min=1))
        return scores | {"calibration_error": self._calibration_error()}

    def _taken(self) -> Tensor:
        """int64 ``[K]``, how many videos were taken for each class."""
        taken = self.predicted[self.predicted > 0].long() - 1
        return torch.bincount(taken, minlength=len(self.total))

    def _calibration_error(self) -> float:
        counted = self.predicted > 0
        if not counted.any():
            return 0.0
        sure = self.top_probabilities[counted, 0].double().cpu()
        right = self.right[counted].double().cpu()
        edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.double)
        inside = torch.bucketize(sure, edges[1:-1])  # [N], a bin's upper end belongs to it
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.double).index_add_(0, inside, right - sure)
        return float(gaps.abs().sum() / len(sure))


class MultiHeadAccuracy(VideoAccuracy):
    """Scores of several heads and of the actions that they name together (EPIC-Kitchens).

    An action is one class of each head; its probability is the product of theirs. What
    `VideoAccuracy` counts of classes is counted of actions here, and of each head besides.

    Args:
        heads: Name and number of classes of each head, in the order of the logits.
        num_videos: Rows of the split.
    """

    head_correct1: Tensor
    head_correct5: Tensor

    def __init__(self, heads: dict[str, int], num_videos: int) -> None:
        super().__init__(math.prod(heads.values()), num_videos)
        self.heads = heads
        for name in ("head_correct1", "head_correct5"):
            self.add_state(name, torch.zeros(len(heads), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor, decoded: Tensor) -> None:
        """Counts a batch of videos.

        Args:
            logits: Float ``[B, K]``, the heads' side by side, averaged over a video's views.
            labels: int64 ``[B, heads]``, a class index within each head.
            indices: As for `VideoAccuracy`.
            decoded: As for `VideoAccuracy`.
        """
        counted = (indices >= 0) & decoded & logits.isfinite().all(dim=1)
        parts = logits[counted].split(list(self.heads.values()), dim=1)
        per_head = zip(parts, labels[counted].unbind(dim=1))
        rank = torch.stack([ranks(head, label) for head, label in per_head])  # [heads, B]
        self.head_correct1 += (rank < 1).sum(dim=1)
        self.head_correct5 += (rank < 5).sum(dim=1)
        joint, action = joint_logits(logits, self.heads), joint_labels(labels, self.heads)
        super().update(joint, action, indices, decoded)

    def compute(self) -> dict[str, float]:
        """``<head>_top1`` and ``<head>_top5``, ``action_top1`` and ``action_top5``.

        Also what `VideoAccuracy.compute` gives, of actions: ``top1`` is ``action_top1``. The
        ``loss`` is the mean of the heads' cross-entropies.

        Raises:
            RuntimeError: If a video was counted twice.
        """
        scores = super().compute()
        videos = max(1, int(self.total.sum()))
        for name, top1, top5 in zip(self.heads, self.head_correct1, self.head_correct5):
            scores[f"{name}_top1"] = int(top1) / videos
            if self.heads[name] > 5:
                scores[f"{name}_top5"] = int(top5) / videos
        of_actions = {f"action_{k}": scores[k] for k in ("top1", "top5") if k in scores}
        return scores | of_actions | {"loss": scores["loss"] / len(self.heads)}


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one, int64 ``[B]``; 0 where it is the best.

    Args:
        logits: Float ``[B, K]``.
        labels: int64 ``[B]``.
    """
    target = logits.gather(1, labels[:, None])  # [B, 1]
    lower_index = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    # Ties go to the lower class index, as with Scenic's argmax.
    return ((logits > target) | ((logits == target) & lower_index)).sum(dim=1)


def joint_logits(logits: Tensor, heads: Mapping[str, int]) -> Tensor:
    """Logits of all combinations of the heads' classes.

    Their softmax is the outer product of the heads' softmaxes. Sums of logits keep apart what
    products of small probabilities would round to the same number, and keep ties.

    Args:
        logits: Float ``[B, K]``, the heads' side by side.
        heads: Name and number of classes of each head.

    Returns:
        Float ``[B, product of heads]``, the last head's class running fastest: of nouns and verbs
        ``noun * verbs + verb``.
    """
    joint = torch.zeros_like(logits[:, :1])
    for head in logits.split(list(heads.values()), dim=1):
        joint = (joint[:, :, None] + head[:, None, :]).flatten(1)
    return joint


def joint_labels(labels: Tensor, heads: Mapping[str, int]) -> Tensor:
    """Place of each combination of classes in `joint_logits`: int64 ``[B, heads]`` -> ``[B]``."""
    joint = torch.zeros_like(labels[:, 0])
    for label, size in zip(labels.unbind(dim=1), heads.values()):
        joint = joint * size + label
    return joint
