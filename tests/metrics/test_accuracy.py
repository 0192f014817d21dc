import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from tests.golden_files import GOLDEN
from vivit_train.metrics import MultiHeadAccuracy, VideoAccuracy, joint_labels, joint_logits


def draw(num_videos: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right about half of the time, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_videos,), generator=generator)
    logits = torch.randn(num_videos, num_classes, generator=generator)
    logits[torch.arange(num_videos), labels] += 1.5
    return logits, labels


def score(
    logits: Tensor, labels: Tensor, decoded: Tensor | None = None, batch: int = 7
) -> VideoAccuracy:
    """A metric that has seen each video once."""
    metric = VideoAccuracy(logits.shape[1], len(labels))
    decoded = torch.ones(len(labels), dtype=torch.bool) if decoded is None else decoded
    for rows in torch.arange(len(labels)).split(batch):
        metric.update(logits[rows], labels[rows], rows, decoded[rows])
    return metric


@pytest.mark.parametrize("seed", range(4))
def test_against_torchmetrics(seed: int) -> None:
    logits, labels = draw(101, 12, seed)
    # A class without videos is out of the mean; torchmetrics agrees if it is never predicted.
    labels[labels == 3] = 4
    logits[:, 3] = -9
    scores = score(logits, labels).compute()
    for name, k, average in [
        ("top1", 1, "micro"), ("top5", 5, "micro"), ("mean_class_accuracy", 1, "macro"),
    ]:  # fmt: skip
        theirs = MulticlassAccuracy(12, top_k=k, average=average)(logits, labels)
        assert scores[name] == pytest.approx(float(theirs), abs=1e-6)
    assert len({scores[name] for name in ("top1", "top5", "mean_class_accuracy")}) == 3


def test_a_class_that_is_only_predicted_is_out_of_the_mean() -> None:
    logits = torch.eye(3)[[0, 0, 2, 1]]
    scores = score(logits, torch.tensor([0, 0, 0, 1])).compute()
    assert scores["mean_class_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("never", [(), (3,), (3, 7)])
def test_macro_f1_is_that_of_torchmetrics(never: tuple[int, ...]) -> None:
    """Also with classes that there is neither a video of nor one taken for."""
    logits, labels = draw(101, 12, 1)
    for k in never:
        labels[labels == k] = 4
        logits[:, k] = -9
    theirs = MulticlassF1Score(12, average="macro")(logits, labels)
    assert score(logits, labels).compute()["macro_f1"] == pytest.approx(float(theirs), abs=1e-6)


def test_macro_f1_of_what_is_only_predicted_and_of_what_cannot_be_decoded() -> None:
    logits = torch.eye(4)[[0, 0, 2, 1, 1]]
    decoded = torch.tensor([True, True, True, True, False])
    scores = score(logits, torch.tensor([0, 0, 0, 1, 1]), decoded).compute()
    # Class 0: 2 of 3 found. Class 1: 1 of 2. Class 2: one taken for it. Class 3: not there.
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_loss() -> None:
    logits, labels = draw(50, 6)
    loss = score(5 * logits, labels).compute()["loss"]
    assert loss == pytest.approx(float(F.cross_entropy(5 * logits, labels)), rel=1e-5)


def test_padding_does_not_count() -> None:
    logits, labels = draw(10, 4)
    plain = score(logits, labels)
    metric = score(logits, labels)
    padding = torch.full((3, 4), torch.nan)
    no = torch.zeros(3, dtype=torch.bool)
    for decoded in (no, ~no):
        metric.update(padding, torch.zeros(3).long(), torch.full((3,), -1), decoded)
    assert metric.compute() == plain.compute()
    assert metric.seen.tolist() == [1] * 10
    assert metric.undecodable.sum() == 0


def test_an_undecodable_video_counts_as_wrong() -> None:
    logits, labels = draw(20, 6)
    logits = 3.0 * F.one_hot(labels, 6)  # all right, whatever is said of the black frames
    decoded = torch.ones(20, dtype=torch.bool)
    decoded[[3, 11]] = False
    metric = score(logits, labels, decoded)
    scores = metric.compute()
    assert scores["top1"] == scores["top5"] == 18 / 20
    per_class = [float(decoded[labels == k].float().mean()) for k in range(6)]
    assert scores["mean_class_accuracy"] == pytest.approx(sum(per_class) / 6)
    assert metric.undecodable.nonzero()[:, 0].tolist() == [3, 11]
    kept = F.cross_entropy(logits[decoded], labels[decoded])
    assert scores["loss"] == pytest.approx(float(kept))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_wrong(value: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 0.0, 0.0, 0.0]] * 2)
    logits[1, 0] = value
    metric = score(logits, torch.tensor([1, 1]))
    scores = metric.compute()
    assert scores["top1"] == scores["top5"] == 0.5
    assert scores["non_finite"] == 1
    assert metric.non_finite.tolist() == [0, 1]


