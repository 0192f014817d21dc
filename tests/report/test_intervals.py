"""Bootstrap intervals of scores."""

import numpy as np
import pytest
import torch

from vivit_train.metrics import VideoAccuracy
from vivit_train.report.intervals import _scores, intervals


def test_scores_are_those_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(4, size=(200, 2))
    pairs[:20, 1] = -1  # not decoded
    metric = VideoAccuracy(6, 200)  # two classes have no video
    logits = torch.nn.functional.one_hot(torch.from_numpy(pairs[:, 1]).clamp(min=0), 6).float()
    metric.update(
        logits, torch.from_numpy(pairs[:, 0]), torch.arange(200), torch.from_numpy(pairs[:, 1] >= 0)
    )
    expected = metric.compute()
    for name, value in _scores(pairs, 6).items():
        assert value == pytest.approx(expected[name], abs=1e-12)


def test_an_interval_is_about_that_of_the_binomial_distribution() -> None:
    pairs = np.zeros((400, 2), dtype=int)
    pairs[:80, 1] = 1
    low, high = intervals(pairs, 2)["top1"]
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert low == pytest.approx(0.8 - half, abs=0.006)
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_the_same_videos_are_drawn_each_time() -> None:
    pairs = np.random.default_rng(1).integers(3, size=(50, 2))
    assert intervals(pairs, 3) == intervals(pairs, 3)
    assert intervals(np.zeros((0, 2), dtype=int), 3) == {}
