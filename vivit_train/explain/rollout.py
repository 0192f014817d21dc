"""How much each token of a clip came into the model's answer, by its attention.

Two rules, both from the last layer down to the tokens, with the mean over a layer's heads:

- Attention rollout (arXiv 2005.00928): each layer is ½ A + ½ I, for its residual connection. It is
  the same for all classes.
- For one class (arXiv 2103.15679, its rule for self-attention): each layer is I + (∇A ⊙ A)⁺, where
  ∇A is the gradient of the class's logit by the attention weights and ⁺ keeps what is positive.
  The identity, the same for every class, is taken off at the end.

Model 2 has the spatial encoder's tokens in each frame, times the temporal encoder's frames. The
attention over time and that over space are two layers of a block in Model 3, and heads of one
layer in Model 4. MLPs and norms count as the identity, in both rules.

Shapes as in `model.vivit`, of a single clip: R rows of N tokens that attend to each other, Q of
which the layer computes; A heads of d.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.encoder import (
    Block,
    Encoder,
    FactorisedBlock,
    FactorisedDotProductAttention,
)
from vivit_train.model.layers import Attention
from vivit_train.model.vivit import ViViT


class Heads(NamedTuple):
    """Heads of a layer that attend along one axis.

    Attributes:
        q: Queries ``[R, A, Q, d]``.
        k: Keys ``[R, A, N, d]``.
        v: Values ``[R, A, N, d]``.
        out: What the heads gave in the model, attention @ v: ``[R, A, Q, d]``.
        gradient: Of a logit by ``out``; ``None`` where no class was asked for.
        over_time: Whether N are the frames of one place; R are then the places of a frame.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    gradient: Tensor | None
    over_time: bool

    def attention(self, head: int) -> Tensor:
        """softmax(q kᵀ / √d) of a head: ``[R, Q, N]``, rows that sum to one."""
        q, k = self.q[:, head], self.k[:, head]
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def weights(self, head: int) -> Tensor:
        """What counts of a head: its attention, or for a class (∇A ⊙ A)⁺: ``[R, Q, N]``."""
        if self.gradient is None:
            return self.attention(head)
        # As out = A v, the gradient by A is that by out, times vᵀ.
        gradient = self.gradient[:, head] @ self.v[:, head].transpose(-2, -1)
        return (gradient * self.attention(head)).clamp(min=0)


Layer = list[Heads]


class Seen(NamedTuple):
    """What a forward pass leaves.

    Attributes:
        logits: Float ``[K]``.
        grid: Tokens along (t, h, w).
        layers: Of each encoder, from the first to the last.
    """

    logits: Tensor
    grid: tuple[int, int, int]
    layers: list[list[Layer]]


