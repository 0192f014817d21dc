"""A Transformer's standard layers: attention, MLP, stochastic depth.

Shapes: D hidden_size, A heads of d = D / A, M mlp_size, N tokens that attend to each other, R rows
of them.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Hugging Face's names. Its last three of GELU are all the tanh form, which Scenic uses.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: nn.GELU(),
    "gelu_fast": lambda: nn.GELU(approximate="tanh"),
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": lambda: nn.ReLU(),
    "selu": lambda: nn.SELU(),
}


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
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        is_eager = attention_implementation == "eager"
        self.kernel = eager_attention if is_eager else F.scaled_dot_product_attention
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """``[..., N, D]`` -> the same; all but the last two dimensions are a batch.

        With ``num_queries`` only so many of the first tokens attend, to all N, and are returned.
        """
        # Folded into one batch dimension, which the fused kernels ask for.
        qkv = self.qkv(x.flatten(0, -3)).unflatten(-1, (3, self.num_heads, -1))  # [R, N, 3, A, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x [R, A, N, d]
        out = self.attend(q[:, :, :num_queries], k, v).transpose(1, 2)  # [R, queries, A, d]
        return self.dropout(self.proj(out.reshape(*x.shape[:-2], -1, x.shape[-1])))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values ``[R, A, N, d]`` -> ``[R, A, N, d]``."""
        return self.kernel(q, k, v, dropout_p=self.attention_dropout if self.training else 0.0)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v with every intermediate in memory: the formula, to compare with.

    Args:
        q: Queries ``[R, A, N, d]``; keys ``k`` and values ``v`` likewise.
        k: Keys.
        v: Values.
        dropout_p: Probability of dropping an attention weight.

    Returns:
        ``[R, A, N, d]``.
    """
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)  # [R, A, N, N]
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
        """``[..., D]`` -> the same."""
        x = self.dropout(self.act(self.fc1(x)))  # [..., M]
        return self.dropout(self.fc2(x))


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole clips, or frames, while training.

    Args:
        p: Probability of dropping the branch.
        rescale: Divide what is kept by 1 - p, as timm does; Scenic does not.
        per_frame: Draw for each frame of a ``[B, t, N, D]`` branch; else for each clip.
    """

    def __init__(self, p: float, rescale: bool, per_frame: bool = False) -> None:
        super().__init__()
        self.p = p
        self.rescale = rescale
        self.per_frame = per_frame

    def forward(self, branch: Tensor) -> Tensor:
        """``[B, ..., N, D]`` -> the same with dropped clips, or frames, zero."""
        if not self.training or self.p == 0:
            return branch
        drawn = branch.shape[: 2 if self.per_frame else 1]
        kept = self.draw(drawn, branch.device).view(*drawn, *[1] * (branch.ndim - len(drawn)))
        return branch * kept / (1 - self.p) if self.rescale else branch * kept

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Which to keep: bool of this shape, true with probability 1 - p."""
        return torch.rand(*shape, device=device) >= self.p


class TokenDrop(nn.Module):
    """Leaves out a random share of the tokens while training.

    Each clip, or frame, keeps a draw of its own, in order; the tokens carry their positions
    already, and nothing is rescaled. Training steps cost less, and attention cannot rely on any
    one token. PatchDropout (arXiv 2208.07220).

    Args:
        p: Share of the tokens to leave out, in [0, 1); at least one stays.
        num_prefix: Class tokens before the others, which always stay.
    """

    def __init__(self, p: float, num_prefix: int) -> None:
        super().__init__()
        self.p = p
        self.num_prefix = num_prefix

    def forward(self, x: Tensor) -> Tensor:
        """``[..., P + N, D]`` with P class tokens -> in training ``[..., P + (1 - p) N, D]``."""
        if not self.training or self.p == 0:
            return x
        prefix, tokens = x.split([self.num_prefix, x.shape[-2] - self.num_prefix], dim=-2)
        num_kept = max(1, round((1 - self.p) * tokens.shape[-2]))
        order = torch.rand(tokens.shape[:-1], device=x.device).argsort(dim=-1)
        kept = order[..., :num_kept].sort(dim=-1).values  # [..., kept]
        kept = kept.unsqueeze(-1).expand(*kept.shape, x.shape[-1])  # [..., kept, D]
        return torch.cat([prefix, tokens.gather(-2, kept)], dim=-2)
