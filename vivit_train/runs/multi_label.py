"""What lies behind the scores of videos with any number of classes, in tables."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.metrics import TOP, MultiLabelScores, average_precision

# Of a large test these videos stand for all where it is compared with guessing.
MOST_COMPARED = 1000
# A score above all of so many made by chance is so by chance itself in 1 of 20 cases.
SHUFFLES = 19


def class_table(scores: MultiLabelScores, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class.

    Args:
        scores: Summed over processes.
        class_names: All classes.

    Returns:
        ``class``; ``videos`` that have it; ``prevalence``, their share of all, which is the average
        precision of guessing; ``average_precision``, empty where no video has it; at a
        probability of 0.5 ``predicted``, the videos that were taken to have it, ``correct``, how
        many of these do, and ``precision``, ``recall`` and ``f1``, empty where they are of nothing.
    """
    right, taken, videos = (part.tolist() for part in scores.counts())
    number = int((scores.seen > 0).sum())
    of_classes = scores.average_precisions().tolist()

    def share(part: float, whole: float) -> float | str:
        return part / whole if whole else ""

    return [
        {
            "class": name,
            "videos": videos[k],
            "prevalence": share(videos[k], number),
            "average_precision": "" if math.isnan(of_classes[k]) else of_classes[k],
            "predicted": taken[k],
            "correct": right[k],
            "precision": share(right[k], taken[k]),
            "recall": share(right[k], videos[k]),
            "f1": share(2 * right[k], taken[k] + videos[k]),
        }
        for k, name in enumerate(class_names)
    ]


def prediction_table(scores: MultiLabelScores, data: VideoDataModule) -> list[dict[str, Any]]:
    """A row for each video that was scored; several classes are joined by ``; ``.

    Args:
        scores: Summed over processes.
        data: Whose split ``test`` was scored.

    Returns:
        ``video``; ``class``, those that it has; ``predicted``, those with a probability of 0.5 or
        more; ``correct``, whether these are the same; ``probabilities`` of the predicted;
        ``largest_error``, the largest difference of a probability from 0 or 1 as it should be;
        ``top5``, the most probable classes. The last three are empty without a prediction.
    """
    records, names = data.records["test"], data.class_names
    probabilities = scores.logits.sigmoid().cpu().numpy()  # [N, K]
    is_taken = (scores.logits >= 0).cpu().numpy()  # [N, K]
    errors = np.abs(probabilities - scores.labels.cpu().numpy()).max(axis=1)  # [N]
    has_prediction = scores.predicted.cpu().numpy()

    def joined(classes: Sequence[int]) -> str:
        return "; ".join(names[k] for k in classes)

    def table_row(i: int) -> dict[str, Any]:
        order = np.argsort(-probabilities[i], kind="stable").tolist() * bool(has_prediction[i])
        taken = [k for k in order if is_taken[i, k]]
        return {
            "video": records.name(i),
            "class": joined(records.classes(i)),
            "predicted": joined(taken),
            "correct": int(bool(order) and sorted(taken) == records.classes(i)),
            "probabilities": "; ".join(f"{probabilities[i, k]:.4f}" for k in taken),
            "largest_error": f"{errors[i]:.4f}" if order else "",
            "top5": " | ".join(f"{names[k]} {probabilities[i, k]:.4f}" for k in order[:TOP]),
        }

    return [table_row(int(i)) for i in (scores.seen > 0).nonzero()[:, 0]]


def no_better_than_guessing(scores: MultiLabelScores, seed: int = 0) -> str | None:
    """Says so where the mean average precision is not above those of the same scores, shuffled.

    Args:
        scores: Summed over processes.
        seed: Of the shuffles.

    Returns:
        The figures; ``None`` where the score is better, or there is nothing to tell apart: each
        class is shown in all videos or in none.
    """
    rows = (scores.seen > 0).nonzero()[:, 0].cpu()
    draw = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=draw)[:MOST_COMPARED]]
    logits, labels = scores.logits.cpu()[rows], scores.labels.cpu()[rows]  # [N, K]
    # Without a prediction a video is the last, as what is known of it is nothing.
    logits[~scores.predicted.cpu()[rows]] = -math.inf
    shared = labels.double().mean(dim=0)
    told_apart = (shared > 0) & (shared < 1)
    if not told_apart.any():
        return None
    logits, labels = logits[:, told_apart], labels[:, told_apart]
    found = _mean_ap(logits, labels)
    orders = (torch.randperm(len(rows), generator=draw) for _ in range(SHUFFLES))
    by_chance = [_mean_ap(logits[order], labels) for order in orders]
    if found > max(by_chance):
        return None
    low, high, share = min(by_chance), max(by_chance), float(shared[told_apart].mean())
    return (
        f"mean average precision {found:.3f} is no better than guessing: the same scores, shuffled "
        f"among the {len(rows)} videos, give {low:.3f} to {high:.3f}, and a class is shown in "
        f"{share:.3f} of them on average. The model has not learnt to tell the classes apart, or "
        "its pixels are not those that it was trained on: `vivit doctor` with the same settings "
        "looks for the cause"
    )


def _mean_ap(logits: Tensor, labels: Tensor) -> float:
    """Mean average precision: float and int ``[N, K]``, each class in at least one video."""
    found = [average_precision(logits[:, k], labels[:, k]) for k in range(logits.shape[1])]
    return sum(found) / len(found)
