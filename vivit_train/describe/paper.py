"""The models of the paper, and what it says that they cost."""

from dataclasses import dataclass
from typing import Any

from vivit_train.model.pos_embed import Grid
from vivit_train.model.vivit import ViViT


@dataclass(frozen=True)
class PaperRow:
    """A model of the paper and what the paper says about it.

    Attributes:
        attention: As ViViT's argument; likewise up to ``temporal_layers``.
        macs: Multiply-accumulates per view.
        parameters: Weights, where the paper says how many.
        source: Where it says so.
    """

    attention: str
    hidden_size: int
    num_layers: int
    tubelet_size: Grid
    num_frames: int
    image_size: int
    temporal_layers: int | None
    macs: float
    parameters: float | None
    source: str

    def arguments(self) -> dict[str, Any]:
        """Arguments of ViViT that make the paper's model; other widths follow from D."""
        heads, mlp_size = {768: 12, 1024: 16, 1280: 16}[self.hidden_size], 4 * self.hidden_size
        is_encoder = self.attention == "factorised_encoder"
        has_class_token = self.attention in ("spatio_temporal", "factorised_encoder")
        return {
            "attention": self.attention,
            "pooling": "cls" if has_class_token else "mean",
            "image_size": self.image_size,
            "num_frames": self.num_frames,
            "tubelet_size": list(self.tubelet_size),
            "num_channels": 3,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": heads,
            "mlp_size": mlp_size,
            "temporal_layers": self.temporal_layers,
            "temporal_heads": heads if is_encoder else None,
            "temporal_mlp_size": mlp_size if is_encoder else None,
            "qkv_bias": True,
            "representation_size": None,
            "sampled_frames": None,
        }


_JOINT, _ENCODER = "spatio_temporal", "factorised_encoder"
_SELF, _DOT = "factorised_self_attention", "factorised_dot_product"
_T2, _T5, _T6A = "paper, Table 2", "paper, Table 5", "paper, Table 6a"
_P16, _P14 = (2, 16, 16), (2, 14, 14)
# arXiv 2103.15691v2. Table 6a gives sums over views: 11.94 T of 1x3, and 47.77 T of 4x3.
PAPER = (
    PaperRow(_JOINT, 768, 12, _P16, 32, 224, None, 455.2e9, 88.9e6, _T2),
    PaperRow(_ENCODER, 768, 12, _P16, 32, 224, 4, 284.4e9, 115.1e6, _T2),
    PaperRow(_ENCODER, 768, 12, _P16, 32, 224, 0, 283.9e9, 86.7e6, _T2),
    PaperRow(_SELF, 768, 12, _P16, 32, 224, None, 372.3e9, 117.3e6, _T2),
    PaperRow(_DOT, 768, 12, _P16, 32, 224, None, 277.1e9, 88.9e6, _T2),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 224, None, 1446e9, None, _T5),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 288, None, 2919e9, None, _T5),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 320, None, 3992e9, None, _T5),
    PaperRow(_ENCODER, 1024, 24, _P16, 32, 224, 4, 995.3e9, None, "paper, section 4.2"),
    PaperRow(_ENCODER, 1024, 24, _P16, 128, 224, 4, 3980.4e9, None, _T6A),
    PaperRow(_JOINT, 1280, 32, _P14, 32, 224, None, 47.77e12 / 12, None, _T6A),
)


def paper_row(model: ViViT, clip: Grid) -> PaperRow | None:
    """What the paper says about this model on clips of this size; ``None`` if it is not there.

    The number of classes is not compared: the paper counts without saying for which data set.

    Args:
        model: Any ViViT.
        clip: Frames, height and width of its clips.
    """
    config = model.config
    for row in PAPER:
        is_native = clip == (row.num_frames, row.image_size, row.image_size)
        if is_native and all(config[k] == value for k, value in row.arguments().items()):
            return row
    return None
