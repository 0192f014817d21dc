"""ViViT: A Video Vision Transformer (arXiv 2103.15691), the paper's four models in one file.

Shapes: B clips of C channels, T frames, H x W pixels; a grid of t x h x w tokens, s = h*w of them
per frame, N = t*s; D hidden_size, A heads of d = D / A, M mlp_size, K classes. Every 3-tuple is
(t, h, w). Numerics follow the original (Scenic, JAX): tanh GELU, LayerNorm eps 1e-6, pre-norm.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.layers import ACTIVATIONS, Attention, DropPath, Mlp
from vivit_train.model.pos_embed import Grid, interpolate_positions

# Models 1 to 4 of the paper.
ATTENTIONS = (
    "spatio_temporal",
    "factorised_encoder",
    "factorised_self_attention",
    "factorised_dot_product",
)
ATTENTION_ORDERS = ("time_space", "space_time")
POOLINGS = ("cls", "mean", "max", "sum", "first")
DROP_PATH_STYLES = ("scenic", "timm")
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")


class ViViT(nn.Module):
    """The video model: tubelets to tokens, a Transformer over space and time, a linear head.

    Paper: ViViT §3.2 (embedding), §3.3 (the four models).

    Args:
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
            In Model 2 each frame has its own mask; in the original all of a clip share one.
        attention_dropout: Probability on attention weights.
        drop_path: Probability of dropping a residual branch of the last block; rises linearly
            from 0 at the first (stochastic depth, paper §4.2), in each encoder of Model 2.
        drop_path_style: ``scenic``: as the original, which never rescales, drops a branch for all
            frames of a clip alike in Model 2, and ignores ``drop_path`` in Model 3 (a warning
            says so). ``timm``: divides kept branches by 1 - p, drops frame by frame in Model 2's
            spatial encoder, and works in Model 3.
        initializer_range: ``None`` initialises as the original does; a number is the standard
            deviation of Hugging Face's truncated normal for every weight matrix.
        layer_norm_eps: LayerNorm's epsilon.
        qkv_bias: Whether queries, keys and values have a bias.
        representation_size: Width of a tanh layer before the head; ``None``: no such layer.
        sampled_frames: Uniform frame sampling (paper §3.2): embed only this many of the clip's
            frames, evenly spaced, each as an image. Needs a tubelet of one frame. ``None``: off.
        attention_implementation: ``sdpa`` (fused kernels) or ``eager`` (the explicit formula).

    Raises:
        UserError: If a value is outside what is said above, or given to a model without it.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        attention: str = "spatio_temporal",
        attention_order: str | None = None,
        pooling: str = "cls",
        image_size: int | Sequence[int] = 224,
        num_frames: int = 32,
        tubelet_size: Sequence[int] = (2, 16, 16),
        num_channels: int = 3,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_size: int = 3072,
        temporal_layers: int | None = None,
        temporal_heads: int | None = None,
        temporal_mlp_size: int | None = None,
        activation: str = "gelu_fast",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        drop_path_style: str = "scenic",
        initializer_range: float | None = None,
        layer_norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        representation_size: int | None = None,
        sampled_frames: int | None = None,
        attention_implementation: str = "sdpa",
    ) -> None:
        # Plain values only, so that a checkpoint can carry them: ViViT(**model.config) rebuilds.
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        _check(config)
        config = settled(config)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        config["tubelet_size"] = list(tubelet_size)
        config["image_size"] = height if height == width else [height, width]
        self.config = config
        self.num_classes = num_classes
        self.attention = attention
        self.pooling = pooling
        self.embed = TubeletEmbedding(num_channels, hidden_size, tubelet_size, sampled_frames)
        self.grid = self.embed.grid(num_frames, height, width)

        has_cls = pooling == "cls"
        t, h, w = self.grid
        grid = (1, h, w) if attention == "factorised_encoder" else self.grid
        per_frame = attention == "factorised_encoder" and drop_path_style == "timm"
        blocks = _blocks(config, num_layers, num_heads, mlp_size, per_frame)
        self.encoder = Encoder(grid, has_cls, blocks, config)
        self.temporal_encoder: Encoder | None = None
        if config["temporal_layers"]:
            temporal = [config[f"temporal_{size}"] for size in ("layers", "heads", "mlp_size")]
            blocks = _blocks(config, *temporal)
            self.temporal_encoder = Encoder((t, 1, 1), has_cls, blocks, config)
        width = representation_size or hidden_size
        self.pre_logits = nn.Linear(hidden_size, width) if representation_size else None
        self.head = nn.Linear(width, num_classes)
        self.reset_parameters(initializer_range)

    def forward(self, clips: Tensor) -> Tensor:
        """Class logits.

        Args:
            clips: Float ``[B, C, T, H, W]``, as the image processor makes them. T, H and W may
                differ from the native size by whole tubelets; positions are then interpolated.

        Returns:
            Float ``[B, K]``.

        Raises:
            UserError: If the clips' channels or size do not fit the tubelets.
        """
        x = self.features(clips)
        averages_frames = self.attention == "factorised_encoder" and self.temporal_encoder is None
        x = x.mean(dim=1) if averages_frames else pool(x, self.pooling)  # [B, D]
        if self.pre_logits is not None:
            x = torch.tanh(self.pre_logits(x))
        return self.head(x)

    def features(self, clips: Tensor) -> Tensor:
        """The bare features after the last LayerNorm, without the head.

        Args:
            clips: Float ``[B, C, T, H, W]``, as for ``forward``.

        Returns:
            Float ``[B, 1 + N, D]`` with the class token first, ``[B, N, D]`` without one; the
            other tokens in (t, h, w) order, w fastest. Model 2 has one token per frame, N = t.
        """
        x = self.embed(clips)  # [B, N, D]
        t, h, w = grid = self.embed.grid(*clips.shape[2:])
        if self.attention == "spatio_temporal":
            return self.encoder(x, grid)
        x = x.unflatten(1, (t, h * w))  # [B, t, s, D]
        if self.attention != "factorised_encoder":
            return self.encoder(x, grid).flatten(1, 2)  # [B, N, D]
        x = pool(self.encoder(x, (1, h, w)), self.pooling)  # [B, t, D]
        return self.temporal_encoder(x, (t, 1, 1)) if self.temporal_encoder is not None else x

    @torch.no_grad()
    def reset_parameters(self, initializer_range: float | None = None) -> None:
        """Initialises every weight; the head is always zero, so a new model predicts evenly.

        ``None`` is the original's rule (Scenic): Xavier-uniform matrices, LeCun-normal tubelets,
        MLP biases N(0, 1e-6), positions N(0, 0.02), class tokens zero.

        Args:
            initializer_range: Standard deviation of a truncated normal for all matrices and
                positions instead, with zero biases, as Hugging Face does.
        """
        std = initializer_range
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if std is not None:
                    _truncated_normal(module.weight, std)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Encoder):
                nn.init.normal_(module.pos_embed, std=0.02 if std is None else std)
                if module.cls_token is not None:
                    nn.init.zeros_(module.cls_token)
        fan_in = self.embed.weight[0].numel()
        _truncated_normal(self.embed.weight, std or _lecun_std(fan_in))
        nn.init.zeros_(self.embed.bias)
        if std is None:
            for module in self.modules():
                if isinstance(module, Attention):
                    # Queries, keys and values are three matrices, each initialised on its own.
                    for matrix in module.qkv.weight.chunk(3):
                        nn.init.xavier_uniform_(matrix)
                elif isinstance(module, Mlp):
                    nn.init.normal_(module.fc1.bias, std=1e-6)
                    nn.init.normal_(module.fc2.bias, std=1e-6)
            if self.pre_logits is not None:
                _truncated_normal(self.pre_logits.weight, _lecun_std(self.pre_logits.in_features))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def pool(x: Tensor, pooling: str) -> Tensor:
    """Tokens to one representation: ``[..., N, D]`` -> ``[..., D]``, by one of ``POOLINGS``."""
    if pooling == "mean":
        return x.mean(dim=-2)
    if pooling == "max":
        return x.amax(dim=-2)
    if pooling == "sum":
        return x.sum(dim=-2)
    return x[..., 0, :]  # the class token, or the first


