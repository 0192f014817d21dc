"""ViViT: A Video Vision Transformer (arXiv 2103.15691), the paper's four models.

Shapes: B clips of C channels, T frames, H x W pixels; a grid of t x h x w tokens, s = h*w of them
per frame, N = t*s; D hidden_size, A heads of d = D / A, M mlp_size, K classes. Every 3-tuple is
(t, h, w). Numerics follow Scenic (JAX): tanh GELU, LayerNorm eps 1e-6, pre-norm.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from vivit_train.model.arguments import Arguments
from vivit_train.model.embedding import TubeletEmbedding
from vivit_train.model.encoder import Encoder, build_blocks
from vivit_train.model.layers import Attention, Mlp


class ViViT(nn.Module):
    """The video model: tubelets to tokens, a Transformer over space and time, a linear head.

    Paper: ViViT §3.2 (embedding), §3.3 (the four models).

    Args:
        **arguments: By name, what `Arguments` says.

    Attributes:
        arguments: The same, with what each ``None`` stands for.
        num_queries: How many of the first tokens the pooling reads, and the last blocks therefore
            compute; ``None``: all.

    Raises:
        UserError: If `Arguments` refuses a value, or a clip cannot be cut into tubelets.
    """

    __signature__ = inspect.signature(Arguments)  # for help() and editors

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = args = Arguments(**arguments)
        self.num_classes = args.num_classes
        self.attention = args.attention
        self.pooling = args.pooling
        self.num_queries = 1 if args.pooling in ("cls", "first") else None
        sizes = (args.num_channels, args.hidden_size, args.tubelet_size)
        self.embed = TubeletEmbedding(*sizes, args.sampled_frames)
        self.grid = self.embed.grid(args.num_frames, *args.frame_size)

        has_cls = args.pooling == "cls"
        by_frame = args.attention == "factorised_encoder"
        t, h, w = self.grid
        blocks = build_blocks(args, args.num_layers, args.num_heads, args.mlp_size, by_frame)
        self.encoder = Encoder((1 if by_frame else t, h, w), has_cls, blocks, args, args.token_drop)
        self.temporal_encoder: Encoder | None = None
        if args.temporal_layers:
            heads, mlp_size = args.temporal_heads, args.temporal_mlp_size
            assert heads is not None
            assert mlp_size is not None
            blocks = build_blocks(args, args.temporal_layers, heads, mlp_size)
            self.temporal_encoder = Encoder((t, 1, 1), has_cls, blocks, args)
        width = args.representation_size or args.hidden_size
        self.pre_logits = nn.Linear(args.hidden_size, width) if args.representation_size else None
        self.head = nn.Linear(width, args.num_classes)
        self.reset_parameters(args.initializer_range)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments as plain values: ``ViViT(**model.config)`` is the same model, untrained."""
        return self.arguments.to_dict()

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
        return self.head(self.representation(clips))

    def representation(self, clips: Tensor) -> Tensor:
        """What the head reads: the class token or the pooled tokens after the last LayerNorm.

        Args:
            clips: Float ``[B, C, T, H, W]``, as for ``forward``.

        Returns:
            Float ``[B, D]``; of Model 2 without a temporal encoder the mean over the frames'. Where
            the model has a layer before its head (``pre_logits``), what comes out of it.
        """
        x = self._encode(clips, self.num_queries)
        averages_frames = self.attention == "factorised_encoder" and self.temporal_encoder is None
        x = x.mean(dim=1) if averages_frames else pool(x, self.pooling)  # [B, D]
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

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

        In place, so the names of the weights stay as they are. Blocks of one kind share their
        compiled code, so a model of 24 blocks takes as long to compile as one of 2. A last block
        that computes only the class token has shapes of its own, which would be compiled for it
        alone. It does little work, so it is not compiled.
        """
        for encoder in self.encoders:
            num_blocks = len(encoder.blocks) - (self.num_queries is not None)
            for block in encoder.blocks[:num_blocks]:
                block.compile()

    @torch.no_grad()
    def reset_parameters(self, initializer_range: float | None = None) -> None:
        """Initialises every weight; the head is always zero, so a new model predicts evenly.

        ``None`` is Scenic's rule: Xavier-uniform matrices, LeCun-normal tubelets, MLP biases
        N(0, 1e-6), positions N(0, 0.02), class tokens zero.

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
    """Tokens to one representation: ``[..., N, D]`` -> ``[..., D]``, as `Arguments` says."""
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
