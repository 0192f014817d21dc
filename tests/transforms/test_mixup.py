import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from tests.golden_files import GOLDEN
from vivit_train.transforms.mixup import Box, cutmix, draw_box, draw_share, mixup


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


def test_cutmix_as_torchvision() -> None:
    """With two clips torchvision's partner, the next one, is ours too."""
    clips, labels = torch.rand(2, 3, 4, 10, 12), torch.eye(3)[:2]
    ours, soft = cutmix(clips, labels, Box(top=2, left=5, bottom=6, right=12))
    parameters = {"box": (5, 2, 12, 6), "lam_adjusted": 1 - 28 / 120, "labels": labels}
    theirs = v2.CutMix(num_classes=3)
    expected = theirs.transform(clips[:, :, 0], parameters | {"batch_size": 2})
    assert torch.equal(ours[:, :, 0], expected)
    torch.testing.assert_close(soft, theirs._mixup_label(labels.clone(), lam=1 - 28 / 120))
    torch.testing.assert_close(soft[0], torch.tensor([92 / 120, 28 / 120, 0]))


def test_cutmix_puts_the_same_box_into_all_frames() -> None:
    clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 4, 8, 8).contiguous()
    before = clips.clone()
    mixed, soft = cutmix(clips, torch.eye(3), Box(0, 4, 4, 8))
    assert torch.equal(clips, before)
    assert mixed[0].flatten(0, 1).unique(dim=0).shape[0] == 1
    assert mixed[0, 0, 0].sum() == 2 * 16
    torch.testing.assert_close(soft[0], torch.tensor([0.75, 0, 0.25]))
    torch.testing.assert_close(soft[1], torch.tensor([0.0, 1, 0]))
    assert torch.equal(cutmix(clips, torch.eye(3), Box(3, 3, 3, 3))[1], torch.eye(3))


def test_boxes_are_a_function_of_the_seed() -> None:
    assert draw_box(1.0, 5, 20, 30) == draw_box(1.0, 5, 20, 30)
    boxes = [draw_box(1.0, seed, 20, 30) for seed in range(300)]
    assert all(0 <= b.top <= b.bottom <= 20 and 0 <= b.left <= b.right <= 30 for b in boxes)
    areas = np.array([(b.bottom - b.top) * (b.right - b.left) / 600 for b in boxes])
    assert 0.2 < areas.mean() < 0.45  # one half, less what lies outside
    assert {min(b.top // 5, 3) for b in boxes} == {0, 1, 2, 3}
