"""Random models: every parameter away from its initial value, so that none can go unnoticed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

TINY = {
    "image_size": [16, 24],
    "num_frames": 4,
    "tubelet_size": [2, 8, 8],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}


@torch.no_grad()
def _randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        z = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.25 * z)
        elif parameter.ndim == 1 or "token" in name or "pos" in name:
            parameter.copy_(0.3 * z)
        else:
            parameter.copy_(1.5 * z / parameter[0].numel() ** 0.5)  # attention far from uniform
    return model.eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def randomise() -> Callable[..., Any]:
    """randomise(model, seed=0) fills its parameters and returns it, in evaluation mode."""
    return _randomise


@pytest.fixture(scope="session")
def huggingface() -> Callable[..., Any]:
    """huggingface(headless=False, seed=0, **config) is a random ViViT of transformers."""
    from transformers import VivitConfig, VivitForVideoClassification, VivitModel

    def build(headless: bool = False, seed: int = 0, **config: Any) -> nn.Module:
        config = VivitConfig(**TINY | config, attn_implementation="sdpa")
        return _randomise((VivitModel if headless else VivitForVideoClassification)(config), seed)

    return build
