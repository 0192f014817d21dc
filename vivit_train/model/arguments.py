"""ViViT's arguments: what each means, its type and its range. Shapes: see `vivit.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, get_args

from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of
from vivit_train.model.layers import ACTIVATIONS

# Models 1 to 4 of the paper.
ATTENTIONS = (
    "spatio_temporal",
    "factorised_encoder",
    "factorised_self_attention",
    "factorised_dot_product",
)
ATTENTION_ORDERS = ("time_space", "space_time")
CHOICES = {
    "attention": ATTENTIONS,
    "pooling": ("cls", "mean", "max", "sum", "first"),
    "activation": tuple(ACTIVATIONS),
    "drop_path_style": ("scenic", "timm"),
    "attention_implementation": ("sdpa", "eager"),
}
# Keys of the configuration's group `model` that say how a run starts and trains the model.
NOT_ARGUMENTS = (
    "name",
    "pretrained",
    "from_image",
    "activation_checkpointing",
    "attention_kernel",
    "compile",
)
# What a type of an argument is called.
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Sequence[int]: "a list of whole numbers",
    type(None): "null",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `ViViT` takes: plain values, under the names that they have in ``configs/model``.

    Once made, each ``None`` that stands for another value is that value.

    Attributes:
        num_classes: Classes K of the head, 1 or more.
        attention: Model 1 ``spatio_temporal``: every token attends to all. Model 2
            ``factorised_encoder``: an encoder over each frame's tokens, then one over frames.
            Model 3 ``factorised_self_attention``: each block attends over time, then over space.
            Model 4 ``factorised_dot_product``: half of the heads over time, half over space.
        attention_order: Model 3: ``time_space`` (also for ``None``) or ``space_time``.
        pooling: ``cls`` reads a class token; ``mean``, ``max`` and ``sum`` pool all tokens;
            ``first`` reads the first token. Models 3 and 4 have no class token, and need one of
            ``mean``, ``max``, ``sum``.
        image_size: Native side in pixels, or (height, width); a multiple of the tubelet's.
        num_frames: Native frames per clip; a multiple of the tubelet's.
        tubelet_size: Frames and pixels (t, h, w) that one token covers.
        num_channels: Channels C of a frame.
        hidden_size: Width D of a token; a multiple of ``num_heads``.
        num_layers: Transformer blocks; in Model 2, of the spatial encoder.
        num_heads: Attention heads A of a block; even in Model 4.
        mlp_size: Width M inside a block's MLP.
        temporal_layers: Model 2: blocks of the temporal encoder, 4 for ``None`` (the paper's);
            with 0 the frames' representations are averaged.
        temporal_heads: Model 2: heads of the temporal encoder; ``None``: ``num_heads``.
        temporal_mlp_size: Model 2: MLP width of the temporal encoder; ``None``: ``mlp_size``.
        activation: ``gelu`` (exact); ``gelu_fast``, ``gelu_new`` or ``gelu_pytorch_tanh`` (the
            tanh form); ``relu`` or ``selu``.
        dropout: Probability after the positions, the attention's projection and both MLP layers.
            In Model 2 each frame has its own mask; in Scenic all of a clip share one.
        attention_dropout: Probability on attention weights.
        drop_path: Probability of dropping a residual branch of the last block; rises linearly
            from 0 at the first (stochastic depth, paper §4.2), in each encoder of Model 2.
        drop_path_style: ``scenic``: as Scenic, which never rescales, drops a branch for all
            frames of a clip alike in Model 2, and ignores ``drop_path`` in Model 3 (a warning
            says so). ``timm``: divides kept branches by 1 - p, drops frame by frame in Model 2's
            spatial encoder, and works in Model 3.
        token_drop: Share of the tubelets that a training step leaves out, at random, after the
            positions are added (PatchDropout): in Model 1 of the clip, in Model 2 of each frame.
            Models 3 and 4, whose blocks need the whole grid, have none, nor have the poolings
            ``sum`` and ``first``.
        initializer_range: ``None`` initialises as Scenic does; a number is the standard
            deviation of Hugging Face's truncated normal for every weight matrix.
        layer_norm_eps: LayerNorm's epsilon.
        qkv_bias: Whether queries, keys and values have a bias.
        representation_size: Width of a tanh layer before the head; ``None``: no such layer.
        sampled_frames: Uniform frame sampling (paper §3.2): embed only this many of the clip's
            frames, evenly spaced, each as an image. Needs a tubelet of one frame. ``None``: off.
        attention_implementation: ``sdpa`` (fused kernels) or ``eager`` (the explicit formula).

    Raises:
        UserError: If a value is of another type, outside what is said above, or given to a model
            without it.
    """

    num_classes: int
    attention: str = "spatio_temporal"
    attention_order: str | None = None
    pooling: str = "cls"
    image_size: int | Sequence[int] = 224
    num_frames: int = 32
    tubelet_size: Sequence[int] = (2, 16, 16)
    num_channels: int = 3
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int = 3072
    temporal_layers: int | None = None
    temporal_heads: int | None = None
    temporal_mlp_size: int | None = None
    activation: str = "gelu_fast"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_style: str = "scenic"
    token_drop: float = 0.0
    initializer_range: float | None = None
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    representation_size: int | None = None
    sampled_frames: int | None = None
    attention_implementation: str = "sdpa"

    def __post_init__(self) -> None:
        check_types(vars(self))
        check_ranges(self)
        for name, value in _settled(self).items():
            object.__setattr__(self, name, value)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Native (height, width) in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def to_dict(self) -> dict[str, Any]:
        """Numbers, words and lists, as checkpoints and JSON hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


def arguments_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ViViT` in the configuration's group ``model``: all but ``num_classes``."""
    return {name: value for name, value in settings.items() if name not in NOT_ARGUMENTS}