class TubeletEmbedding(nn.Module):
    """Cuts a clip into tubelets and projects each to a token. Paper: ViViT §3.2.

    A convolution whose stride is its kernel, computed as one matrix product on a view of the
    clip. With ``sampled_frames`` it is the paper's uniform frame sampling instead.

    Args:
        num_channels: Channels C of a frame.
        hidden_size: Width D of a token.
        tubelet_size: Frames and pixels (t, h, w) that one token covers.
        sampled_frames: Frames to pick from the clip, or ``None`` for all.
    """

    def __init__(
        self,
        num_channels: int,
        hidden_size: int,
        tubelet_size: Sequence[int],
        sampled_frames: int | None = None,
    ) -> None:
        super().__init__()
        _require(
            len(tubelet_size) == 3 and min(tubelet_size) >= 1,
            f"model.tubelet_size is (frames, height, width), three numbers of 1 or more, "
            f"got {list(tubelet_size)}",
        )
        self.tubelet_size: Grid = (tubelet_size[0], tubelet_size[1], tubelet_size[2])
        self.sampled_frames = sampled_frames
        _require(
            sampled_frames is None or (sampled_frames >= 1 and tubelet_size[0] == 1),
            f"model.sampled_frames={sampled_frames} embeds single frames: it must be 1 or more and "
            f"model.tubelet_size must start with 1, got {list(tubelet_size)}",
        )
        # [D, C, t, h, w], the layout of a Conv3d.
        self.weight = nn.Parameter(torch.empty(hidden_size, num_channels, *tubelet_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Tokens along (t, h, w) for a clip of this size; raises UserError where none fit."""
        size = (num_frames, height, width)
        multiples = all(s >= p and s % p == 0 for s, p in zip(size, self.tubelet_size))
        _require(
            multiples,
            f"a clip of {num_frames} frames of {height}x{width} cannot be cut into tubelets of "
            f"{self.tubelet_size[0]} frames of {self.tubelet_size[1]}x{self.tubelet_size[2]}: "
            "use multiples (model.num_frames, model.image_size, model.tubelet_size)",
        )
        if self.sampled_frames is not None:
            num_frames = len(uniform_frames(num_frames, self.sampled_frames))
        pt, ph, pw = self.tubelet_size
        return num_frames // pt, height // ph, width // pw

    def forward(self, clips: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` -> ``[B, N, D]``, tokens in (t, h, w) order, w fastest."""
        num_channels = self.weight.shape[1]
        if clips.ndim != 5 or clips.shape[1] != num_channels:
            raise UserError(
                f"clips must be [B, {num_channels}, T, H, W], got {list(clips.shape)}; "
                "frames as decoded, [B, T, H, W, C], go through the processor first"
            )
        t, h, w = self.grid(*clips.shape[2:])
        if self.sampled_frames is not None:
            clips = clips[:, :, uniform_frames(clips.shape[2], self.sampled_frames)]
        pt, ph, pw = self.tubelet_size
        x = clips.reshape(clips.shape[0], num_channels, t, pt, h, ph, w, pw)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, C, pt, ph, pw]
        x = x.reshape(clips.shape[0], t * h * w, -1)  # [B, N, C*pt*ph*pw]
        return F.linear(x, self.weight.flatten(1), self.bias)


class Encoder(nn.Module):
    """A class token and positions on a token grid, Transformer blocks, a last LayerNorm.

    Args:
        grid: Native tokens along (t, h, w).
        has_cls: Whether a class token goes before the others.
        blocks: The Transformer blocks.
        config: ViViT's arguments.
    """

    def __init__(
        self, grid: Grid, has_cls: bool, blocks: "list[Block]", config: dict[str, Any]
    ) -> None:
        super().__init__()
        hidden_size = config["hidden_size"]
        self.grid = grid
        self.num_prefix = int(has_cls)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size)) if has_cls else None
        rows = self.num_prefix + math.prod(grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, hidden_size))
        self.pos_dropout = nn.Dropout(config["dropout"])
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_size, eps=config["layer_norm_eps"])

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Encodes tokens.

        Args:
            x: ``[B, N, D]`` for N = t*h*w; ``[B, t, s, D]`` if the blocks tell time from space, or
                if each frame is encoded by itself (then the grid is (1, h, w)).
            grid: Tokens along (t, h, w); positions are interpolated if it is not the native one.

        Returns:
            As ``x``, with the class token, if any, before the other tokens.
        """
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(*x.shape[:-2], 1, -1), x], dim=-2)
        positions = interpolate_positions(self.pos_embed, self.grid, grid, self.num_prefix)
        # [1, N, D], or [t, s, D], where s = N for positions that all frames share.
        x = self.pos_dropout(x + positions.reshape(-1, *x.shape[-2:]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Block(nn.Module):
    """A pre-norm Transformer block: attention, then an MLP, each on a residual branch.

    Paper: ViViT eq. 2-4. The block of Models 1, 2 and 4.
    """

    def __init__(self, attn: Attention, mlp: Mlp, drop_path: DropPath, eps: float) -> None:
        super().__init__()
        hidden_size = attn.proj.out_features
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ..., N, D]`` -> the same."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class FactorisedBlock(Block):
    """The block of Model 3: attention over time, attention over space, one MLP.

    Paper: ViViT §3.3, eq. 6-8. ``norm1`` and ``attn`` are the spatial ones, which an image model
    has too.
    """

    def __init__(
        self,
        attn: Attention,
        temporal_attn: Attention,
        mlp: Mlp,
        drop_path: DropPath,
        eps: float,
        attention_order: str,
    ) -> None:
        super().__init__(attn, mlp, drop_path, eps)
        self.temporal_norm = nn.LayerNorm(attn.proj.out_features, eps=eps)
        self.temporal_attn = temporal_attn
        self.attention_order = attention_order

    def forward(self, x: Tensor) -> Tensor:
        """``[B, t, s, D]`` -> the same."""
        for axis in self.attention_order.split("_"):
            x = x + self.drop_path(self.over_time(x) if axis == "time" else self.over_space(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def over_time(self, x: Tensor) -> Tensor:
        """Each token attends to those of its place in all frames: ``[B, t, s, D]`` -> the same."""
        x = self.temporal_norm(x).transpose(1, 2)  # [B, s, t, D]
        return self.temporal_attn(x).transpose(1, 2)

    def over_space(self, x: Tensor) -> Tensor:
        """Each token attends to those of its frame: ``[B, t, s, D]`` -> the same."""
        return self.attn(self.norm1(x))


class FactorisedDotProductAttention(Attention):
    """Attention of Model 4: the first half of the heads over time, the second over space.

    Paper: ViViT §3.3, eq. 9-11. The parameters are those of ``Attention``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, t, s, D]`` -> the same."""
        b, t, s, _ = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, t, s, 3, A, d]
        time, space = qkv.chunk(2, dim=-2)  # [B, t, s, 3, A/2, d] each
        time = time.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [3, B*s, A/2, t, d]
        space = space.permute(3, 0, 1, 4, 2, 5).flatten(1, 2)  # [3, B*t, A/2, s, d]
        over_time = self.attend(*time).unflatten(0, (b, s)).permute(0, 3, 1, 2, 4)
        over_space = self.attend(*space).unflatten(0, (b, t)).transpose(2, 3)
        out = torch.cat([over_time, over_space], dim=-2)  # [B, t, s, A, d]
        return self.dropout(self.proj(out.flatten(-2)))


def uniform_frames(num_frames: int, sampled_frames: int) -> list[int]:
    """Indices of the frames that uniform frame sampling embeds.

    The original's rule (Scenic ``sample_frames_uniformly``), kept with its rounding error: the
    last step may fall just inside the clip, so a few pairs give one frame more than asked, e.g.
    3 for (8, 2).

    Args:
        num_frames: Frames in the clip.
        sampled_frames: Frames wanted; as many as the clip has, or more, gives every frame.

    Returns:
        Increasing frame indices.
    """
    if sampled_frames >= num_frames:
        return list(range(num_frames))
    step = num_frames / (sampled_frames + 1)
    positions = np.arange(step, num_frames, step, dtype=np.float32)
    return positions.round().clip(max=num_frames - 1).astype(int).tolist()


def _check(config: dict[str, Any]) -> None:
    """Refuses values that no model takes, and those that this one has no use for."""
    for name, choices in {
        "attention": ATTENTIONS,
        "pooling": POOLINGS,
        "activation": tuple(ACTIVATIONS),
        "drop_path_style": DROP_PATH_STYLES,
        "attention_implementation": ATTENTION_IMPLEMENTATIONS,
    }.items():
        _require_choice(name, config[name], choices)
    for name in ("num_classes", "num_layers", "num_heads", "hidden_size", "mlp_size"):
        _require(config[name] >= 1, f"model.{name} must be 1 or more, got {config[name]}")
    for name in ("dropout", "attention_dropout", "drop_path"):
        value = config[name]
        _require(0 <= value < 1, f"model.{name} is a probability in [0, 1), got {value}")

    attention, hidden_size = config["attention"], config["hidden_size"]
    owners = {
        "attention_order": "factorised_self_attention",
        "temporal_layers": "factorised_encoder",
        "temporal_heads": "factorised_encoder",
        "temporal_mlp_size": "factorised_encoder",
    }
    for name, owner in owners.items():
        value = config[name]
        _require(
            value is None or attention == owner,
            f"model.{name}={value} is for model.attention={owner}; with {attention} it must be "
            "null",
        )
        least = 0 if name == "temporal_layers" else 1
        _require(
            not isinstance(value, int) or value >= least,
            f"model.{name} must be {least} or more, got {value}",
        )
    if config["attention_order"] is not None:
        _require_choice("attention_order", config["attention_order"], ATTENTION_ORDERS)
    if attention in ("factorised_self_attention", "factorised_dot_product"):
        _require(
            config["pooling"] in ("mean", "max", "sum"),
            f"model.pooling={config['pooling']}: model.attention={attention} has no class token, "
            "which would have no place in time and space; use mean, max or sum",
        )
    for name in ("num_heads", "temporal_heads"):
        heads = config[name] or 1
        _require(
            hidden_size % heads == 0,
            f"model.hidden_size={hidden_size} is not a multiple of model.{name}={heads}",
        )
    _require(
        attention != "factorised_dot_product" or config["num_heads"] % 2 == 0,
        f"model.num_heads={config['num_heads']} must be even with model.attention={attention}: "
        "half of the heads attend over time, half over space",
    )


def settled(arguments: dict[str, Any]) -> dict[str, Any]:
    """ViViT's arguments with each ``None`` replaced by what it stands for in this model.

    Args:
        arguments: Of ViViT, all of them.
    """
    settled = dict(arguments)
    if arguments["attention"] == "factorised_self_attention":
        settled["attention_order"] = arguments["attention_order"] or "time_space"
    if arguments["attention"] == "factorised_encoder":
        defaults = {
            "temporal_layers": 4,
            "temporal_heads": arguments["num_heads"],
            "temporal_mlp_size": arguments["mlp_size"],
        }
        settled |= {name: value for name, value in defaults.items() if arguments[name] is None}
    return settled


def _blocks(
    config: dict[str, Any],
    num_layers: int,
    num_heads: int,
    mlp_size: int,
    drops_per_frame: bool = False,
) -> "list[Block]":
    """The blocks of an encoder, with drop path rising from block to block."""
    attention, eps = config["attention"], config["layer_norm_eps"]
    is_timm = config["drop_path_style"] == "timm"
    dot_product = attention == "factorised_dot_product"
    attention_class = FactorisedDotProductAttention if dot_product else Attention

    def attend() -> Attention:
        return attention_class(
            config["hidden_size"],
            num_heads,
            config["qkv_bias"],
            config["dropout"],
            config["attention_dropout"],
            config["attention_implementation"],
        )

    if config["drop_path"] and not is_timm and attention == "factorised_self_attention":
        warnings.warn(
            f"model.drop_path={config['drop_path']} has no effect: the original ignores it in "
            "factorised_self_attention; model.drop_path_style=timm applies it",
            stacklevel=3,
        )
    blocks: list[Block] = []
    for layer in range(num_layers):
        mlp = Mlp(config["hidden_size"], mlp_size, config["activation"], config["dropout"])
        p = config["drop_path"] * layer / max(num_layers - 1, 1)
        if attention == "factorised_self_attention":
            drop_path = DropPath(p if is_timm else 0.0, is_timm)
            order = config["attention_order"]
            blocks.append(FactorisedBlock(attend(), attend(), mlp, drop_path, eps, order))
        else:
            blocks.append(Block(attend(), mlp, DropPath(p, is_timm, drops_per_frame), eps))
    return blocks


def _lecun_std(fan_in: int) -> float:
    # 0.8796 is the standard deviation of a unit normal truncated at two.
    return math.sqrt(1 / fan_in) / 0.87962566103423978


def _truncated_normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, f"model.{name}={value!r} is not one of {', '.join(choices)}")
