"""ViViT: A Video Vision Transformer (arXiv 2103.15691), the paper in one file.

Shapes: B clips of C channels, T frames, H x W pixels; a grid of t x h x w tokens, N = t*h*w;
D hidden_size, A heads of d = D / A, M mlp_size, K classes. Every 3-tuple is (t, h, w).
Numerics follow the original (Scenic, JAX): tanh GELU, LayerNorm eps 1e-6, pre-norm blocks.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.pos_embed import Grid, interpolate_positions

ATTENTIONS = ("spatio_temporal",)
POOLINGS = ("cls", "mean")
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
# Hugging Face's names. Its gelu_fast and gelu_new are both the tanh form, the original's.
ACTIVATIONS = {
    "gelu": lambda: nn.GELU(),
    "gelu_fast": lambda: nn.GELU(approximate="tanh"),
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "relu": lambda: nn.ReLU(),
    "selu": lambda: nn.SELU(),
}


class ViViT(nn.Module):
    """Model 1 of the paper: joint attention over all spatio-temporal tokens.

    Paper: ViViT §3.2 (embedding), §3.3 Model 1.

    Args:
        num_classes: Classes K of the head, 1 or more.
        attention: ``spatio_temporal``, Model 1.
        pooling: ``cls`` reads the class token, ``mean`` averages all tokens (then there is no
            class token).
        image_size: Native side in pixels, or (height, width); a multiple of the tubelet's.
        num_frames: Native frames per clip; a multiple of the tubelet's.
        tubelet_size: Frames and pixels (t, h, w) that one token covers.
        num_channels: Channels C of a frame.
        hidden_size: Width D of a token; a multiple of ``num_heads``.
        num_layers: Transformer blocks.
        num_heads: Attention heads A of a block.
        mlp_size: Width M inside a block's MLP.
        activation: ``gelu``, ``gelu_fast``, ``gelu_new``, ``relu`` or ``selu``.
        dropout: Probability after the positions, the attention's projection and both MLP layers.
        attention_dropout: Probability on attention weights.
        drop_path: Probability of dropping a residual branch of the last block; rises linearly
            from 0 at the first (stochastic depth, paper §4.2).
        drop_path_rescale: Divide kept branches by 1 - p, as timm does; the original does not.
        initializer_range: ``None`` initialises as the original does; a number is the standard
            deviation of Hugging Face's truncated normal for every weight matrix.
        layer_norm_eps: LayerNorm's epsilon.
        qkv_bias: Whether queries, keys and values have a bias.
        representation_size: Width of a tanh layer before the head; ``None``: no such layer.
        sampled_frames: Uniform frame sampling (paper §3.2): embed only this many of the clip's
            frames, evenly spaced, each as an image. Needs a tubelet of one frame. ``None``: off.
        attention_implementation: ``sdpa`` (fused kernels) or ``eager`` (the explicit formula).

    Raises:
        UserError: If a value is outside what is said above.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        attention: str = "spatio_temporal",
        pooling: str = "cls",
        image_size: int | Sequence[int] = 224,
        num_frames: int = 32,
        tubelet_size: Sequence[int] = (2, 16, 16),
        num_channels: int = 3,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_size: int = 3072,
        activation: str = "gelu_fast",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        drop_path_rescale: bool = False,
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
        _require_choice("attention", attention, ATTENTIONS)
        _require_choice("pooling", pooling, POOLINGS)
        _require_choice("activation", activation, tuple(ACTIVATIONS))
        for name in ("num_classes", "num_layers", "num_heads", "hidden_size", "mlp_size"):
            _require(config[name] >= 1, f"model.{name} must be 1 or more, got {config[name]}")
        for name in ("dropout", "attention_dropout", "drop_path"):
            value = config[name]
            _require(0 <= value < 1, f"model.{name} is a probability in [0, 1), got {value}")

        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        config["tubelet_size"] = list(tubelet_size)
        config["image_size"] = height if height == width else [height, width]
        self.config = config
        self.num_classes = num_classes
        self.pooling = pooling
        self.num_prefix = 1 if pooling == "cls" else 0
        self.embed = TubeletEmbedding(num_channels, hidden_size, tubelet_size, sampled_frames)
        self.grid = self.embed.grid(num_frames, height, width)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size)) if self.num_prefix else None
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.num_prefix + math.prod(self.grid), hidden_size)
        )
        self.pos_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                Attention(
                    hidden_size, num_heads, qkv_bias, dropout, attention_dropout,
                    attention_implementation,
                ),
                Mlp(hidden_size, mlp_size, activation, dropout),
                DropPath(drop_path * layer / max(num_layers - 1, 1), drop_path_rescale),
                layer_norm_eps,
            )
            for layer in range(num_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
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
        x = x[:, 0] if self.pooling == "cls" else x.mean(dim=1)  # [B, D]
        if self.pre_logits is not None:
            x = torch.tanh(self.pre_logits(x))
        return self.head(x)

    def features(self, clips: Tensor) -> Tensor:
        """The bare features after the last LayerNorm, without the head.

        Args:
            clips: Float ``[B, C, T, H, W]``, as for ``forward``.

        Returns:
            Float ``[B, 1 + N, D]`` with the class token first, ``[B, N, D]`` without one; the
            other tokens in (t, h, w) order, w fastest.
        """
        x = self.embed(clips)  # [B, N, D]
        grid = self.embed.grid(*clips.shape[2:])
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # [B, 1 + N, D]
        x = x + interpolate_positions(self.pos_embed, self.grid, grid, self.num_prefix)
        x = self.pos_dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    @torch.no_grad()
    def reset_parameters(self, initializer_range: float | None = None) -> None:
        """Initialises every weight; the head is always zero, so a new model predicts evenly.

        ``None`` is the original's rule (Scenic): Xavier-uniform matrices, LeCun-normal tubelets,
        MLP biases N(0, 1e-6), positions N(0, 0.02), the class token zero.

        Args:
            initializer_range: Standard deviation of a truncated normal for all matrices and
                positions instead, with zero biases, as Hugging Face does.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if initializer_range is not None:
                    _truncated_normal(module.weight, initializer_range)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        std = 0.02 if initializer_range is None else initializer_range
        nn.init.normal_(self.pos_embed, std=std)
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)
        fan_in = self.embed.weight[0].numel()
        _truncated_normal(self.embed.weight, initializer_range or _lecun_std(fan_in))
        nn.init.zeros_(self.embed.bias)
        if initializer_range is None:
            for block in self.blocks:
                assert isinstance(block, Block)
                # Queries, keys and values are three matrices, each initialised on its own.
                for matrix in block.attn.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(matrix)
                nn.init.normal_(block.mlp.fc1.bias, std=1e-6)
                nn.init.normal_(block.mlp.fc2.bias, std=1e-6)
            if self.pre_logits is not None:
                _truncated_normal(self.pre_logits.weight, _lecun_std(self.pre_logits.in_features))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


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
        x = clips.reshape(len(clips), num_channels, t, pt, h, ph, w, pw)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, C, pt, ph, pw]
        x = x.reshape(len(clips), t * h * w, -1)  # [B, N, C*pt*ph*pw]
        return F.linear(x, self.weight.flatten(1), self.bias)


class Block(nn.Module):
    """A pre-norm Transformer block: attention, then an MLP, each on a residual branch.

    Paper: ViViT eq. 2-4.
    """

    def __init__(
        self, attn: "Attention", mlp: "Mlp", drop_path: "DropPath", layer_norm_eps: float
    ) -> None:
        super().__init__()
        hidden_size = attn.proj.out_features
        self.norm1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` -> ``[B, N, D]``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one fused projection."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        qkv_bias: bool,
        dropout: float,
        attention_dropout: float,
        attention_implementation: str,
    ) -> None:
        super().__init__()
        _require(
            hidden_size % num_heads == 0,
            f"model.hidden_size={hidden_size} is not a multiple of model.num_heads={num_heads}",
        )
        _require_choice(
            "attention_implementation", attention_implementation, ATTENTION_IMPLEMENTATIONS
        )
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        is_eager = attention_implementation == "eager"
        self.attend = eager_attention if is_eager else F.scaled_dot_product_attention
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` -> ``[B, N, D]``."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, A, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x [B, A, N, d]
        x = self.attend(q, k, v, dropout_p=self.attention_dropout if self.training else 0.0)
        x = x.transpose(1, 2).flatten(2)  # [B, N, D]
        return self.dropout(self.proj(x))


def eager_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v with every intermediate in memory: the formula, to compare with.

    Args:
        q: Queries ``[B, A, N, d]``; keys ``k`` and values ``v`` likewise.
        k: Keys.
        v: Values.
        dropout_p: Probability of dropping an attention weight.

    Returns:
        ``[B, A, N, d]``.
    """
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)  # [B, A, N, N]
    return F.dropout(weights, dropout_p) @ v


class Mlp(nn.Module):
    """Two linear layers around an activation, dropout after each."""

    def __init__(self, hidden_size: int, mlp_size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(mlp_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` -> ``[B, N, D]``."""
        x = self.dropout(self.act(self.fc1(x)))  # [B, N, M]
        return self.dropout(self.fc2(x))


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole clips while training.

    Args:
        p: Probability of dropping the branch.
        rescale: Divide what is kept by 1 - p, as timm does; the original (Scenic) does not.
    """

    def __init__(self, p: float, rescale: bool) -> None:
        super().__init__()
        self.p = p
        self.rescale = rescale

    def forward(self, branch: Tensor) -> Tensor:
        """``[B, N, D]`` -> ``[B, N, D]`` with dropped clips zero."""
        if not self.training or self.p == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.p
        return branch * kept / (1 - self.p) if self.rescale else branch * kept


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
    positions = torch.arange(step, num_frames, step, dtype=torch.float32)
    return positions.round().clamp(max=num_frames - 1).long().tolist()


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
