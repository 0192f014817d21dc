"""Initial weights: the original's distributions, recorded from Scenic, and Hugging Face's."""

import json
import math

import pytest
import torch
from torch import Tensor

from tests.golden_files import GOLDEN
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights.scenic import translate

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
# What the recorded models differ in.
MODELS = {
    "model1": {},
    "model2": {"attention": "factorised_encoder", "temporal_layers": 2},
    "model3": {"attention": "factorised_self_attention", "pooling": "mean"},
    "model4": {"attention": "factorised_dot_product", "pooling": "mean"},
}
MODELS = {name: RECORDED | arguments for name, arguments in MODELS.items()}
STATISTICS = json.loads((GOLDEN / "init_statistics.json").read_text())
LEAVES = [(model, leaf) for model in MODELS for leaf in STATISTICS[model]]


def pick(state: dict[str, Tensor], leaf: str) -> Tensor:
    """Our parameter for one of Scenic's leaves; a third of ours for queries, keys and values."""
    name, part, count = translate(leaf)
    return state[name].chunk(count)[part]


@pytest.fixture(scope="module")
def states() -> dict[str, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    return {
        name: [ViViT(**arguments).state_dict() for _ in range(8)]
        for name, arguments in MODELS.items()
    }


@pytest.mark.parametrize("model", MODELS)
def test_every_recorded_leaf_is_compared(model: str, states) -> None:
    assert {translate(leaf)[0] for leaf in STATISTICS[model]} == {*states[model][0]}


@pytest.mark.parametrize(("model", "leaf"), LEAVES)
def test_distribution_is_the_originals(model: str, leaf: str, states) -> None:
    theirs = STATISTICS[model][leaf]
    ours = torch.stack([pick(state, leaf) for state in states[model]]).double()
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


def test_the_originals_zero_initialisation_can_never_learn() -> None:
    """Why ours zeroes one of the four matrices: with all at zero no gradient arrives."""
    zeros = {leaf for leaf, of in STATISTICS["model3_zero"].items() if of["absmax"] == 0}
    kernels = {leaf for leaf in zeros if "Attention_time" in leaf and leaf.endswith("kernel")}
    assert len(kernels) == 2 * 4  # of query, key, value and out in both layers
    model = ViViT(**MODELS["model3"])
    for leaf in zeros:
        name, part, count = translate(leaf)
        model.state_dict()[name].chunk(count)[part].zero_()
    torch.nn.init.normal_(model.head.weight)
    model(torch.randn(1, 3, 8, 32, 32)).sum().backward()
    for name in {translate(leaf)[0] for leaf in kernels}:
        assert not model.get_parameter(name).grad.any()


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
        if name.startswith("head.") or name == "encoder.cls_token" or name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            # Truncated at two standard deviations, which leaves 0.88 of the width.
            width = std if name == "encoder.pos_embed" else 0.8796 * std
            assert parameter.std().item() == pytest.approx(width, rel=0.05), name
            assert parameter.abs().max() <= 2 * std or name == "encoder.pos_embed"


def test_representation_layer_is_lecun_normal() -> None:
    torch.manual_seed(0)
    model = ViViT(**RECORDED, representation_size=256)
    assert model.pre_logits.weight.std().item() == pytest.approx(1 / math.sqrt(96), rel=0.02)
    assert not model.pre_logits.bias.any()


def test_no_two_matrices_are_alike() -> None:
    state = ViViT(**RECORDED).state_dict()
    query, key, value = state["encoder.blocks.0.attn.qkv.weight"].chunk(3)
    same_shape = [query, key, value, state["encoder.blocks.0.attn.proj.weight"]]
    same_shape += state["encoder.blocks.1.attn.qkv.weight"].chunk(3)
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