def test_ties_go_to_the_lower_class() -> None:
    even = torch.zeros(8, 8)  # a new model's logits
    scores = score(even, torch.arange(8)).compute()
    assert scores["top1"] == 1 / 8
    assert scores["top5"] == 5 / 8
    tied = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    metric = score(tied, torch.tensor([1, 2]))
    assert metric.correct1.tolist() == [0, 1, 0]


@pytest.mark.parametrize("num_classes", [3, 5, 6])
def test_top5_of_five_classes_or_fewer_says_nothing_and_is_left_out(num_classes: int) -> None:
    scores = score(*draw(30, num_classes)).compute()
    assert ("top5" in scores) is (num_classes > 5)
    assert 0 < scores["top1"] < 1


def test_top5_of_a_head_with_five_classes_or_fewer() -> None:
    scores = MultiHeadAccuracy({"noun": 7, "verb": 5}, 0).compute()
    assert {"top5", "action_top5", "noun_top5"} < scores.keys()
    assert "verb_top5" not in scores
    assert "action_top5" not in MultiHeadAccuracy({"noun": 2, "verb": 2}, 0).compute()


def test_a_video_counted_twice() -> None:
    logits, labels = draw(10, 4)
    metric = score(logits, labels)
    metric.update(logits[4:6], labels[4:6], torch.tensor([4, 5]), torch.ones(2, dtype=torch.bool))
    with pytest.raises(RuntimeError, match=r"more than once, e\.g\. rows \[4, 5\]"):
        metric.compute()


