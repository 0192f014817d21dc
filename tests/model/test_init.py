"""Initial weights: the original's distributions, recorded from Scenic, and Hugging Face's."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivit_train.model.vivit import ViViT

STATISTICS = Path(__file__).parents[1] / "golden" / "init_statistics.json"
# The recorded model: its parameters' shapes are those of "model1" in the file.
RECORDED = {
    "num_classes": 7,
    "image_size": 32,
    "num_frames": 8,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 96,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_size": 192,
}
BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_0"
OURS = {
    "cls": "cls_token",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "embedding/kernel": "embed.weight",
    "embedding/bias": "embed.bias",
    f"{BLOCK}/LayerNorm_0/scale": "blocks.{i}.norm1.weight",
    f"{BLOCK}/LayerNorm_0/bias": "blocks.{i}.norm1.bias",
    f"{BLOCK}/LayerNorm_1/scale": "blocks.{i}.norm2.weight",
    f"{BLOCK}/LayerNorm_1/bias": "blocks.{i}.norm2.bias",
    f"{ATTENTION}/query/kernel": "blocks.{i}.attn.qkv.weight",
    f"{ATTENTION}/query/bias": "blocks.{i}.attn.qkv.bias",
    f"{ATTENTION}/key/kernel": "blocks.{i}.attn.qkv.weight",
    f"{ATTENTION}/key/bias": "blocks.{i}.attn.qkv.bias",
    f"{ATTENTION}/value/kernel": "blocks.{i}.attn.qkv.weight",
    f"{ATTENTION}/value/bias": "blocks.{i}.attn.qkv.bias",
    f"{ATTENTION}/out/kernel": "blocks.{i}.attn.proj.weight",
    f"{ATTENTION}/out/bias": "blocks.{i}.attn.proj.bias",
    f"{BLOCK}/MlpBlock_0/Dense_0/kernel": "blocks.{i}.mlp.fc1.weight",
    f"{BLOCK}/MlpBlock_0/Dense_0/bias": "blocks.{i}.mlp.fc1.bias",
    f"{BLOCK}/MlpBlock_0/Dense_1/kernel": "blocks.{i}.mlp.fc2.weight",
    f"{BLOCK}/MlpBlock_0/Dense_1/bias": "blocks.{i}.mlp.fc2.bias",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "output_projection/kernel": "head.weight",
    "output_projection/bias": "head.bias",
}


def recorded() -> dict[str, dict]:
    return json.loads(STATISTICS.read_text())["model1"]


def pick(state: dict[str, Tensor], leaf: str, layer: int) -> Tensor:
    """Our parameter for one of Scenic's leaves; a third of ours for queries, keys and values."""
    tensor = state[OURS[leaf].replace("{i}", str(layer))]
    for third, name in enumerate(("query", "key", "value")):
        if f"/{name}/" in leaf:
            return tensor.chunk(3)[third]
    return tensor


@pytest.fixture(scope="module")
def states() -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    return [ViViT(**RECORDED).state_dict() for _ in range(8)]


def test_every_recorded_leaf_is_compared(states: list[dict[str, Tensor]]) -> None:
    leaves = {leaf.replace("{i}", str(i)) for leaf in OURS for i in range(2)}
    assert leaves == recorded().keys()
    assert {name.replace("{i}", str(i)) for name in OURS.values() for i in range(2)} == {*states[0]}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("leaf", OURS)
def test_distribution_is_the_originals(
    leaf: str, layer: int, states: list[dict[str, Tensor]]
) -> None:
    theirs = recorded()[leaf.replace("{i}", str(layer))]
    ours = torch.stack([pick(state, leaf, layer) for state in states]).double()
    count = math.prod(theirs["shape"])
    assert ours[0].numel() == count
    if theirs["std"] == 0:
        assert (ours == theirs["mean"]).all()
        return
    # Four standard errors of the recorded sample: 3 % for a matrix, 30 % for a bias of 96.
    assert ours.std().item() == pytest.approx(theirs["std"], rel=4 / math.sqrt(2 * count) + 0.01)
    assert abs(ours.mean().item()) < 4 * theirs["std"] / math.sqrt(count)
    if leaf.endswith("kernel"):
        # The bound of a uniform or truncated distribution: the largest value of many is near it.
        largest = ours.abs().flatten(1).amax(dim=1).max().item()
        assert largest == pytest.approx(theirs["absmax"], rel=0.01)


def test_head_is_zero_and_predicts_evenly() -> None:
    model = ViViT(**RECORDED)
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert not model(torch.randn(1, 3, 8, 32, 32)).any()


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_initializer_range_is_hugging_faces(std: float) -> None:
    torch.manual_seed(0)
    model = ViViT(**RECORDED, initializer_range=std, representation_size=64)
    for name, parameter in model.named_parameters():
        if name.startswith("head.") or name == "cls_token" or name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            # Truncated at two standard deviations, which leaves 0.88 of the width.
            width = std if name == "pos_embed" else 0.8796 * std
            assert parameter.std().item() == pytest.approx(width, rel=0.05), name
            assert parameter.abs().max() <= 2 * std or name == "pos_embed"


def test_representation_layer_is_lecun_normal() -> None:
    torch.manual_seed(0)
    model = ViViT(**RECORDED, representation_size=256)
    assert model.pre_logits.weight.std().item() == pytest.approx(1 / math.sqrt(96), rel=0.02)
    assert not model.pre_logits.bias.any()


def test_no_two_matrices_are_alike() -> None:
    state = ViViT(**RECORDED).state_dict()
    query, key, value = state["blocks.0.attn.qkv.weight"].chunk(3)
    same_shape = [query, key, value, state["blocks.0.attn.proj.weight"]]
    same_shape += state["blocks.1.attn.qkv.weight"].chunk(3)
    flat = torch.stack([matrix.flatten() for matrix in same_shape])
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.06  # six standard errors


def test_seed_decides() -> None:
    def built(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return ViViT(**RECORDED).state_dict()

    first, again, other = built(0), built(0), built(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])
