import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_train.data.class_sampling import balancing_weights, draws_per_epoch, rows_of_epoch

labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
strengths = st.floats(0, 1)


def test_shares_of_the_classes() -> None:
    counts = np.array([1, 0, 4, 16])
    assert draws_per_epoch(counts, 0).tolist() == [1, 0, 4, 16]
    assert draws_per_epoch(counts, 1).tolist() == pytest.approx([7, 0, 7, 7])
    assert draws_per_epoch(counts, 0.5).tolist() == pytest.approx([3, 0, 6, 12])


@given(labels_of, st.integers(0, 3))
def test_without_it_each_row_comes_once(labels, epoch) -> None:
    assert rows_of_epoch(labels, 0.0, 1, epoch).tolist() == list(range(len(labels)))
    # Which is also what the turns come to.
    assert rows_of_epoch(labels, 1e-15, 1, epoch).tolist() == list(range(len(labels)))


@given(labels_of, strengths, st.integers(0, 2**32), st.integers(1, 6))
def test_classes_have_their_shares_and_videos_come_by_turns(labels, strength, seed, epochs) -> None:
    counts = np.bincount(labels)
    share = draws_per_epoch(counts, strength)
    in_all = np.zeros(len(labels), dtype=int)
    for epoch in range(epochs):
        rows = rows_of_epoch(labels, strength, seed, epoch)
        assert len(rows) == len(labels)
        assert (np.diff(rows) >= 0).all()
        drawn = np.bincount(rows, minlength=len(labels))
        of_class = np.bincount(labels, weights=drawn, minlength=len(counts))
        assert (abs(of_class - share) < 1 + 1e-6).all()
        in_all += drawn
        for times in (drawn, in_all):
            for k in set(labels.tolist()):
                assert np.ptp(times[labels == k]) <= 1


def test_every_class_has_its_share_in_the_long_run() -> None:
    labels = np.repeat([0, 1, 2], [60, 5, 1])
    drawn = np.concatenate([rows_of_epoch(labels, 0.5, 3, epoch) for epoch in range(300)])
    share = draws_per_epoch(np.bincount(labels), 0.5)
    assert np.bincount(labels[drawn]) / 300 == pytest.approx(share, abs=0.1)


def test_it_depends_on_the_seed_and_the_epoch_alone() -> None:
    labels = np.repeat([0, 1], [30, 4])
    rows = rows_of_epoch(labels, 1.0, 7, 5)
    assert (rows == rows_of_epoch(labels, 1.0, 7, 5)).all()
    assert (rows != rows_of_epoch(labels, 1.0, 7, 6)).any()
    assert (rows != rows_of_epoch(labels, 1.0, 8, 5)).any()


def test_weights_are_those_of_scikit_learn() -> None:
    """Its ``compute_class_weight("balanced")`` is n_samples / (n_classes * bincount)."""
    weights = balancing_weights(np.array([6, 3, 0, 1]), 0.0)
    assert weights.dtype == np.float32
    assert weights == pytest.approx([10 / 18, 10 / 9, 1, 10 / 3])


@given(labels_of, strengths)
def test_weights_and_draws_together_balance_the_classes(labels, strength) -> None:
    counts = np.bincount(labels)
    together = (draws_per_epoch(counts, strength) * balancing_weights(counts, strength))[counts > 0]
    assert together == pytest.approx(together[0], rel=1e-5)
    assert together.sum() == pytest.approx(len(labels), rel=1e-5)
