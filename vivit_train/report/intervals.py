"""How far a score would move with other videos: bootstrap intervals."""

import numpy as np

RESAMPLES = 1000


def intervals(pairs: np.ndarray, num_classes: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the scores, from videos that are drawn again with replacement.

    Args:
        pairs: int ``[videos, 2]``, true and predicted class; -1: none was predicted.
        num_classes: Classes K.

    Returns:
        For ``top1``, ``mean_class_accuracy`` and ``macro_f1``, as `VideoAccuracy` computes them,
        the 2.5th and the 97.5th percentile of `RESAMPLES` draws; empty without videos.
    """
    if not len(pairs):
        return {}
    rng = np.random.default_rng(0)
    draws = [
        _scores(pairs[rng.integers(len(pairs), size=len(pairs))], num_classes)
        for _ in range(RESAMPLES)
    ]
    ends = {k: np.percentile([draw[k] for draw in draws], (2.5, 97.5)) for k in draws[0]}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _scores(pairs: np.ndarray, num_classes: int) -> dict[str, float]:
    labels, guesses = pairs.T
    right = np.bincount(labels[labels == guesses], minlength=num_classes)
    videos = np.bincount(labels, minlength=num_classes)
    taken = np.bincount(guesses[guesses >= 0], minlength=num_classes)
    both = videos + taken
    return {
        "top1": right.sum() / len(pairs),
        "mean_class_accuracy": (right[videos > 0] / videos[videos > 0]).mean(),
        "macro_f1": (2 * right[both > 0] / both[both > 0]).mean(),
    }