def check_types(arguments: Mapping[str, Any], origin: str | None = None) -> None:
    """Refuses arguments of other types than `Arguments` declares.

    Args:
        arguments: Some or all of them.
        origin: The file that they come from, for the message.

    Raises:
        UserError: Naming the first.
    """
    whose = f"{origin}: " if origin else ""
    types = {field.name: field.type for field in fields(Arguments)}
    for name, value in arguments.items():
        kind = types[name]
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        expected = " or ".join(WORDS[choice] for choice in kinds)
        _require(is_of(value, kind), f"{whose}model.{name}={value!r:.80} is not {expected}")
    if isinstance(size := arguments.get("image_size"), list | tuple):
        _require(
            len(size) == 2,
            f"{whose}model.image_size={size} is not one number or (height, width)",
        )
    tubelet = arguments.get("tubelet_size", (1, 1, 1))
    _require(
        len(tubelet) == 3 and min(tubelet) >= 1,
        f"{whose}model.tubelet_size is (frames, height, width), three numbers of 1 or more, got "
        f"{list(tubelet)}",
    )


def check_ranges(a: Arguments) -> None:
    """Refuses values that no model takes, and those that this one has no use for.

    Raises:
        UserError: Naming the first.
    """
    for name, choices in CHOICES.items():
        _require_choice(name, getattr(a, name), choices)
    counts = ("num_classes", "num_channels", "num_frames", "hidden_size", "num_layers", "num_heads")
    for name in (*counts, "mlp_size", "representation_size"):
        value = getattr(a, name)
        _require(value is None or value >= 1, f"model.{name} must be 1 or more, got {value}")
    for name in ("dropout", "attention_dropout", "drop_path", "token_drop"):
        value = getattr(a, name)
        _require(0 <= value < 1, f"model.{name} is a probability in [0, 1), got {value}")
    eps, std = a.layer_norm_eps, a.initializer_range
    _require(eps >= 0, f"model.layer_norm_eps must be 0 or more, got {eps}")
    _require(std is None or std > 0, f"model.initializer_range must be above 0, got {std}")
    _check_owners(a)
    if a.attention in ("factorised_self_attention", "factorised_dot_product"):
        _require(
            a.pooling in ("mean", "max", "sum"),
            f"model.pooling={a.pooling}: model.attention={a.attention} has no class token, "
            "which would have no place in time and space; use mean, max or sum",
        )
    if a.token_drop:
        _require(
            a.attention in ("spatio_temporal", "factorised_encoder"),
            f"model.token_drop={a.token_drop}: the blocks of model.attention={a.attention} "
            "need every token of the grid; use 0, or spatio_temporal or factorised_encoder",
        )
        _require(
            a.pooling in ("cls", "mean", "max"),
            f"model.token_drop={a.token_drop}: model.pooling={a.pooling} reads "
            "something else when tokens are missing; use cls, mean or max",
        )
    for name in ("num_heads", "temporal_heads"):
        heads = getattr(a, name) or 1
        _require(
            a.hidden_size % heads == 0,
            f"model.hidden_size={a.hidden_size} is not a multiple of model.{name}={heads}",
        )
    _require(
        a.attention != "factorised_dot_product" or a.num_heads % 2 == 0,
        f"model.num_heads={a.num_heads} must be even with model.attention={a.attention}: "
        "half of the heads attend over time, half over space",
    )


def _check_owners(a: Arguments) -> None:
    """Arguments that only one of the four models has."""
    owners = {
        "attention_order": "factorised_self_attention",
        "temporal_layers": "factorised_encoder",
        "temporal_heads": "factorised_encoder",
        "temporal_mlp_size": "factorised_encoder",
    }
    for name, owner in owners.items():
        value = getattr(a, name)
        _require(
            value is None or a.attention == owner,
            f"model.{name}={value} is for model.attention={owner}; with {a.attention} it must be "
            "null",
        )
        least = 0 if name == "temporal_layers" else 1
        _require(
            not isinstance(value, int) or value >= least,
            f"model.{name} must be {least} or more, got {value}",
        )
    if a.attention_order is not None:
        _require_choice("attention_order", a.attention_order, ATTENTION_ORDERS)


def _settled(a: Arguments) -> dict[str, Any]:
    """What ``None`` stands for in this model, and sizes of one form."""
    height, width = a.frame_size
    values: dict[str, Any] = {
        "image_size": height if height == width else (height, width),
        "tubelet_size": tuple(a.tubelet_size),
    }
    defaults: dict[str, Any] = {}
    if a.attention == "factorised_self_attention":
        defaults = {"attention_order": "time_space"}
    if a.attention == "factorised_encoder":
        defaults = {
            "temporal_layers": 4,
            "temporal_heads": a.num_heads,
            "temporal_mlp_size": a.mlp_size,
        }
    return values | {k: default for k, default in defaults.items() if getattr(a, k) is None}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, f"model.{name}={value!r} is not one of {', '.join(choices)}")
