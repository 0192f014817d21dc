import numpy as np
import pytest
import torch

from tests.golden_files import GOLDEN
from vivit_train.transforms.mixup import draw_share, mixup


@pytest.mark.parametrize("case", ["numpy/0.7", "numpy/0.05", "jax"])
def test_the_originals_batches(case: str) -> None:
    with np.load(GOLDEN / "mixup.npz") as arrays:
        recorded = {name: torch.from_numpy(arrays[name]) for name in arrays}
    share = float(recorded["jax/lambda"] if case == "jax" else case.removeprefix("numpy/"))
    clips, labels = mixup(recorded["inputs"], recorded["label"], share)
    torch.testing.assert_close(clips, recorded[f"{case}/inputs"], rtol=0, atol=1e-6)
    torch.testing.assert_close(labels, recorded[f"{case}/label"], rtol=0, atol=1e-6)


def test_the_partner_is_the_batch_reversed() -> None:
    clips, labels = torch.tensor([[0.0], [10.0], [100.0]]), torch.eye(3)
    mixed, soft = mixup(clips, labels, 0.9)
    torch.testing.assert_close(mixed, torch.tensor([[10.0], [10.0], [90.0]]))
    torch.testing.assert_close(soft[0], torch.tensor([0.9, 0.0, 0.1]))
    torch.testing.assert_close(soft[1], labels[1])  # in the middle it meets itself
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(3))
    assert torch.equal(mixup(clips, labels, 1)[0], clips)


def test_the_share_is_a_function_of_the_seed() -> None:
    assert draw_share(0.3, 5) == draw_share(0.3, 5)
    state = torch.get_rng_state()
    assert len({draw_share(0.3, seed) for seed in range(20)}) == 20
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    shares = np.array([draw_share(alpha, seed) for seed in range(2000)])
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
