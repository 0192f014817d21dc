"""The Transformer encoder and the blocks of the paper's four models. Shapes: see `vivit.py`."""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit_train.model.arguments import Arguments
from vivit_train.model.layers import Attention, DropPath, Mlp, TokenDrop
from vivit_train.model.pos_embed import Grid, interpolate_positions


class Encoder(nn.Module):
    """A class token and positions on a token grid, Transformer blocks, a last LayerNorm.

    Args:
        grid: Native tokens along (t, h, w).
        has_cls: Whether a class token goes before the others.
        blocks: The Transformer blocks.
        arguments: ViViT's.
        token_drop: Share of the tokens that a training step leaves out, in [0, 1).

    Attributes:
        activation_checkpointing: Whether a training step keeps only the blocks' inputs and
            computes the rest once more for the gradients. Same numbers, less memory, more time.
    """

    def __init__(
        self,
        grid: Grid,
        has_cls: bool,
        blocks: "list[Block]",
        arguments: Arguments,
        token_drop: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_size = arguments.hidden_size
        self.grid = grid
        self.num_prefix = int(has_cls)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size)) if has_cls else None
        rows = self.num_prefix + math.prod(grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, hidden_size))
        self.token_drop = TokenDrop(token_drop, self.num_prefix)
        self.pos_dropout = nn.Dropout(arguments.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_size, eps=arguments.layer_norm_eps)
        self.activation_checkpointing = False

    def forward(self, x: Tensor, grid: Grid, num_queries: int | None = None) -> Tensor:
        """Encodes tokens.

        Args:
            x: ``[B, N, D]`` for N = t*h*w; ``[B, t, s, D]`` if the blocks separate time and space,
                    or if each frame is encoded by itself (then the grid is (1, h, w)).
            grid: Tokens along (t, h, w); positions are interpolated if it is not the native one.
            num_queries: How many of the first tokens are wanted, the class token among them: the
                last block computes no others. ``None``: all. Not for blocks of Models 3 and 4.

        Returns:
            As ``x``, with the class token, if any, before the other tokens; in training without
            the tokens that ``token_drop`` left out.
        """
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(*x.shape[:-2], 1, -1), x], dim=-2)
        positions = interpolate_positions(self.pos_embed, self.grid, grid, self.num_prefix)
        # [1, N, D], or [t, s, D], where s = N for positions that all frames share.
        x = self.token_drop(x + positions.reshape(-1, *x.shape[-2:]))
        x = self.pos_dropout(x)
        recomputes = self.activation_checkpointing and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks, start=1):
            queries = num_queries if layer == len(self.blocks) else None
            if recomputes:
                # Replays the random state too, so that dropout and drop path draw the same again.
                x = checkpoint(block, x, queries, use_reentrant=False)
            else:
                x = block(x, queries)
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

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """``[B, ..., N, D]`` -> the same, or of the first ``num_queries`` tokens alone."""
        attended = self.attn(self.norm1(x), num_queries)
        x = x[..., :num_queries, :] + self.drop_path(attended)
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

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """``[B, t, s, D]`` -> the same."""
        assert num_queries is None, "a grid has no first tokens"
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

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """``[B, t, s, D]`` -> the same."""
        assert num_queries is None, "a grid has no first tokens"
        b, t, s, _ = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, t, s, 3, A, d]
        time, space = qkv.chunk(2, dim=-2)  # [B, t, s, 3, A/2, d] each
        time = time.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [3, B*s, A/2, t, d]
        space = space.permute(3, 0, 1, 4, 2, 5).flatten(1, 2)  # [3, B*t, A/2, s, d]
        over_time = self.attend(*time).unflatten(0, (b, s)).permute(0, 3, 1, 2, 4)
        over_space = self.attend(*space).unflatten(0, (b, t)).transpose(2, 3)
        out = torch.cat([over_time, over_space], dim=-2)  # [B, t, s, A, d]
        return self.dropout(self.proj(out.flatten(-2)))


def build_blocks(
    args: Arguments,
    num_layers: int,
    num_heads: int,
    mlp_size: int,
    by_frame: bool = False,
) -> list[Block]:
    """The blocks of an encoder, with drop path rising from block to block.

    Args:
        args: Of the model; those that follow are this encoder's own.
        num_layers: How many.
        num_heads: Attention heads A of each.
        mlp_size: Width M inside each MLP.
        by_frame: Whether they encode each frame by itself.
    """
    attention, eps = args.attention, args.layer_norm_eps
    is_timm = args.drop_path_style == "timm"
    dot_product = attention == "factorised_dot_product"
    attention_class = FactorisedDotProductAttention if dot_product else Attention

    def attend() -> Attention:
        return attention_class(
            args.hidden_size,
            num_heads,
            args.qkv_bias,
            args.dropout,
            args.attention_dropout,
            args.attention_implementation,
        )

    if args.drop_path and not is_timm and attention == "factorised_self_attention":
        warnings.warn(
            f"model.drop_path={args.drop_path} has no effect: Scenic ignores it in "
            "factorised_self_attention; model.drop_path_style=timm applies it",
            stacklevel=3,
        )
    blocks: list[Block] = []
    for layer in range(num_layers):
        mlp = Mlp(args.hidden_size, mlp_size, args.activation, args.dropout)
        p = args.drop_path * layer / max(num_layers - 1, 1)
        if attention == "factorised_self_attention":
            drop_path = DropPath(p if is_timm else 0.0, is_timm)
            order = args.attention_order
            assert order is not None
            blocks.append(FactorisedBlock(attend(), attend(), mlp, drop_path, eps, order))
        else:
            drop_path = DropPath(p, is_timm, per_frame=by_frame and is_timm)
            blocks.append(Block(attend(), mlp, drop_path, eps))
    return blocks
