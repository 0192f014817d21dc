import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_train.data.class_sampling import rows_of_epoch
from vivit_train.data.sampler import (
    EvalSampler,
    Key,
    TrainSampler,
    epoch_order,
    limited,
    spread,
)


def train_keys(num_samples, batch_size, world_size, epoch=0, done=0, seed=0, accumulate=1, **rows):
    """Keys of every rank, [rank][position]."""
    common = (world_size, lambda: (epoch, done), accumulate)
    return [
        list(TrainSampler(num_samples, batch_size, seed, rank, *common, **rows))
        for rank in range(world_size)
    ]


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 5), st.integers(0, 3))
def test_each_sample_at_most_once_per_epoch(num_samples, batch_size, world_size, epoch) -> None:
    ranks = train_keys(num_samples, batch_size, world_size, epoch)
    rows = [key.row for keys in ranks for key in keys]
    assert len(rows) == len(set(rows))
    assert len(rows) == num_samples // (batch_size * world_size) * batch_size * world_size
    assert all(key.epoch == epoch for keys in ranks for key in keys)


@given(st.integers(8, 100), st.integers(0, 5))
def test_two_ranks_make_the_global_batches_of_one(num_samples, epoch) -> None:
    (one,) = train_keys(num_samples, 4, 1, epoch)
    two = train_keys(num_samples, 2, 2, epoch)
    for batch in range(num_samples // 4):
        ours = two[0][2 * batch :][:2] + two[1][2 * batch :][:2]
        assert ours == one[4 * batch :][:4]


@given(st.lists(st.integers(0, 2), min_size=8, max_size=60), st.integers(0, 5), st.floats(0, 1))
def test_rare_classes_come_more_often_in_the_same_way(labels, epoch, strength) -> None:
    """On any number of ranks, and from any position on."""
    rows = functools.partial(rows_of_epoch, np.array(labels), strength, 0)
    (one,) = train_keys(len(labels), 4, 1, epoch, rows=rows)
    assert [key.row for key in one] == rows(epoch)[epoch_order(len(labels), 0, epoch)][
        : len(one)
    ].tolist()
    two = train_keys(len(labels), 2, 2, epoch, 4, rows=rows)
    for batch in range(1, len(labels) // 4):
        ours = two[0][2 * batch - 2 :][:2] + two[1][2 * batch - 2 :][:2]
        assert ours == one[4 * batch :][:4]
    (plain,) = train_keys(len(labels), 4, 1, epoch)
    (off,) = train_keys(len(labels), 4, 1, epoch, rows=functools.partial(
        rows_of_epoch, np.array(labels), 0.0, 0
    ))  # fmt: skip
    assert off == plain


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_resuming_gives_the_rest_of_the_epoch(done: int) -> None:
    (whole,) = train_keys(23, 4, 1, epoch=2)
    (rest,) = train_keys(23, 4, 1, epoch=2, done=4 * done)
    assert rest == whole[4 * done :]


@given(st.integers(16, 150), st.integers(0, 3), st.data())
def test_another_number_of_ranks_sees_the_rest_once(num_samples, epoch, data) -> None:
    """Four ranks stop after some steps of 16 rows; as many ranks as divide it go on."""
    steps = data.draw(st.integers(0, num_samples // 16))
    ranks = data.draw(st.sampled_from([1, 2, 4]))
    before = train_keys(num_samples, 4, 4, epoch)
    rows = [key.row for keys in before for key in keys[: 4 * steps]]
    after = train_keys(num_samples, 4, ranks, epoch, 16 * steps, accumulate=4 // ranks)
    rows += [key.row for keys in after for key in keys]
    whole = [key.row for keys in before for key in keys]
    assert sorted(rows) == sorted(whole)
    assert len(rows) == len(set(rows)) == num_samples // 16 * 16


def test_an_epoch_is_whole_steps() -> None:
    lengths = [len(TrainSampler(23, 4, 0, 0, 1, lambda: (0, 0), n)) for n in (1, 2, 3, 5, 9)]
    assert lengths == [20, 16, 12, 20, 20]  # with 9 an epoch is shorter than a step


def test_the_position_is_asked_for_when_iteration_starts() -> None:
    position = (0, 0)
    sampler = TrainSampler(8, 2, 0, 0, 1, lambda: position)
    position = (3, 2)
    assert next(iter(sampler)) == Key(int(epoch_order(8, 0, 3)[2]), 3)


def test_order_changes_with_epoch_and_seed_only() -> None:
    assert (epoch_order(50, 1, 2) == epoch_order(50, 1, 2)).all()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 1, 3)).any()
    assert (epoch_order(50, 1, 2) != epoch_order(50, 2, 2)).any()
    assert sorted(epoch_order(50, 1, 2)) == list(range(50))


def taken(labels: np.ndarray, batch_size: int, world_size: int, limit: float = 1.0) -> np.ndarray:
    """The rows that all ranks take, with the padding."""
    samplers = [EvalSampler(labels, batch_size, r, world_size, limit) for r in range(world_size)]
    ranks = [list(sampler) for sampler in samplers]
    assert len({len(rows) for rows in ranks}) == 1  # in step
    assert {len(sampler) for sampler in samplers} == {-(-len(labels) // world_size)}
    return np.concatenate(ranks).astype(int)


@given(st.integers(1, 60), st.integers(1, 7))
def test_evaluation_sees_every_row_once_in_step(num_samples, world_size) -> None:
    rows = taken(np.zeros(num_samples, dtype=int), 4, world_size)
    assert sorted(rows[rows >= 0]) == list(range(num_samples))
    assert (rows < 0).sum() == len(rows) - num_samples < world_size


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 4), st.integers(1, 3),
    st.integers(1, 30) | st.floats(0.01, 1.0),
)  # fmt: skip
def test_a_limit_takes_of_each_class_its_share(labels, batch_size, world_size, limit) -> None:
    """However the list is ordered: by class, the classes in turns, or at random."""
    labels = np.array(labels)
    rows = taken(labels, batch_size, world_size, limit)
    rows = rows[rows >= 0]
    batches = limited(-(-len(labels) // (batch_size * world_size)), limit)
    assert len(rows) == len(set(rows)) == min(len(labels), batches * batch_size * world_size)
    for k in range(5):
        share = (labels == k).sum() * len(rows) / len(labels)
        assert abs((labels[rows] == k).sum() - share) <= 1


def test_a_limit_takes_rows_from_all_over_the_list() -> None:
    by_class = np.repeat(np.arange(4), 8)
    assert spread(by_class, 4).tolist() == [4, 12, 20, 28]
    assert spread(by_class, 8).tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    heads = np.stack([by_class // 2, by_class % 2], axis=1)
    assert spread(heads, 4).tolist() == [4, 12, 20, 28]
    assert spread(by_class, 32).tolist() == list(range(32))
    assert len(spread(by_class, 0)) == 0


def test_one_batch_again_and_again() -> None:
    """Of all processes together it is the first batch of the run, as without the option."""
    whole = TrainSampler(23, 6, 5, 0, 1, lambda: (0, 0))
    for rank in range(2):
        epochs = [
            list(TrainSampler(23, 3, 5, rank, 2, lambda at=at: at, one_batch=True))
            for at in ((0, 0), (1, 0), (7, 0))
        ]
        assert epochs[0] == list(whole)[rank * 3 : rank * 3 + 3]
        assert epochs[1:] == [epochs[0]] * 2
