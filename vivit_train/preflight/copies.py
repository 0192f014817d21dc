"""Copies of training videos among the validation videos, which make the score too high."""

import filecmp
from collections import defaultdict
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from vivit_train.class_names import shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.preflight.features import Features
from vivit_train.preflight.finding import Finding

# Files whose content is compared, at most.
MOST_FILES = 20_000
# Correlation of two small grey clips, less what all have in common, from which they are copies
# (encoded again, cut, resized) or parts of one recording.
ALIKE = 0.96


def of_the_copies(data: VideoDataModule, train: Features | None, val: Features | None) -> Finding:
    """Whether validation videos are copies of training videos.

    Args:
        data: Set up for ``fit``.
        train: Of its training videos.
        val: Of its validation videos.
    """
    records = data.records
    pairs = dict(same_content(records["train"], records["val"]))
    same = len(pairs)
    if train is not None and val is not None:
        for row, other in near_copies(train, val):
            pairs.setdefault(records["val"].name(row), records["train"].name(other))
    if not pairs:
        return Finding("ok", "copies", "no validation video looks like a training video")
    told = shorten([f"{one} like {other}" for one, other in sorted(pairs.items())], 3)
    exact = f", {same} to the bit" if same else ""
    return Finding(
        "warn",
        "copies",
        f"{len(pairs)} validation videos look like training videos{exact} ({told}): the score will "
        "be too high. Keep all videos of a recording in one split with data.group",
    )


def same_content(train: Records, val: Records) -> Iterator[tuple[str, str]]:
    """Validation files whose bytes are those of a training file: (its name, the other's)."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for row, size in _files(train):
        by_size[size].append(row)
    for row, size in _files(val):
        for other in by_size[size]:
            if filecmp.cmp(val.path(row), train.path(other), shallow=False):
                yield val.name(row), train.name(other)
                break


def _files(records: Records) -> Iterator[tuple[int, int]]:
    """(row, bytes) of whole videos in files of their own that are there."""
    for row in range(min(len(records), MOST_FILES)):
        size = size_and_mtime(records.path(row))[0]
        if size and records.segment(row) is None and records.span(row) is None:
            yield row, size


def near_copies(train: Features, val: Features) -> Iterator[tuple[int, int]]:
    """Validation videos that look like a training video: (row, the training video's row).

    What all videos of a class have in common, such as a bright sky, is taken off before.
    """
    for label in val.labels.unique().tolist():
        ours, theirs = val.labels == label, train.labels == label
        if not theirs.any():
            continue
        is_alone = int(theirs.sum()) == 1
        usual = (train.pictures if is_alone else train.pictures[theirs]).mean(dim=0)
        pictures, others = val.pictures[ours] - usual, train.pictures[theirs] - usual
        best, where = (_normal(pictures) @ _normal(others).T).max(dim=1)  # each [N of val]
        for i in (best > ALIKE).nonzero().flatten().tolist():
            yield int(val.rows[ours][i]), int(train.rows[theirs][where[i]])


def _normal(pictures: Tensor) -> Tensor:
    return F.normalize(pictures - pictures.mean(dim=1, keepdim=True), dim=1, eps=1e-6)
