"""Numbers recorded by running the original (Scenic, JAX): tests/golden, and how to read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
# Scenic's names -> ours.
ATTENTIONS = {
    "spacetime": "spatio_temporal",
    "factorized_encoder": "factorised_encoder",
    "factorized_self_attention_block": "factorised_self_attention",
    "factorized_dot_product_attention": "factorised_dot_product",
}
POOLINGS = {"token": "cls", "gap": "mean", "gmp": "max", "gsp": "sum", "0": "first"}


def read(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A recording's description and its arrays."""
    info = json.loads((GOLDEN / f"{case}.json").read_text())
    return info, dict(np.load(GOLDEN / f"{case}.npz"))


def tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """The arrays under a prefix such as ``params/``, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def vivit_arguments(
    config: dict[str, Any], num_classes: int, num_frames: int, image_size: tuple[int, int]
) -> dict[str, Any]:
    """ViViT's arguments for a recorded Scenic configuration."""
    model = config["model"]
    encoding = model["temporal_encoding_config"]
    h, w, *t = model["patches"]["size"]  # Scenic writes (h, w, t)
    spatial = model.get("spatial_transformer", model)
    arguments = {
        "num_classes": num_classes,
        "attention": ATTENTIONS[model["attention_config"]["type"]],
        "attention_order": model["attention_config"].get("attention_order"),
        "pooling": POOLINGS[model["classifier"]],
        "image_size": image_size,
        "num_frames": num_frames,
        "tubelet_size": (*t, h, w) if t else (1, h, w),
        "hidden_size": model["hidden_size"],
        "num_layers": spatial["num_layers"],
        "num_heads": spatial["num_heads"],
        "mlp_size": spatial["mlp_dim"],
        "representation_size": model["representation_size"],
        "sampled_frames": None if encoding["method"] == "3d_conv" else encoding["n_sampled_frames"],
        "drop_path": model.get("stochastic_droplayer_rate") or 0.0,
    }
    if arguments["attention"] == "factorised_encoder":
        temporal = model.get("temporal_transformer")
        if model["attention_config"].get("spatial_only_baseline"):
            temporal = {"num_layers": 0}
        arguments |= {
            "temporal_layers": temporal["num_layers"],
            "temporal_heads": temporal.get("num_heads"),
            "temporal_mlp_size": temporal.get("mlp_dim"),
        }
    return arguments