def shared(
    logits: Tensor, labels: Tensor, decoded: Tensor, processes: int
) -> tuple[VideoAccuracy, VideoAccuracy]:
    """A metric that saw all videos, and one whose states are summed over processes, padded."""
    num_videos, num_classes = logits.shape
    parts = []
    for rank in range(processes):
        metric = VideoAccuracy(num_classes, num_videos)
        rows = torch.arange(rank, -(-num_videos // processes) * processes, processes)
        rows[rows >= num_videos] = -1
        metric.update(logits[rows], labels[rows], rows, decoded[rows])
        parts.append(metric)
    merged = VideoAccuracy(num_classes, num_videos)
    for name, reduce in merged._reductions.items():
        states = torch.stack([getattr(metric, name) for metric in parts])
        setattr(merged, name, reduce(states))
    merged._update_count = 1
    return score(logits, labels, decoded, batch=4), merged


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_count_as_one(processes: int) -> None:
    """States are summed, as torchmetrics does between processes; padding is in some of them."""
    logits, labels = draw(11, 5)
    decoded = torch.ones(11, dtype=torch.bool)
    decoded[[2, 7]] = False
    whole, merged = shared(logits, labels, decoded, processes)
    exact, loss = whole.compute(), merged.compute()
    assert loss.pop("loss") == pytest.approx(exact.pop("loss"))
    assert loss == exact
    assert merged.details() == whole.details()
    for name in ("seen", "right", "undecodable", "top_classes", "true_probability"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("case", ["plain", "ties", "absent", "undecodable"])
def test_details_are_scikit_learns(case: str, processes: int) -> None:
    logits, labels = draw(101, 12)
    decoded = torch.ones(101, dtype=torch.bool)
    if case == "ties":
        logits = logits.round()
    if case == "absent":  # a class without videos, one that is never predicted, one with neither
        labels[(labels == 3) | (labels == 7)] = 4
        logits[:, [5, 7]] = -9
    if case == "undecodable":
        decoded[::9] = False
    whole, merged = shared(logits, labels, decoded, processes)
    guesses = np.where(decoded, logits.numpy().argmax(axis=1), 12)  # 12: none
    expected = {}
    present = sorted({*labels.tolist(), *guesses.tolist()} - {12})
    for average in ("macro", "weighted"):
        values = precision_recall_fscore_support(
            labels, guesses, labels=present, average=average, zero_division=0
        )
        names = (f"{average}_{name}" for name in ("precision", "recall", "f1"))
        expected |= dict(zip(names, values))
    found = merged.details()
    found.pop("calibration_error")
    assert found == pytest.approx(expected, abs=1e-12)
    assert found["weighted_recall"] == pytest.approx(whole.compute()["top1"], abs=1e-12)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    logits, labels = draw(500, 6)
    theirs = MulticlassCalibrationError(6, n_bins=15, norm="l1")(logits.softmax(dim=1), labels)
    assert score(logits, labels).details()["calibration_error"] == pytest.approx(
        float(theirs), abs=1e-6
    )
    sure = F.one_hot(labels, 6) * 50.0
    assert score(sure, labels).details()["calibration_error"] == pytest.approx(0)
    assert score(sure.roll(1, 1), labels).details()["calibration_error"] == pytest.approx(1)


@pytest.mark.parametrize("num_classes", [3, 12])
def test_the_top_classes_of_each_video(num_classes: int) -> None:
    """Ties go to the lower class, as in top-1; what is not decoded has none."""
    logits, labels = draw(20, num_classes)
    logits = logits.round()
    decoded = torch.arange(20) != 4
    metric = score(logits, labels, decoded)
    probabilities = logits.double().softmax(dim=1).numpy()
    for row in range(20):
        best = np.argsort(-logits[row].numpy(), kind="stable")[:5]
        expected = best + 1 if row != 4 else np.zeros_like(best)
        assert metric.top_classes[row].tolist() == expected.tolist()
        shown = probabilities[row, best] if row != 4 else np.zeros(len(best))
        np.testing.assert_allclose(metric.top_probabilities[row], shown, atol=1e-6)
        true = probabilities[row, labels[row]] if row != 4 else 0
        assert float(metric.true_probability[row]) == pytest.approx(true, abs=1e-6)


def test_details_without_a_video() -> None:
    assert set(VideoAccuracy(3, 0).details().values()) == {0.0}


def test_batch_size_changes_nothing() -> None:
    logits, labels = draw(23, 6)
    scores = [score(logits, labels, batch=size).compute() for size in (1, 5, 23)]
    for other in scores[1:]:
        assert {k: v for k, v in other.items() if k != "loss"} == {
            k: v for k, v in scores[0].items() if k != "loss"
        }


def test_reset() -> None:
    logits, labels = draw(10, 4)
    metric = score(logits, labels)
    metric.reset()
    rows = torch.arange(10)
    metric.update(logits, labels, rows, torch.ones(10, dtype=torch.bool))
    assert metric.compute() == score(logits, labels, batch=10).compute()


def test_bf16_logits_are_what_the_caller_makes_them() -> None:
    logits, labels = draw(40, 8)
    logits = logits.bfloat16().float()
    expected = MulticlassAccuracy(8, average="micro")(logits, labels)
    assert score(logits, labels).compute()["top1"] == pytest.approx(float(expected))


def recorded(name: str) -> dict[str, Tensor]:
    """A part of the original's recording of several heads."""
    with np.load(GOLDEN / "multihead.npz") as arrays:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(f"{name}/")
        }


def score_heads(
    arrays: dict[str, Tensor], indices: Tensor, decoded: Tensor | None = None, batch: int = 3
) -> MultiHeadAccuracy:
    logits, labels = arrays["logits"], arrays["labels"]
    nouns, verbs = arrays["class_splits"].tolist()
    metric = MultiHeadAccuracy({"noun": nouns, "verb": verbs}, len(labels))
    decoded = torch.ones(len(labels), dtype=torch.bool) if decoded is None else decoded
    for rows in torch.arange(len(labels)).split(batch):
        metric.update(logits[rows], labels[rows], indices[rows], decoded[rows])
    return metric


@pytest.mark.parametrize("name", ["small", "epic_300_97"])
@pytest.mark.parametrize("mask", ["nomask", "mask"])
def test_the_originals_scores_of_several_heads(name: str, mask: str) -> None:
    arrays = recorded(name)
    indices = torch.arange(len(arrays["labels"]))
    if mask == "mask":  # what the original masks is padding
        indices[arrays["batch_mask"] == 0] = -1
    scores = score_heads(arrays, indices).compute()
    for ours, theirs in {"noun": "noun", "verb": "verb", "action": "noun-verb"}.items():
        for k, suffix in ((1, ""), (5, "_top_5")):
            hits, count = arrays[f"metric/{mask}/{theirs}_accuracy{suffix}"].tolist()
            assert scores[f"{ours}_top{k}"] == hits / count
    total, count = arrays[f"metric/{mask}/total_loss"].tolist()
    assert scores["loss"] == pytest.approx(total / count, rel=1e-6)
    assert (scores["top1"], scores["top5"]) == (scores["action_top1"], scores["action_top5"])


def test_the_originals_actions() -> None:
    arrays = recorded("small")
    heads = dict(zip(("noun", "verb"), arrays["class_splits"].tolist()))
    torch.testing.assert_close(
        joint_logits(arrays["logits"], heads).softmax(dim=1),
        arrays["joint_probs"],
        rtol=1e-5,
        atol=1e-9,
    )
    assert torch.equal(joint_labels(arrays["labels"], heads), arrays["joint_label_index"])
    arrays, heads = recorded("epic_300_97"), {"noun": 300, "verb": 97}
    joint = joint_logits(arrays["logits"], heads)
    best = joint.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(best[:, :5], arrays["joint_top5"].long())
    assert torch.equal(best[:, 0], arrays["joint_argmax"])
    assert torch.equal(joint_labels(arrays["labels"], heads), arrays["joint_label_index"])


def test_heads_of_videos_that_cannot_be_decoded_or_are_not_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(k, (9,), generator=generator) for k in (7, 6)], dim=1)
    logits = torch.cat([9.0 * F.one_hot(labels[:, i], k) for i, k in enumerate((7, 6))], dim=1)
    arrays = {"logits": logits, "labels": labels, "class_splits": torch.tensor([7, 6])}
    decoded = torch.ones(9, dtype=torch.bool)
    scores = score_heads(arrays, torch.arange(9)).compute()
    by_hand = sum(math.log(1 + (k - 1) * math.exp(-9)) for k in (7, 6)) / 2
    assert scores.pop("loss") == pytest.approx(by_hand, rel=1e-2)
    assert set(scores.values()) == {1.0}
    decoded[4] = False
    logits[2, 1] = torch.nan
    metric = score_heads(arrays, torch.arange(9), decoded)
    scores = metric.compute()
    assert scores.pop("non_finite") == 1
    del scores["loss"], scores["mean_class_accuracy"], scores["macro_f1"]
    assert set(scores) == {
        "top1", "top5", "noun_top1", "noun_top5", "verb_top1", "verb_top5", "action_top1",
        "action_top5",
    }  # fmt: skip
    assert set(scores.values()) == {7 / 9}
    assert metric.undecodable.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_mean_class_accuracy_is_of_actions() -> None:
    labels = torch.tensor([[0, 0], [0, 0], [1, 0], [6, 5]])
    shown = torch.tensor([[0, 0], [0, 1], [1, 0], [6, 5]])
    logits = torch.cat([9.0 * F.one_hot(shown[:, i], k) for i, k in enumerate((7, 6))], dim=1)
    arrays = {"logits": logits, "labels": labels, "class_splits": torch.tensor([7, 6])}
    scores = score_heads(arrays, torch.arange(4)).compute()
    assert scores["mean_class_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert (scores["noun_top1"], scores["verb_top1"], scores["top1"]) == (1, 0.75, 0.75)


def test_small_probabilities_stay_apart() -> None:
    """Products of them would all be zero in float32."""
    logits = torch.tensor([[0.0, -80.0, -81.0, 0.0, -60.0, -61.0]])
    order = joint_logits(logits, {"noun": 3, "verb": 3}).argsort(descending=True)[0].tolist()
    assert order[:5] == [0, 1, 2, 3, 6]
    assert order[-1] == 8


def test_heads_over_two_processes() -> None:
    arrays = recorded("epic_300_97")
    whole = score_heads(arrays, torch.arange(6)).compute()
    parts = [torch.arange(6), torch.arange(6)]
    for rank, indices in enumerate(parts):
        indices[torch.arange(6) % 2 != rank] = -1
    halves = [score_heads(arrays, indices) for indices in parts]
    merged = MultiHeadAccuracy({"noun": 300, "verb": 97}, 6)
    for name, reduce in merged._reductions.items():
        setattr(merged, name, reduce(torch.stack([getattr(half, name) for half in halves])))
    merged._update_count = 1
    assert merged.compute() == pytest.approx(whole)
