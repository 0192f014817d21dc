"""A linear probe: ridge regression from features to classes, in closed form."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vivit_train.runs.scores import wilson_interval

# Penalties, relative to the mean square of the features, of which the best is taken.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


class Probe:
    """A linear classifier on standardised features, with what it gives with each video left out.

    Ridge regression on one-hot targets (Hastie, Tibshirani and Friedman, *The Elements of
    Statistical Learning*, §3.4.1, §4.2). As its output is linear in the targets, leaving one video
    out is exact without fitting again (§7.10.1).

    Args:
        values: float ``[N, D]``.
        labels: int64 ``[N]``.
        num_classes: K.

    Attributes:
        labels: int64 ``[N]``.
        left_out: float64 ``[N, K]``: the score of each class for each video, of a probe that was
            fitted to the others.
    """

    def __init__(self, values: Tensor, labels: Tensor, num_classes: int) -> None:
        self.labels = labels
        self._mean, self._scale = values.double().mean(dim=0), values.double().std(dim=0)
        self._x = self._standard(values)  # [N, D]
        self._targets = F.one_hot(labels, num_classes).double()
        self._shares = self._targets.mean(dim=0)  # the intercept, which has no penalty
        fits = []
        for penalty in PENALTIES:
            self._fit(penalty)
            fits.append((self.accuracy, -penalty))
        self._fit(-max(fits)[1])

    def _fit(self, penalty: float) -> None:
        x, (n, d) = self._x, self._x.shape
        ridge = penalty * x.square().sum(dim=1).mean().clamp(min=1e-12)
        if d < n:  # the same either way: the smaller system is solved
            self._weights = torch.linalg.solve(
                x.T @ x + ridge * torch.eye(d).double(), x.T
            )  # [D, N]
        else:
            self._weights = torch.linalg.solve(
                x @ x.T + ridge * torch.eye(n).double(), x
            ).T  # [D, N]
        itself = (x * self._weights.T).sum(dim=1) + 1 / n  # [N], the hat matrix's diagonal
        fitted = x @ (self._weights @ self._targets) + self._shares  # [N, K]
        self._residual = (self._targets - fitted) / (1 - itself)[:, None]
        self.left_out = self._targets - self._residual

    @property
    def accuracy(self) -> float:
        """The share of videos that a probe fitted to the others gets right."""
        return float((self.left_out.argmax(dim=1) == self.labels).double().mean())

    @property
    def guessing(self) -> float:
        """The share of videos of the most frequent class."""
        return int(self.labels.bincount().max()) / len(self.labels)

    @property
    def knows_something(self) -> bool:
        """Whether it is clearly better than naming the most frequent class each time."""
        right = round(self.accuracy * len(self.labels))
        return wilson_interval(right, len(self.labels))[0] > self.guessing

    def __call__(self, values: Tensor) -> Tensor:
        """Scores of other videos: float ``[M, D]`` -> float64 ``[M, K]``."""
        return self._standard(values) @ (self._weights @ self._targets) + self._shares

    def left_out_of(self, values: Tensor) -> Tensor:
        """Scores of other clips of the same videos, each of a probe that has not seen its video.

        Args:
            values: float ``[N, D]``, in the order of the videos.

        Returns:
            float64 ``[N, K]``.
        """
        itself = (self._standard(values) * self._weights.T).sum(dim=1) + 1 / len(self._x)  # [N]
        return self(values) - itself[:, None] * self._residual

    def _standard(self, values: Tensor) -> Tensor:
        return (values.double() - self._mean) / (self._scale + 1e-6)
