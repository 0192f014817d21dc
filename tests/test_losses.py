import numpy as np
import pytest
import torch

from tests.golden_files import GOLDEN
from vivit_train.errors import UserError
from vivit_train.losses import (
    binary_cross_entropy,
    cross_entropy,
    loss_of,
    multi_head_cross_entropy,
)

SMOOTHINGS = {"none": 0.0, "0.1": 0.1, "0.2": 0.2, "0.3": 0.3}
SETS_OF_HEADS = ("small", "epic_300_97", "three_heads")


def recorded(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("targets", ["onehot", "soft"])
def test_the_originals_loss(targets: str, smoothing: str) -> None:
    arrays = recorded("losses_metrics")
    expected = arrays[f"softmax_ce/{targets}/nomask/ls_{smoothing}"]
    loss = cross_entropy(arrays["logits"], arrays[targets], SMOOTHINGS[smoothing])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    if targets == "onehot":
        labels = arrays["onehot"].argmax(dim=1)
        loss = cross_entropy(arrays["logits"], labels, SMOOTHINGS[smoothing])
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [None, 0.2])
@pytest.mark.parametrize("heads", SETS_OF_HEADS)
def test_the_originals_loss_of_several_heads(heads: str, smoothing: float | None) -> None:
    arrays = {k.removeprefix(f"{heads}/"): v for k, v in recorded("multihead").items()}
    sizes = {f"head {i}": int(size) for i, size in enumerate(arrays["class_splits"])}
    expected = arrays[f"loss/ls_{smoothing}/nomask"]
    for targets in (arrays["target"], arrays["labels"]):  # soft, and a class per head
        loss = multi_head_cross_entropy(arrays["logits"], targets, sizes, smoothing or 0.0)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_torchs(smoothing: float) -> None:
    """Of shares as they are, and of labels with the number of clips in the place of its sum."""
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 2, 2, 1, 0])
    weights = torch.tensor([0.5, 4.0, 1.0, 2.0])
    shares = torch.rand(6, 4).softmax(dim=1)
    told = {"weight": weights, "label_smoothing": smoothing}
    theirs = torch.nn.functional.cross_entropy(logits, shares, **told)
    torch.testing.assert_close(cross_entropy(logits, shares, smoothing, weights), theirs)
    summed = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", **told)
    ours = cross_entropy(logits, labels, smoothing, weights)
    torch.testing.assert_close(ours, summed / 6)
    # So the parts of a batch, on any number of processes, make up the whole.
    halves = (slice(3), slice(3, 6))
    parts = [cross_entropy(logits[h], labels[h], smoothing, weights) for h in halves]
    torch.testing.assert_close(sum(parts) / 2, ours)


def test_one_head_is_the_plain_loss() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    one = multi_head_cross_entropy(logits, labels[:, None], {"noun": 5}, 0.1)
    torch.testing.assert_close(one, cross_entropy(logits, labels, 0.1))


def test_the_loss_is_computed_in_float32() -> None:
    logits, labels = torch.randn(4, 5).bfloat16(), torch.tensor([0, 4, 2, 2])
    soft = torch.nn.functional.one_hot(labels, 5).bfloat16()
    expected = cross_entropy(logits.float(), labels, 0.1)
    assert torch.equal(cross_entropy(logits, labels, 0.1), expected)
    torch.testing.assert_close(cross_entropy(logits, soft, 0.1), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range(smoothing: float) -> None:
    message = f"optim.label_smoothing must be at least 0 and below 1, got {smoothing}"
    with pytest.raises(UserError, match=message):
        cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), smoothing)
    with pytest.raises(UserError, match=message):
        multi_head_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), {"a": 1, "b": 1}, smoothing)
    with pytest.raises(UserError, match=message):
        binary_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), smoothing)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_originals_loss_of_any_number_of_classes(smoothing: str) -> None:
    """It is summed over the K classes there, and smoothed as if they excluded each other."""
    arrays = recorded("losses_metrics")
    targets, number = arrays["multihot"], arrays["multihot"].shape[1]
    share = SMOOTHINGS[smoothing]
    theirs = targets * (1 - share) + share / number
    loss = binary_cross_entropy(arrays["logits"], theirs)
    expected = arrays[f"sigmoid_ce/ls_{smoothing}"]
    torch.testing.assert_close(loss * number, expected, rtol=1e-6, atol=0)
    smoothed = torch.nn.functional.binary_cross_entropy_with_logits(
        arrays["logits"], targets * (1 - share) + share / 2
    )
    for labels in (targets, targets.long()):
        ours = loss_of(arrays["logits"], labels, {}, True, share)
        torch.testing.assert_close(ours, smoothed, rtol=1e-6, atol=0)


def test_the_binary_loss_is_computed_in_float32() -> None:
    logits, labels = torch.randn(4, 5).bfloat16(), torch.randint(2, (4, 5))
    expected = binary_cross_entropy(logits.float(), labels, 0.1)
    assert torch.equal(binary_cross_entropy(logits, labels, 0.1), expected)
    assert expected.dtype == torch.float32
