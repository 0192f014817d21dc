"""timm's image ViTs: state dicts of its ``VisionTransformer``."""

import re
from typing import Any

from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.model.weights.files import (
    Weights,
    check_tensors,
    pixel_range,
    square_image_size,
)

# timm's names -> ours. Within a block they are the same.
MODULES = {
    "cls_token": "encoder.cls_token",
    "pos_embed": "encoder.pos_embed",
    "patch_embed.proj": "embed",
    "norm": "encoder.norm",
    "pre_logits.fc": "pre_logits",
    "head": "head",
}
IN_BLOCK = r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"


def is_timm(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a model of timm's that embeds patches."""
    return "patch_embed.proj.weight" in tensors


def convert(
    origin: str, tensors: dict[str, Tensor], config: dict[str, Any] | None = None
) -> Weights:
    """Weights of an image model from a state dict.

    A tensor that ViViT has no place for (layer scale, registers, a norm before the blocks, ...)
    keeps its name, and loading refuses it.

    Args:
        origin: What was read, for messages.
        tensors: The state dict.
        config: timm's ``config.json``, which has the pixels' mean and standard deviation.

    Raises:
        UserError: If this is no ViT.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _translate(name)
        if ours in state:
            raise UserError(f"{origin} holds {ours} twice: as {name} and under another name")
        state[ours] = tensor
    check_tensors(origin, state, embed_rank=4)
    state["embed.weight"] = state["embed.weight"][:, :, None]  # [D, C, 1, h, w]
    for name in ("encoder.pos_embed", "encoder.blocks.0.mlp.fc1.weight"):
        if name not in state:
            raise UserError(f"{origin} is not a ViT of timm's: it has nothing that makes {name}")
    hidden_size, num_channels, *tubelet_size = state["embed.weight"].shape
    layers = {m[1] for name in state if (m := re.match(r"encoder\.blocks\.(\d+)\.", name))}
    model: dict[str, Any] = {
        "pooling": "cls" if "encoder.cls_token" in state else "mean",
        "num_frames": 1,
        "tubelet_size": tubelet_size,
        "num_channels": num_channels,
        "hidden_size": hidden_size,
        "num_layers": len(layers),
        "mlp_size": len(state["encoder.blocks.0.mlp.fc1.weight"]),
        "qkv_bias": "encoder.blocks.0.attn.qkv.bias" in state,
    }
    if size := square_image_size(state["encoder.pos_embed"], model):
        model["image_size"] = size
    settings = (config or {}).get("pretrained_cfg") or {}
    ranges = None
    if "mean" in settings and "std" in settings:
        ranges = pixel_range(origin, settings["mean"], settings["std"])
    return Weights(
        origin=f"{origin}, an image ViT of timm's",
        format="timm",
        state=state,
        model=model,
        is_image=True,
        pixel_range=ranges,
    )


def _translate(name: str) -> str:
    if re.fullmatch(rf"blocks\.\d+\.{IN_BLOCK}", name):
        return f"encoder.{name}"
    if name in MODULES:
        return MODULES[name]
    module, _, leaf = name.rpartition(".")
    return f"{MODULES[module]}.{leaf}" if module in MODULES else name
