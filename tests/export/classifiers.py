"""Tiny classifiers to export."""

from typing import Any

import torch
from torch import Tensor, nn

from vivit_train.classifier import Classifier
from vivit_train.model.vivit import ViViT
from vivit_train.transforms.processor import Processor
from vivit_train.video.sampling import Sampling

POOLING = {
    "spatio_temporal": "cls",
    "factorised_encoder": "cls",
    "factorised_self_attention": "mean",
    "factorised_dot_product": "mean",
}
NAMES = ["zumba", "archery", "abseiling", "juggling balls", "ça va"]


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def build(processor: Processor | None = None, **model: Any) -> Classifier:
    """A tiny classifier whose every weight is random, so that each one counts."""
    torch.manual_seed(0)
    sizes = {
        "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8], "hidden_size": 16,
        "num_layers": 2, "num_heads": 2, "mlp_size": 24,
    }  # fmt: skip
    vivit = ViViT(num_classes=5, **sizes | model)
    for parameter in vivit.parameters():
        nn.init.normal_(parameter, std=0.2)
    vivit.requires_grad_(False)
    processor = processor or Processor(crop_size=vivit.config["image_size"])
    config = {"optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "model": None}
    sampling = Sampling(4, frame_stride=3)
    return Classifier(
        vivit, processor, NAMES, config, sampling, eval_views=(2, 1), video_rate=25.0
    ).eval()
