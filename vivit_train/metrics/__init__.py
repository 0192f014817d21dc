"""Scores of a split, exact for any number of processes."""

from collections.abc import Mapping
from typing import TypeAlias

from vivit_train.metrics.accuracy import (
    TOP,
    MultiHeadAccuracy,
    VideoAccuracy,
    joint_labels,
    joint_logits,
)
from vivit_train.metrics.average_precision import MultiLabelScores, average_precision

__all__ = [
    "TOP",
    "MultiHeadAccuracy",
    "MultiLabelScores",
    "Scores",
    "VideoAccuracy",
    "average_precision",
    "joint_labels",
    "joint_logits",
    "scores_for",
]

Scores: TypeAlias = VideoAccuracy | MultiLabelScores


def scores_for(
    num_classes: int, num_videos: int, heads: Mapping[str, int], multi_label: bool
) -> Scores:
    """The scores of a model by what its logits mean.

    Args:
        num_classes: Classes K.
        num_videos: Rows of the split.
        heads: Name and number of classes of each head; empty: one head.
        multi_label: Whether a video has any number of the classes.
    """
    if multi_label:
        return MultiLabelScores(num_classes, num_videos)
    if heads:
        return MultiHeadAccuracy(dict(heads), num_videos)
    return VideoAccuracy(num_classes, num_videos)
