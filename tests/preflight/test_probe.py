import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from vivit_train.preflight.probe import Probe


def clouds(num_classes: int = 3, each: int = 12, apart: float = 3.0, seed: int = 0) -> tuple:
    """Features of classes that lie ``apart`` standard deviations from each other."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat(each)
    centres = torch.eye(num_classes, 40) * apart
    return centres[labels] + 0.5 * torch.randn(len(labels), 40, generator=draw), labels


def test_it_learns_what_is_there_to_learn() -> None:
    values, labels = clouds()
    probe = Probe(values, labels, 3)
    assert probe.accuracy > 0.9
    assert probe.knows_something
    fresh, same_labels = clouds(seed=1)
    assert (probe(fresh).argmax(dim=1) == same_labels).double().mean() > 0.9
    guessing = Probe(torch.randn(36, 40, generator=torch.Generator().manual_seed(0)), labels, 3)
    assert not guessing.knows_something


def test_the_rarest_class_does_not_make_guessing_look_like_knowledge() -> None:
    labels = torch.tensor([0] * 57 + [1] * 3)
    values = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    probe = Probe(values, labels, 2)
    assert probe.accuracy > 0.9  # by naming the frequent class
    assert not probe.knows_something


def test_leaving_one_out_is_what_fitting_to_the_others_gives(monkeypatch) -> None:
    monkeypatch.setattr("vivit_train.preflight.probe.PENALTIES", (0.1,))
    values, labels = clouds(each=4)
    # Standardised and penalised alike, whichever video is left out.
    values = (values - values.mean(dim=0)) / values.std(dim=0)
    other = values + 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(2))
    probe = Probe(values, labels, 3)
    penalty = 0.1 * (values.double() ** 2).sum(dim=1).mean()
    targets = torch.nn.functional.one_hot(labels, 3).double()
    for i in range(len(labels)):
        rest = torch.arange(len(labels)) != i
        x, y = values[rest].double(), targets[rest]
        centred = x - x.mean(dim=0)
        gram = centred @ centred.T + penalty * torch.eye(len(x)).double()
        weights = centred.T @ torch.linalg.solve(gram, y - y.mean(dim=0))

        def score(value, weights=weights, x=x, y=y):
            return (value.double() - x.mean(dim=0)) @ weights + y.mean(dim=0)

        torch.testing.assert_close(probe.left_out[i], score(values[i]), atol=1e-4, rtol=0)
        torch.testing.assert_close(probe.left_out_of(other)[i], score(other[i]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("each", [5, 30], ids=["fewer videos than features", "more"])
def test_ridge_regression_is_that_of_scikit_learn(each: int, monkeypatch) -> None:
    monkeypatch.setattr("vivit_train.preflight.probe.PENALTIES", (0.1,))
    values, labels = clouds(each=each, apart=1.0)
    fresh, _ = clouds(seed=1)
    probe = Probe(values, labels, 3)
    mean, scale = values.double().mean(dim=0), values.double().std(dim=0) + 1e-6
    x, y = ((values - mean) / scale).numpy(), torch.nn.functional.one_hot(labels).double().numpy()
    ridge = Ridge(alpha=0.1 * (x**2).sum(axis=1).mean())
    one_out = cross_val_predict(ridge, x, y, cv=LeaveOneOut())
    torch.testing.assert_close(probe.left_out, torch.from_numpy(one_out), atol=1e-8, rtol=0)
    scores = ridge.fit(x, y).predict(((fresh - mean) / scale).numpy())
    torch.testing.assert_close(probe(fresh), torch.from_numpy(scores), atol=1e-8, rtol=0)
