"""Which classes are taken for which."""

import numpy as np

from vivit_train.report.confusion import counts_of, grouped_order, worst


def test_counts_leave_out_what_was_not_predicted() -> None:
    pairs = np.array([[0, 0], [0, 1], [0, 1], [1, -1]])
    assert counts_of(pairs) == {(0, 0): 1, (0, 1): 2}


def test_worst_are_the_most_frequent_then_those_of_the_smaller_class() -> None:
    pairs = np.array([[0, 1]] * 2 + [[0, 0]] * 8 + [[2, 1]] * 2 + [[2, 2]] * 2 + [[1, 0]] * 3)
    found = worst(pairs)
    assert [(c.true, c.predicted, c.videos) for c in found] == [(1, 0, 3), (2, 1, 2), (0, 1, 2)]
    assert [c.share for c in found] == [1.0, 0.5, 0.2]


def test_classes_that_are_taken_for_each_other_stand_together() -> None:
    pairs = np.array([[0, 5]] * 3 + [[5, 9]] * 2 + [[3, 7]] * 4 + [[k, k] for k in range(10)])
    order = grouped_order(pairs, 10)
    assert sorted(order) == list(range(10))
    assert sorted(order[:3]) == [0, 5, 9]
    assert sorted(order[3:5]) == [3, 7]
    assert order[5:] == [1, 2, 4, 6, 8]
