"""ViViT: A Video Vision Transformer (arXiv 2103.15691), the paper's four models.

Shapes: B clips of C channels, T frames, H x W pixels; a grid of t x h x w tokens, s = h*w of them
per frame, N = t*s; D hidden_size, A heads of d = D / A, M mlp_size, K classes. Every 3-tuple is
(t, h, w). Numerics follow the original (Scenic, JAX): tanh GELU, LayerNorm eps 1e-6, pre-norm.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vivit_train.model.arguments import check_ranges, check_types, settled
from vivit_train.model.embedding import TubeletEmbedding
from vivit_train.model.encoder import Encoder, build_blocks
from vivit_train.model.layers import Attention, Mlp


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
        token_drop: Share of the tubelets that a training step leaves out, at random, after the
            positions are added (PatchDropout): in Model 1 of the clip, in Model 2 of each frame.
            Models 3 and 4, whose blocks need the whole grid, have none, nor have the poolings
            ``sum`` and ``first``.
        initializer_range: ``None`` initialises as the original does; a number is the standard
            deviation of Hugging Face's truncated normal for every weight matrix.
        layer_norm_eps: LayerNorm's epsilon.
        qkv_bias: Whether queries, keys and values have a bias.
        representation_size: Width of a tanh layer before the head; ``None``: no such layer.
        sampled_frames: Uniform frame sampling (paper §3.2): embed only this many of the clip's
            frames, evenly spaced, each as an image. Needs a tubelet of one frame. ``None``: off.
        attention_implementation: ``sdpa`` (fused kernels) or ``eager`` (the explicit formula).

    Attributes:
        num_queries: How many of the first tokens the pooling reads, and the last blocks therefore
            compute; ``None``: all.

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
        token_drop: float = 0.0,
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
        check_types(config, ViViT.__init__.__annotations__)
        check_ranges(config)
        config = settled(config)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        config["tubelet_size"] = list(tubelet_size)
        config["image_size"] = height if height == width else [height, width]
        self.config = config
        self.num_classes = num_classes
        self.attention = attention
        self.pooling = pooling
        self.num_queries = 1 if pooling in ("cls", "first") else None
        self.embed = TubeletEmbedding(num_channels, hidden_size, tubelet_size, sampled_frames)
        self.grid = self.embed.grid(num_frames, height, width)

        has_cls = pooling == "cls"
        t, h, w = self.grid
        grid = (1, h, w) if attention == "factorised_encoder" else self.grid
        per_frame = attention == "factorised_encoder" and drop_path_style == "timm"
        blocks = build_blocks(config, num_layers, num_heads, mlp_size, per_frame)
        self.encoder = Encoder(grid, has_cls, blocks, config, token_drop)
        self.temporal_encoder: Encoder | None = None
        if config["temporal_layers"]:
            temporal = [config[f"temporal_{size}"] for size in ("layers", "heads", "mlp_size")]
            blocks = build_blocks(config, *temporal)
            self.temporal_encoder = Encoder((t, 1, 1), has_cls, blocks, config)
        width = representation_size or hidden_size
        self.pre_logits = nn.Linear(hidden_size, width) if representation_size else None
        self.head = nn.Linear(width, num_classes)
        self.reset_parameters(initializer_range)

    @property
    def encoders(self) -> list[Encoder]:
        """The encoder, and Model 2's temporal one after it."""
        return [e for e in (self.encoder, self.temporal_encoder) if e is not None]

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
        x = self._encode(clips, self.num_queries)
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
            In training Model 1 lacks the tokens that ``token_drop`` left out.
        """
        return self._encode(clips, num_queries=None)

    def _encode(self, clips: Tensor, num_queries: int | None) -> Tensor:
        """The features, or the first ``num_queries`` of them: ``[B, num_queries, D]``."""
        x = self.embed(clips)  # [B, N, D]
        t, h, w = grid = self.embed.grid(*clips.shape[2:])
        if self.attention == "spatio_temporal":
            return self.encoder(x, grid, num_queries)
        x = x.unflatten(1, (t, h * w))  # [B, t, s, D]
        if self.attention != "factorised_encoder":
            return self.encoder(x, grid).flatten(1, 2)  # [B, N, D]
        x = pool(self.encoder(x, (1, h, w), self.num_queries), self.pooling)  # [B, t, D]
        if self.temporal_encoder is None:
            return x
        return self.temporal_encoder(x, (t, 1, 1), num_queries)

    def compile_blocks(self) -> None:
        """Compiles the model block by block, at the first batch.

        In place, which leaves the names of the weights as they are; and not as a whole, because
        blocks of one kind share their code: a model of 24 takes as long to compile as one of 2.
        A last block that makes one token alone is none of that kind, and little work: it is left.
        """
        for encoder in self.encoders:
            num_blocks = len(encoder.blocks) - (self.num_queries is not None)
            for block in encoder.blocks[:num_blocks]:
                block.compile()

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


def _lecun_std(fan_in: int) -> float:
    # 0.8796 is the standard deviation of a unit normal truncated at two.
    return math.sqrt(1 / fan_in) / 0.87962566103423978


def _truncated_normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
