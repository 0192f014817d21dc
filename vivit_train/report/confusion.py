"""Which classes are taken for which: the matrix, and an order that puts such classes together."""

from collections import Counter
from typing import NamedTuple

import numpy as np


class Confusion(NamedTuple):
    """Videos of one class that were taken for another."""

    true: int
    predicted: int
    videos: int
    share: float  # of the videos of the true class


def counts_of(pairs: np.ndarray) -> Counter[tuple[int, int]]:
    """Videos of each (true, predicted) pair of classes; without those with no prediction.

    Args:
        pairs: int ``[videos, 2]``; -1: none was predicted.
    """
    return Counter((int(a), int(b)) for a, b in pairs if b >= 0)


def worst(pairs: np.ndarray, most: int = 200) -> list[Confusion]:
    """The most frequent confusions: by the number of videos, then by their share of the class."""
    videos = Counter(pairs[:, 0].tolist())
    found = [
        Confusion(true, guess, number, number / videos[true])
        for (true, guess), number in counts_of(pairs).items()
        if true != guess
    ]
    return sorted(found, key=lambda c: (-c.videos, -c.share, c.true, c.predicted))[:most]


def grouped_order(pairs: np.ndarray, num_classes: int) -> list[int]:
    """Classes in an order in which those that are taken for each other stand side by side.

    Groups grow as in single linkage: the most frequent confusions join the groups of their two
    classes first. Classes without confusions keep their places among each other, at the end.
    """
    both: Counter[tuple[int, int]] = Counter()
    for (true, guess), number in counts_of(pairs).items():
        if true != guess:
            both[min(true, guess), max(true, guess)] += number
    group = {k: [k] for k in range(num_classes)}
    for (a, b), _ in sorted(both.items(), key=lambda item: (-item[1], item[0])):
        if group[a] is not group[b]:
            joined = group[a] + group[b]
            group.update(dict.fromkeys(joined, joined))
    groups = list({id(g): g for g in group.values()}.values())
    groups.sort(key=lambda g: (-len(g), min(g)))
    return [k for g in groups for k in g]
