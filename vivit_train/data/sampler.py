"""Which video comes next: pure functions of the seed, the epoch, the position and the rank."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from vivit_train.seeds import derive_seed


class Key(NamedTuple):
    """One training sample: a row of the records, in one epoch.

    ``given_up`` are rows that the run has given up in an epoch before this one, as they hang or
    kill the decoder. They are not opened: see `VideoDataModule.given_up`.
    """

    row: int
    epoch: int
    given_up: frozenset[int] = frozenset()


class TrainSampler(Sampler[Key]):
    """A fresh order every epoch, cut into global batches and shared between ranks.

    Global batch ``b`` takes rows ``order[b*G : (b+1)*G]`` with G = batch_size * world_size, and
    rank r the r-th part of it: one process with batch 8, two with batch 4 and one with batch 4
    that accumulates twice train on the same rows in each optimiser step. What does not fill a
    step is left out of that epoch; another order leaves out other rows.

    Args:
        num_samples: Rows of the training split.
        batch_size: Clips per step of one rank.
        seed: The run's seed.
        rank: This process, 0 <= rank < world_size.
        world_size: Processes.
        position: Called when iteration starts, after a resumed run has restored its progress;
            gives (epoch, rows that all ranks together have done in it).
        accumulate: Batches per optimiser step. An epoch too short for one step has as many
            batches as there are.
        given_up: Gives the rows that were given up before an epoch.
        rows: Gives the rows that an epoch takes, as many as there are; ``None``: each once.
        one_batch: Whether each epoch is the first batch of the first, clip by clip.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        position: Callable[[], tuple[int, int]],
        accumulate: int = 1,
        given_up: Callable[[int], Collection[int]] = lambda epoch: (),
        rows: Callable[[int], np.ndarray] | None = None,
        one_batch: bool = False,
    ) -> None:
        batches = 1 if one_batch else num_samples // (batch_size * world_size)
        self.num_batches = batches // accumulate * accumulate or batches
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.given_up = given_up
        self.rows = rows
        self.one_batch = one_batch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[Key]:
        epoch, done = self.position()
        epoch = 0 if self.one_batch else epoch
        order = epoch_order(self.num_samples, self.seed, epoch)
        order = order if self.rows is None else self.rows(epoch)[order]
        rest = order[done : len(self) * self.world_size]
        batches = rest.reshape(-1, self.world_size, self.batch_size)
        given_up = frozenset(self.given_up(epoch))
        for row in batches[:, self.rank].flat:
            yield Key(int(row), epoch, given_up)


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of all rows in an epoch: int64 ``[num_samples]``, a permutation."""
    rng = np.random.default_rng(derive_seed(seed, "order", epoch))
    return rng.permutation(num_samples)


class EvalSampler(Sampler[int]):
    """Every row once over all ranks, rank r taking the rows r, r + world_size, ... of the list.

    Where the rows do not divide evenly, the last ranks get a -1: a row that is masked out of
    every score, so that all ranks do the same number of steps and no video counts twice.

    With a limit of batches it takes a part of the rows that stands for the split: see `spread`.
    Its length stays that of the whole split, to which Lightning applies the limit.

    Args:
        labels: int ``[N]`` of the split, with several heads ``[N, heads]``, multi-label ``[N, K]``.
        batch_size: Videos per batch of one rank.
        rank: This process, 0 <= rank < world_size.
        world_size: Processes.
        limit: Batches of each rank, or a fraction of them, as ``trainer.limit_val_batches``.

    Attributes:
        num_batches: Batches of each rank without the limit.
        rows: int64 ``[n]``, ascending: the rows that all ranks together take.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        rank: int,
        world_size: int,
        limit: int | float = 1.0,
    ) -> None:
        self.num_samples = len(labels)
        self.rank = rank
        self.world_size = world_size
        self.num_batches = -(-len(self) // batch_size)
        count = limited(self.num_batches, limit) * batch_size * world_size
        self.rows = spread(labels, min(count, len(labels)))

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        steps = -(-len(self.rows) // self.world_size)
        for place in range(self.rank, steps * self.world_size, self.world_size):
            yield int(self.rows[place]) if place < len(self.rows) else -1


def limited(batches: int, limit: int | float) -> int:
    """What one of Lightning's ``limit_..._batches`` leaves: a number of batches, or a fraction."""
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def spread(labels: np.ndarray, count: int) -> np.ndarray:
    """Some rows of a split that stand for all of it.

    Of every class its share, rounded up or down, and of the videos of a class some from all over
    the list: the first rows of a list are often of one class.

    Args:
        labels: int ``[N]``, with several heads ``[N, heads]``; multi-label ``[N, K]`` of 0 and 1,
            where equal rows are a class.
        count: How many, at most N.

    Returns:
        int64 ``[count]``, ascending; all rows where ``count`` is N.
    """
    if count == len(labels):
        return np.arange(count)
    by_class = np.lexsort(labels.reshape(len(labels), -1).T[::-1])  # stable
    places = (2 * np.arange(count) + 1) * len(labels) // max(1, 2 * count)
    return np.sort(by_class[places])
