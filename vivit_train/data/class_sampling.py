"""How often each class is trained on, where some are rarer than others."""

import numpy as np

from vivit_train.seeds import derive_seed


def draws_per_epoch(counts: np.ndarray, strength: float) -> np.ndarray:
    """How many clips of each class an epoch takes on average: as many in all as there are videos.

    Args:
        counts: int ``[K]``, videos of each class.
        strength: ``data.class_sampling`` a: a class of n videos gets a share in proportion to
            ``n ** (1 - a)``. 0: as they are; 1: each class equally often.

    Returns:
        float64 ``[K]``; 0 where a class has no video.
    """
    weights = np.where(counts > 0, counts ** (1.0 - strength), 0.0)
    return weights * counts.sum() / weights.sum()


def rows_of_epoch(labels: np.ndarray, strength: float, seed: int, epoch: int) -> np.ndarray:
    """The rows that an epoch takes, a row once for each time that it is drawn.

    A function of the seed and the epoch alone. Of each class it takes `draws_per_epoch`, rounded up
    or down so that the epoch has as many rows as there are. Within a class the videos come by
    turns, from where the epoch before has stopped: in one epoch, and in all together, no video
    of a class is drawn twice more often than another.

    Args:
        labels: int ``[N]``.
        strength: As for `draws_per_epoch`.
        seed: The run's seed.
        epoch: Counted from 0.

    Returns:
        int64 ``[N]``, ascending.
    """
    if not strength:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    ends = np.cumsum(draws_per_epoch(counts, strength))
    ends *= len(labels) / ends[-1]
    # The same random part of a clip is added to all borders between classes, and cut off.
    parts = [(derive_seed(seed, "classes", e) >> 43) / 2**20 for e in range(epoch + 1)]
    borders = np.floor(ends + np.array(parts)[:, None]).astype(np.int64)  # [epochs, K]
    borders[:, ends == ends[-1]] = len(labels)
    draws = np.diff(borders, axis=1, prepend=0)  # [epochs, K]
    before = draws[:-1].sum(axis=0)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    rows = []
    for k, count in enumerate(counts):
        turns = np.random.default_rng(derive_seed(seed, "turns", k)).permutation(by_class[k])
        rows.append(turns[(before[k] + np.arange(draws[-1, k])) % max(1, count)])
    return np.sort(np.concatenate(rows))


def balancing_weights(counts: np.ndarray, strength: float) -> np.ndarray:
    """The weight of each class in the loss by which all weigh alike: ``N / (K * draws)``.

    Without class sampling these are scikit-learn's ``balanced``; what sampling balances already is
    not weighed again.

    Args:
        counts: int ``[K]``, training videos of each class.
        strength: ``data.class_sampling``.

    Returns:
        float32 ``[K]``; 1 where a class has no video.
    """
    draws = draws_per_epoch(counts, strength)
    present = draws > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * draws[present])
    return weights.astype(np.float32)
