"""Scores of a split, exact for any number of processes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class VideoAccuracy(Metric):
    """Top-1, top-5 and mean class accuracy over the videos of a split.

    Integer counts, summed over processes: every number of processes and every batch size gives
    the same scores to the last digit. A video that cannot be decoded counts as wrong; a padding
    row does not count; a video that is seen twice is an error, not a second vote.

    Args:
        num_classes: Classes K.
        num_videos: Rows of the split.
    """

    full_state_update = False
    correct1: Tensor
    correct5: Tensor
    total: Tensor
    seen: Tensor
    undecodable: Tensor
    loss_sum: Tensor

    def __init__(self, num_classes: int, num_videos: int) -> None:
        super().__init__()
        for name in ("correct1", "correct5", "total"):  # per class
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("seen", "undecodable"):  # per video
            self.add_state(name, torch.zeros(num_videos, dtype=torch.int), dist_reduce_fx="sum")
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
        target = logits.gather(1, labels[:, None])  # [B, 1]
        lower_index = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
        # Ties go to the lower class index, as the original's argmax does.
        above = (logits > target) | ((logits == target) & lower_index)
        rank = above.sum(dim=1)
        self.total.index_add_(0, labels, torch.ones_like(labels))
        self.correct1.index_add_(0, labels, (valid & (rank < 1)).long())
        self.correct5.index_add_(0, labels, (valid & (rank < 5)).long())
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int))
        self.undecodable.index_add_(0, indices, (~decoded).int())
        losses = logits.logsumexp(dim=1) - target[:, 0]
        self.loss_sum += losses[decoded].sum()

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5`` and ``mean_class_accuracy`` as fractions, and the mean ``loss``.

        The loss is the plain cross-entropy over the videos that could be decoded. Classes without
        a video do not enter the mean class accuracy.

        Raises:
            RuntimeError: If a video was counted twice.
        """
        if (self.seen > 1).any():
            twice = (self.seen > 1).nonzero()[:5, 0].tolist()
            raise RuntimeError(f"videos counted more than once, e.g. rows {twice}")
        videos = int(self.total.sum())
        present = self.total > 0
        per_class = self.correct1[present].double() / self.total[present]
        decoded = max(1, videos - int(self.undecodable.sum()))
        return {
            "top1": int(self.correct1.sum()) / max(1, videos),
            "top5": int(self.correct5.sum()) / max(1, videos),
            "mean_class_accuracy": float(per_class.mean()) if videos else 0.0,
            "loss": float(self.loss_sum) / decoded,
        }
