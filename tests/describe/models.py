"""Arguments of a small ViViT, and its native clip."""

from typing import Any

SMALL: dict[str, Any] = {
    "num_classes": 5,
    "image_size": 32,
    "num_frames": 4,
    "tubelet_size": [2, 16, 16],
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 64,
}
CLIP = (4, 32, 32)


def small(attention: str = "spatio_temporal", **others: Any) -> dict[str, Any]:
    has_class_token = attention in ("spatio_temporal", "factorised_encoder")
    return {**SMALL, "attention": attention, "pooling": "cls" if has_class_token else "mean"} | (
        others
    )
