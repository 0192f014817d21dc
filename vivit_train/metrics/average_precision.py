"""Scores of videos that have any number of the classes: average precision, and F1."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class MultiLabelScores(Metric):
    """Mean average precision and F1 over the videos of a split, in each of which any class may be.

    Logits and labels of every video, summed over processes: every number of processes and every
    batch size gives the same scores to the last digit. A padding row does not count; a video that
    is seen twice is an error, not a second vote. A video that cannot be decoded, or has logits
    that are not finite, is found in none of its classes: it counts among their videos, adds no
    precision, and raises no false alarm. So it never makes a score better than leaving it out.

    Args:
        num_classes: Classes K.
        num_videos: Rows of the split.

    Attributes:
        logits: float32 ``[num_videos, K]``, 0 where a video has no prediction. Like all states
            of one process until synced.
        labels: int32 ``[num_videos, K]``, 1 for each class of a video.
        seen: int32 ``[num_videos]``, 1 where the video was scored.
        undecodable: int32 ``[num_videos]``, 1 where it could not be decoded.
        non_finite: int32 ``[num_videos]``, 1 for each video whose logits are NaN or infinite.
    """

    full_state_update = False
    logits: Tensor
    labels: Tensor
    seen: Tensor
    undecodable: Tensor
    non_finite: Tensor

    def __init__(self, num_classes: int, num_videos: int) -> None:
        super().__init__()
        table = (num_videos, num_classes)
        self.add_state("logits", torch.zeros(table), dist_reduce_fx="sum")
        self.add_state("labels", torch.zeros(table, dtype=torch.int), dist_reduce_fx="sum")
        for name in ("seen", "undecodable", "non_finite"):
            self.add_state(name, torch.zeros(num_videos, dtype=torch.int), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor, decoded: Tensor) -> None:
        """Keeps a batch of videos.

        Args:
            logits: Float ``[B, K]``, already averaged over a video's views.
            labels: int64 ``[B, K]``, 0 or 1 of each class.
            indices: int64 ``[B]``, the video's row; -1 marks padding.
            decoded: bool ``[B]``; where False the logits mean nothing.
        """
        real = indices >= 0
        logits, labels, indices = logits[real].float(), labels[real], indices[real]
        decoded = decoded[real]
        valid = decoded & logits.isfinite().all(dim=1)
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int))
        self.undecodable.index_add_(0, indices, (~decoded).int())
        self.non_finite.index_add_(0, indices, (decoded & ~valid).int())
        self.logits.index_add_(0, indices, logits.where(valid[:, None], 0.0))
        self.labels.index_add_(0, indices, labels.int())

    @property
    def predicted(self) -> Tensor:
        """bool ``[num_videos]``, whether a video has a prediction."""
        return (self.seen > 0) & (self.undecodable == 0) & (self.non_finite == 0)

    def compute(self) -> dict[str, float]:
        """``map``, ``micro_map``, ``micro_f1`` and ``macro_f1``, and the mean ``loss``.

        ``map`` is the mean of the classes' average precisions, over the classes that a video has;
        ``micro_map`` that of all pairs of a video and a class in one list. Both are scikit-learn's
        ``average_precision_score`` of the logits, where all videos have a prediction. The F1 are
        of the classes with a probability of 0.5 or more; the macro one is over the classes that a
        video has, or is taken to have. The loss is the plain binary cross-entropy over the videos
        that have a prediction; NaN if logits are not finite.

        Where videos have logits that are NaN or infinite ``non_finite`` is their number.

        Raises:
            RuntimeError: If a video was counted twice.
        """
        if (self.seen > 1).any():
            twice = (self.seen > 1).nonzero()[:5, 0].tolist()
            raise RuntimeError(f"videos counted more than once, e.g. rows {twice}")
        has_prediction = self.predicted
        logits, labels = self.logits[has_prediction], self.labels[has_prediction]
        missed = int(self.labels.sum() - labels.sum())
        micro = average_precision(logits.ravel(), labels.ravel(), missed)
        loss = 0.0
        if len(logits):
            loss = float(F.binary_cross_entropy_with_logits(logits.double(), labels.double()))
        non_finite = int(self.non_finite.sum())
        right, taken, total = (part.double() for part in self.counts())
        f1 = 2 * right / (taken + total)  # NaN where both are 0
        return {
            **({"non_finite": non_finite} if non_finite else {}),
            "map": _mean(self.average_precisions()),
            "micro_map": 0.0 if math.isnan(micro) else micro,
            "micro_f1": _ratio(2 * right.sum(), (taken + total).sum()),
            "macro_f1": _mean(f1),
            "loss": math.nan if non_finite else loss,
        }

    def details(self) -> dict[str, float]:
        """More scores, for results.json: precision and recall at a probability of 0.5.

        ``micro_`` of all pairs of a video and a class that have, or are taken to have, each other;
        ``macro_`` the plain mean over the classes that a video has, or is taken to have. As
        scikit-learn computes them with ``zero_division=0``.
        """
        right, taken, total = (part.double() for part in self.counts())
        present = (taken + total) > 0
        return {
            "micro_precision": _ratio(right.sum(), taken.sum()),
            "micro_recall": _ratio(right.sum(), total.sum()),
            "macro_precision": _mean((right / taken.clamp(min=1))[present]),
            "macro_recall": _mean((right / total.clamp(min=1))[present]),
        }

    def average_precisions(self) -> Tensor:
        """float64 ``[K]`` on the CPU, of each class; NaN where no video has it."""
        has_prediction = self.predicted
        logits, labels = self.logits[has_prediction].cpu(), self.labels[has_prediction].cpu()
        missed = self.labels.cpu().sum(dim=0) - labels.sum(dim=0)  # [K]
        found = [
            average_precision(logits[:, k], labels[:, k], int(missed[k]))
            for k in range(logits.shape[1])
        ]
        return torch.tensor(found, dtype=torch.double)

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """int64 ``[K]`` each: videos rightly taken for a class, taken for it, and of it."""
        taken = (self.logits >= 0) & self.predicted[:, None]  # [N, K], a probability of 0.5
        return (taken & (self.labels > 0)).sum(dim=0), taken.sum(dim=0), self.labels.sum(dim=0)


def average_precision(scores: Tensor, labels: Tensor, missed: int = 0) -> float:
    """Average precision: the mean precision at the places of a list's positives.

    ``sum_n (R_n - R_(n-1)) * P_n`` over the distinct scores, the highest first, with precision P_n
    and recall R_n of all that score as high or higher: so the order of equal scores is of no
    matter. It is scikit-learn's ``average_precision_score``.

    Args:
        scores: Float ``[N]``, the higher the surer.
        labels: int ``[N]``, 1 for positives, else 0.
        missed: Positives without a score: found nowhere, they add to the number of positives alone.

    Returns:
        NaN where there are no positives.
    """
    positives = int(labels.sum()) + missed
    if not positives:
        return math.nan
    scores, order = scores.sort(descending=True)
    ends = torch.cat([scores[1:] != scores[:-1], scores.new_ones(min(1, len(scores))) > 0])
    places = ends.nonzero()[:, 0]  # of the last of each group of equal scores
    hits = labels[order].cumsum(0)[places].double()
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((gained * hits / (places + 1)).sum() / positives)


def _mean(values: Tensor) -> float:
    """The mean of what is not NaN; 0 of nothing."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole else 0.0
