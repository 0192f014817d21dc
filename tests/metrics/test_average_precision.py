"""Scores of videos with any number of classes, against scikit-learn's."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor

from vivit_train.metrics import MultiLabelScores, average_precision


def draw(videos: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that know something, and labels; class 0 is rare."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.linspace(0.05, 0.6, classes)
    labels = (torch.rand(videos, classes, generator=generator) < shares).long()
    return torch.randn(videos, classes, generator=generator) * 2 + 2 * labels - 2, labels


def shared(
    logits: Tensor, labels: Tensor, decoded: Tensor | None = None, processes: int = 1
) -> MultiLabelScores:
    """Scores whose states are summed over processes, as torchmetrics does, with padding in some."""
    number, classes = logits.shape
    decoded = torch.ones(number, dtype=torch.bool) if decoded is None else decoded
    parts = []
    for rank in range(processes):
        part = MultiLabelScores(classes, number)
        rows = torch.arange(rank, -(-number // processes) * processes, processes)
        rows[rows >= number] = -1
        for some in rows.split(4):
            part.update(logits[some], labels[some], some, decoded[some])
        parts.append(part)
    merged = MultiLabelScores(classes, number)
    for name, reduce in merged._reductions.items():
        setattr(merged, name, reduce(torch.stack([getattr(part, name) for part in parts])))
    merged._update_count = 1
    return merged


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("case", ["plain", "ties", "absent", "all"])
def test_scores_are_scikit_learns(case: str, processes: int) -> None:
    logits, labels = draw(101, 8)
    if case == "ties":
        logits = logits.round()
    if case == "absent":  # one that is taken for shown, and one that is not
        labels[:, [2, 5]] = 0
        logits[:, 5] = -9
    if case == "all":
        labels[:, 3] = 1
    scores = shared(logits, labels, processes=processes)
    found, truth, values = scores.compute(), labels.numpy(), logits.numpy()
    present = truth.any(axis=0)
    expected = [average_precision_score(truth[:, k], values[:, k]) for k in np.flatnonzero(present)]
    of_classes = scores.average_precisions().numpy()
    assert np.isnan(of_classes).tolist() == (~present).tolist()
    np.testing.assert_allclose(of_classes[present], expected, rtol=0, atol=1e-12)
    assert found["map"] == pytest.approx(np.mean(expected), abs=1e-12)
    micro = average_precision_score(truth.ravel(), values.ravel())
    assert found["micro_map"] == pytest.approx(micro, abs=1e-12)
    taken = values >= 0
    both = present | taken.any(axis=0)
    told = found | scores.details()
    for average, names in (("micro", truth >= 0), ("macro", both)):
        chosen = both if average == "macro" else names.any(axis=0)
        values_of = precision_recall_fscore_support(
            truth[:, chosen], taken[:, chosen], average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), values_of):
            assert told[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)
    loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double())
    assert found["loss"] == pytest.approx(float(loss), abs=1e-12)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_count_as_one(processes: int) -> None:
    """To the last digit, the loss too."""
    logits, labels = draw(11, 5)
    decoded = torch.arange(11) % 4 != 2
    one, several = (shared(logits, labels, decoded, n) for n in (1, processes))
    assert several.compute() == one.compute()
    assert several.details() == one.details()
    assert torch.equal(several.logits, one.logits)


@pytest.mark.parametrize("how", ["undecodable", "nan"])
def test_a_video_without_a_prediction_is_found_in_none_of_its_classes(how: str) -> None:
    """It counts among the videos of its classes and adds nothing: it never helps."""
    logits, labels = draw(60, 4)
    left = torch.arange(60) % 5 != 3
    decoded = torch.ones(60, dtype=torch.bool)
    if how == "undecodable":
        decoded, logits[~left] = left, 50.0
    else:
        logits[~left, 1] = math.nan
    scores = shared(logits, labels, decoded)
    found = scores.compute()
    assert found.pop("non_finite", 0) == (int((~left).sum()) if how == "nan" else 0)
    without = shared(logits[left], labels[left]).compute()
    truth, values = labels.numpy(), logits.numpy()
    expected = []
    for k in range(4):
        of_the_rest = average_precision_score(truth[left, k], values[left, k])
        expected.append(of_the_rest * truth[left, k].sum() / truth[:, k].sum())
    assert found["map"] == pytest.approx(np.mean(expected), abs=1e-12)
    for name in ("map", "micro_map", "micro_f1", "macro_f1"):
        assert found[name] < without[name]
    assert (
        scores.details()["micro_precision"]
        == shared(logits[left], labels[left]).details()["micro_precision"]
    )
    assert math.isnan(found["loss"]) if how == "nan" else found["loss"] == without["loss"]
    none = shared(logits, labels, torch.zeros(60, dtype=torch.bool)).compute()
    assert set(none.values()) == {0.0}


def test_a_video_that_is_seen_twice() -> None:
    logits, labels = draw(6, 3)
    scores, decoded = MultiLabelScores(3, 6), torch.ones(6, dtype=torch.bool)
    for rows in (torch.arange(6), torch.tensor([4, -1])):
        scores.update(logits[: len(rows)], labels[: len(rows)], rows, decoded[: len(rows)])
    with pytest.raises(RuntimeError, match=r"more than once, e\.g\. rows \[4\]"):
        scores.compute()


def test_scores_of_nothing() -> None:
    assert set(MultiLabelScores(3, 0).compute().values()) == {0.0}
    assert set(MultiLabelScores(3, 0).details().values()) == {0.0}
    logits, labels = draw(5, 3)
    assert shared(logits, labels * 0).compute()["map"] == 0


def test_average_precision_by_hand() -> None:
    scores = torch.tensor([0.9, 0.8, 0.8, 0.1])
    assert average_precision(scores, torch.tensor([1, 0, 1, 0])) == 0.5 + 0.5 * 2 / 3
    assert average_precision(scores, torch.tensor([1, 0, 1, 0]), missed=2) == 0.25 + 0.25 * 2 / 3
    assert math.isnan(average_precision(scores, torch.zeros(4)))
    assert average_precision(scores[:0], torch.zeros(0), missed=1) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert average_precision(torch.full((4,), -1.0), torch.tensor([0, 1, 0, 0])) == 0.25