def heat_of(model: ViViT, clip: Tensor, class_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits of a clip, and how much each of its tokens came into them.

    Pooling by ``max`` is taken for a mean: all tokens are read alike.

    Args:
        model: In evaluation mode; it is left as it is.
        clip: Float ``[1, C, T, H, W]``, as for the model.
        class_index: The logit that is explained; ``None``: attention rollout, of no class.

    Returns:
        Logits, float ``[K]``, and the heat, float ``[t, h, w]``, 0 or more, with a sum of one.

    Raises:
        UserError: If no attention raises the class's logit, or the heat is not finite.
    """
    seen = look(model, clip, class_index)
    heat = roll_out(model, seen)
    total = heat.sum()
    if not total.isfinite():
        raise UserError("the attention is NaN or infinite: it does not show where the model looked")
    if total <= 0:
        raise UserError(
            "no attention raises the logit of this class in this clip, so there is nothing to "
            "show: leave out --class, or choose another class"
        )
    return seen.logits, heat / total


def look(model: ViViT, clip: Tensor, class_index: int | None = None) -> Seen:
    """Runs the model on one clip ``[1, C, T, H, W]`` and keeps what its attention did."""
    assert not model.training
    with recorded(model) as record, torch.set_grad_enabled(class_index is not None):
        # Also of a model whose weights are frozen there are gradients then.
        logits = model(clip.detach().requires_grad_(class_index is not None))[0]
    gradients: dict[nn.Module, Tensor] = {}
    if class_index is not None:
        outs = [out for _, out in record.values()]
        found = torch.autograd.grad(logits[class_index], outs)
        gradients = dict(zip(record, found))
    layers = [
        [
            heads_of(attn, *record[attn], gradients.get(attn), over_time)
            for attn, over_time in attentions(encoder)
        ]
        for encoder in model.encoders
    ]
    t, h, w = model.embed.grid(*clip.shape[2:])
    return Seen(logits.detach().float(), (t, h, w), layers)


@contextmanager
def recorded(model: ViViT) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Within, a forward pass leaves of each attention its projected qkv, and its heads' output.

    Yields:
        Attention -> ``[..., N, 3 D]`` and ``[..., Q, D]``. Hooks read them: the model computes the
        same, by whatever kernel it has.
    """
    qkvs: dict[nn.Module, Tensor] = {}
    record: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    handles = []
    for encoder in model.encoders:
        for attn, _ in attentions(encoder):

            def keep_qkv(_: nn.Module, __: object, qkv: Tensor, attn: Attention = attn) -> None:
                qkvs[attn] = qkv

            def keep_out(_: nn.Module, out: tuple[Tensor], attn: Attention = attn) -> None:
                record[attn] = (qkvs[attn], out[0])

            handles.append(attn.qkv.register_forward_hook(keep_qkv))
            handles.append(attn.proj.register_forward_pre_hook(keep_out))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def attentions(encoder: Encoder) -> Iterator[tuple[Attention, bool]]:
    """The attentions of an encoder in their order, and whether each is over time alone."""
    for block in encoder.blocks:
        if isinstance(block, FactorisedBlock):
            for axis in block.attention_order.split("_"):
                over_time = axis == "time"
                yield (block.temporal_attn if over_time else block.attn), over_time
        else:
            assert isinstance(block, Block)
            yield block.attn, False


def heads_of(
    attn: Attention, qkv: Tensor, out: Tensor, gradient: Tensor | None, over_time: bool
) -> Layer:
    """An attention's heads, by the axis that they attend along.

    Args:
        attn: The attention.
        qkv: Its projection, ``[..., N, 3 D]``.
        out: Its heads' output, ``[..., Q, D]``.
        gradient: Of a logit by ``out``.
        over_time: Whether ``attn`` is over time alone.
    """
    parts = [out] if gradient is None else [out, gradient]
    split = [
        x.detach().float().unflatten(-1, (-1, attn.num_heads, x.shape[-1] // attn.num_heads))
        for x in parts
    ]  # [..., Q, 1, A, d]
    split = [qkv.detach().float().unflatten(-1, (3, attn.num_heads, -1)), *split]
    if not isinstance(attn, FactorisedDotProductAttention):
        # [..., N, c, A, d] -> c x [R, A, N, d]
        rows = [x.flatten(0, -5).permute(2, 0, 3, 1, 4) for x in split]
        return [_heads(rows, over_time)]
    time, space = zip(*(x.chunk(2, dim=-2) for x in split))  # each [1, t, s, c, A/2, d]
    return [
        _heads([x[0].permute(2, 1, 3, 0, 4) for x in time], over_time=True),  # [c, s, A/2, t, d]
        _heads([x[0].permute(2, 0, 3, 1, 4) for x in space], over_time=False),  # [c, t, A/2, s, d]
    ]


def _heads(rows: Sequence[Tensor], over_time: bool) -> Heads:
    """From qkv ``[3, R, A, N, d]``, out ``[1, R, A, Q, d]`` and, for a class, its gradient."""
    (q, k, v), (out,) = rows[:2]
    gradient = rows[2][0] if len(rows) == 3 else None
    return Heads(q[:, :, : out.shape[2]], k, v, out, gradient, over_time)


def roll_out(model: ViViT, seen: Seen) -> Tensor:
    """The tokens' shares, ``[t, h, w]``; class tokens, which are of no place, are left out."""
    t, h, w = seen.grid
    if model.attention == "spatio_temporal":
        return _of_encoder(model, seen, 0, 1, t * h * w).view(t, h, w)
    places = _of_encoder(model, seen, 0, t, h * w)  # [t, s]
    if model.attention == "factorised_encoder":
        # Where is told within a frame, when by the temporal encoder.
        totals = places.sum(dim=1, keepdim=True)
        places = torch.where(totals > 0, places / totals, 0.0)
        if model.temporal_encoder is not None:
            places = places * _of_encoder(model, seen, 1, 1, t).T
    return places.reshape(t, h, w)


def _of_encoder(model: ViViT, seen: Seen, number: int, rows: int, num_tokens: int) -> Tensor:
    """Shares of an encoder's tokens, as its pooling reads each row of them: ``[rows, N]``."""
    num_prefix = model.encoder.num_prefix
    num_read = model.num_queries or num_prefix + num_tokens
    read = seen.logits.new_full((rows, num_read), 1 / num_read)
    return roll_down(read, seen.layers[number])[:, num_prefix:]


def roll_down(read: Tensor, layers: Sequence[Layer]) -> Tensor:
    """What the tokens before the first layer have in those after the last.

    Args:
        read: Shares of the last layer's tokens, ``[R, Q]``; for layers over time and over space
            R are frames and N places.
        layers: From the first to the last.

    Returns:
        ``[R, N]``. In attention rollout each row sums to what it did, or, with layers over time,
        all of them together; for a class it is what the attention adds.
    """
    start = shares = read
    of_class = layers[0][0].gradient is not None
    for layer in reversed(layers):
        # One head at a time: N² numbers in memory, not A N².
        through = [
            _through(shares, heads, head) for heads in layer for head in range(heads.q.shape[1])
        ]
        attended = torch.stack(through).mean(dim=0)  # [R, N]
        # A last layer computes the first tokens alone: the others have no residual connection.
        missing = attended.shape[-1] - shares.shape[-1]
        shares, start = F.pad(shares, (0, missing)), F.pad(start, (0, missing))
        shares = shares + attended if of_class else (shares + attended) / 2
    return shares - start if of_class else shares


def _through(shares: Tensor, heads: Heads, head: int) -> Tensor:
    """Shares of the tokens that a head computes -> of those that it reads: ``[R, N]``."""
    rows = shares.T if heads.over_time else shares  # [R, Q] of these heads
    read = (rows.unsqueeze(1) @ heads.weights(head)).squeeze(1)  # [R, N]
    return read.T if heads.over_time else read
