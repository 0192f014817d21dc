import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from vivit_train import features
from vivit_train.features import vote_of_neighbours


def clouds(each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of four classes that overlap."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(each)
    return torch.eye(4, 6)[labels] + 0.6 * torch.randn(4 * each, 6, generator=draw), labels


@pytest.mark.parametrize("number", [1, 2, 5])
def test_neighbours_vote_as_in_scikit_learn(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS", 7)  # of 40: in parts, the last of which is smaller
    values, labels = clouds(10, seed=0)
    others, others_labels = clouds(5, seed=1)
    theirs = KNeighborsClassifier(number, metric="cosine", algorithm="brute")
    one_out = cross_val_predict(theirs, values.numpy(), labels.numpy(), cv=LeaveOneOut())
    ours = vote_of_neighbours(values, labels, number)
    assert ours.tolist() == one_out.tolist()
    assert 0.4 < (ours == labels).double().mean() < 1.0  # there are mistakes to agree on
    theirs.fit(values.numpy(), labels.numpy())
    named = vote_of_neighbours(values, labels, number, others)
    assert named.tolist() == theirs.predict(others.numpy()).tolist()
    assert not np.array_equal(named, others_labels)
