"""Attention as the model computes it, and rolled out, in each of the four models."""

import math

import pytest
import torch
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.explain.rollout import Heads, attentions, heat_of, look, roll_down, roll_out
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.encoder import FactorisedDotProductAttention
from vivit_train.model.vivit import ViViT

GRID = (2, 3, 4)
KINDS = [
    *({"attention": name} for name in ATTENTIONS),
    {"attention": "spatio_temporal", "pooling": "mean"},
    {"attention": "factorised_encoder", "pooling": "max"},
    {"attention": "factorised_encoder", "temporal_layers": 0},
    {"attention": "factorised_self_attention", "attention_order": "space_time"},
    {"attention": "spatio_temporal", "attention_implementation": "eager"},
]


def build(**kind: object) -> ViViT:
    """A small model of random weights, its head and its class tokens included."""
    torch.manual_seed(0)
    if "factorised_self" in str(kind["attention"]) or "dot" in str(kind["attention"]):
        kind = {"pooling": "mean", **kind}
    model = ViViT(
        num_classes=3, image_size=(12, 16), num_frames=4, tubelet_size=(2, 4, 4), hidden_size=16,
        num_layers=2, num_heads=4, mlp_size=24, attention_dropout=0.5, dropout=0.5, **kind,
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def model(request: pytest.FixtureRequest) -> ViViT:
    return build(**request.param)


@pytest.fixture
def clip() -> Tensor:
    return torch.randn(1, 3, 4, 12, 16, generator=torch.Generator().manual_seed(1))


def inputs_and_outputs(model: ViViT, clip: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Each attention in its order, with what it was given and what it gave."""
    seen = []
    for encoder in model.encoders:
        for attn, _ in attentions(encoder):
            attn.register_forward_hook(lambda attn, x, y: seen.append((attn, x[0], y)))
    with torch.no_grad():
        model(clip)
    return seen


def by_hand(attn: nn.Module, x: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """A head's queries and keys of tokens ``[..., D]``: from its own rows of the three matrices."""
    d = x.shape[-1] // attn.num_heads
    own = slice(head * d, (head + 1) * d)
    (wq, wk, _), (bq, bk, _) = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
    return x @ wq[own].T + bq[own], x @ wk[own].T + bk[own]


def test_attention_is_that_of_the_layers_weights(model: ViViT, clip: Tensor) -> None:
    seen = look(model, clip)
    layers = [layer for encoder in seen.layers for layer in encoder]
    called = inputs_and_outputs(model, clip)
    assert len(layers) == len(called)
    for layer, (attn, x, _) in zip(layers, called):
        first = 0
        for heads in layer:
            is_dot = isinstance(attn, FactorisedDotProductAttention)
            # Here Model 4's tokens come as [1, t, s, D]; over time each place is a row.
            tokens = x.transpose(1, 2) if is_dot and heads.over_time else x
            for head in range(heads.q.shape[1]):
                q, k = by_hand(attn, tokens, first + head)
                scores = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
                expected = (scores.exp() / scores.exp().sum(-1, keepdim=True)).flatten(0, -3)
                found = heads.attention(head)
                torch.testing.assert_close(found, expected[:, : found.shape[1]])
            first += heads.q.shape[1]
        assert first == attn.num_heads


def test_the_models_own_output_is_attention_times_values(model: ViViT, clip: Tensor) -> None:
    """Computed by its fused kernel; so nothing else had a part in it."""
    for encoder in look(model, clip).layers:
        for heads in (heads for layer in encoder for heads in layer):
            for head in range(heads.q.shape[1]):
                made = heads.attention(head) @ heads.v[:, head]
                torch.testing.assert_close(made, heads.out[:, head], atol=2e-6, rtol=1e-4)


def test_the_model_is_left_as_it_was(model: ViViT, clip: Tensor) -> None:
    with torch.no_grad():
        before = model(clip)
    assert look(model, clip).logits.equal(before[0])
    torch.testing.assert_close(heat_of(model, clip, 1)[0], before[0])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rolled_out_rows_sum_to_one(model: ViViT, clip: Tensor) -> None:
    """Those of every token of the last layer, not only of the pooled ones."""
    for layers in look(model, clip).layers:
        if not layers:
            continue
        last = layers[-1][-1]
        shape = last.out.shape[0], last.out.shape[2]
        if any(heads.over_time for layer in layers for heads in layer):
            shape = GRID[0], math.prod(GRID[1:])
        for place in range(math.prod(shape)):
            one = torch.zeros(math.prod(shape))
            one[place] = 1
            rolled = roll_down(one.view(shape), layers)
            assert rolled.min() >= 0
            assert float(rolled.sum()) == pytest.approx(1, abs=1e-5)


def test_rollout_is_the_product_of_matrices(clip: Tensor) -> None:
    """Of Model 1, as the paper of attention rollout writes it."""
    model = build(attention="spatio_temporal", pooling="mean")
    product = torch.eye(24)
    for (heads,) in look(model, clip).layers[0]:
        mean = torch.stack([heads.attention(a)[0] for a in range(4)]).mean(0)
        product = (mean / 2 + torch.eye(24) / 2) @ product
    expected = product.mean(0).view(GRID)
    torch.testing.assert_close(heat_of(model, clip)[1], expected)


def test_factors_are_attention_over_all_tokens_with_zeros(clip: Tensor) -> None:
    """Models 3 and 4: a factor is a matrix over all tokens, zero off its own axis."""
    for name in ("factorised_self_attention", "factorised_dot_product"):
        model = build(attention=name)
        (layers,) = look(model, clip).layers
        t, s = GRID[0], GRID[1] * GRID[2]
        product = torch.eye(t * s)
        for layer in layers:
            whole = torch.zeros(t * s, t * s)
            for heads in layer:
                for head in range(heads.q.shape[1]):
                    attention = heads.attention(head)
                    for row, matrix in enumerate(attention):
                        own = torch.arange(t) * s + row if heads.over_time else torch.arange(s)
                        own = own if heads.over_time else own + row * s
                        whole[own[:, None], own] += matrix / 4
            torch.testing.assert_close(whole.sum(1), torch.ones(t * s))
            product = (whole / 2 + torch.eye(t * s) / 2) @ product
        torch.testing.assert_close(heat_of(model, clip)[1], product.mean(0).view(GRID))


def test_model_2_is_frames_times_places(clip: Tensor) -> None:
    model = build(attention="factorised_encoder")
    seen = look(model, clip)
    space = roll_down(torch.ones(2, 1), seen.layers[0])[:, 1:]
    time = roll_down(torch.ones(1, 1), seen.layers[1])[0, 1:]
    heat = heat_of(model, clip)[1]
    torch.testing.assert_close(heat.sum((1, 2)), time / time.sum())
    within = heat.flatten(1) / heat.flatten(1).sum(1, keepdim=True)
    torch.testing.assert_close(within, space / space.sum(1, keepdim=True))


@pytest.mark.parametrize("class_index", [None, 2])
def test_heat_is_a_share_of_one(model: ViViT, clip: Tensor, class_index: int | None) -> None:
    _, heat = heat_of(model, clip, class_index)
    assert heat.shape == GRID
    assert heat.min() >= 0
    assert float(heat.sum()) == pytest.approx(1, abs=1e-5)
    assert not heat.requires_grad


def test_even_attention_gives_even_heat(model: ViViT, clip: Tensor) -> None:
    """Without queries every key has the same weight."""
    for encoder in model.encoders:
        for attn, _ in attentions(encoder):
            attn.qkv.weight.data[:16] = 0
            attn.qkv.bias.data[:16] = 0
    torch.testing.assert_close(heat_of(model, clip)[1], torch.full(GRID, 1 / 24))


def planted(row: int, place: int, is_time: bool = False) -> Heads:
    """Heads that look at one token, whatever the query, in one row; evenly in the others."""
    k = torch.zeros(2, 1, 3, 1)
    k[row, 0, place] = 100
    ones = torch.ones(2, 1, 3, 1)
    return Heads(ones, k, ones, ones, None, is_time)


def test_a_planted_look() -> None:
    rolled = roll_down(torch.full((2, 3), 1 / 6), [[planted(1, 2)]])
    half, even = 1 / 4, 1 / 6  # the residual connection keeps half of the row's even share
    expected = [[even] * 3, [even / 2, even / 2, even / 2 + half]]
    torch.testing.assert_close(rolled, torch.tensor(expected))
    # Over time the same rows are places: [3 frames, 2 places].
    rolled = roll_down(torch.full((3, 2), 1 / 6), [[planted(1, 2, is_time=True)]])
    torch.testing.assert_close(rolled, torch.tensor(expected).T)


def test_class_weights_are_attention_times_its_positive_gradient(
    model: ViViT, clip: Tensor
) -> None:
    """The gradient by autograd, of attention weights that are in the graph."""
    found = look(model, clip, class_index=1)
    graph: dict[nn.Module, list[Tensor]] = {}
    for encoder in model.encoders:
        for attn, _ in attentions(encoder):

            def kernel(q, k, v, dropout_p, attn=attn):
                weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
                graph.setdefault(attn, []).append(weights)
                return weights @ v

            attn.kernel = kernel
    logit = model(clip)[0, 1]
    order = [attn for encoder in model.encoders for attn, _ in attentions(encoder)]
    layers = [layer for encoder in found.layers for layer in encoder]
    for attn, layer in zip(order, layers):
        gradients = torch.autograd.grad(logit, graph[attn], retain_graph=True)
        for heads, weights, gradient in zip(layer, graph[attn], gradients):
            expected = (weights * gradient).clamp(min=0)
            made = torch.stack([heads.weights(a) for a in range(heads.q.shape[1])], dim=1)
            torch.testing.assert_close(made, expected.detach(), atol=1e-6, rtol=1e-3)
            assert made.max() > 0


def test_class_rule_is_the_papers(clip: Tensor) -> None:
    """Of Model 1: R <- R + A R from the identity, and the class token's row of it."""
    model = build(attention="spatio_temporal")
    _, heat = heat_of(model, clip, 0)
    relevance = torch.eye(25)
    for (heads,) in look(model, clip, 0).layers[0]:
        mean = torch.zeros(25, 25)
        rows = torch.stack([heads.weights(a)[0] for a in range(4)]).mean(0)
        mean[: len(rows)] = rows  # the last block computes the class token alone
        relevance = relevance + mean @ relevance
    expected = relevance[0, 1:].view(GRID)
    torch.testing.assert_close(heat, expected / expected.sum())


def test_frozen_weights(clip: Tensor) -> None:
    model = build(attention="factorised_encoder")
    expected = heat_of(model, clip, 0)[1]
    model.requires_grad_(False)
    torch.testing.assert_close(heat_of(model, clip, 0)[1], expected)


def test_nothing_to_show(clip: Tensor) -> None:
    model = build(attention="spatio_temporal")
    nn.init.zeros_(model.head.weight)
    with pytest.raises(UserError, match="no attention raises the logit of this class"):
        heat_of(model, clip, 0)
    model.embed.weight.data[:] = torch.nan
    with pytest.raises(UserError, match="the attention is NaN or infinite"):
        heat_of(model, clip)


def test_roll_out_alone_needs_no_gradient(clip: Tensor) -> None:
    model = build(attention="factorised_dot_product")
    seen = look(model, clip)
    assert all(heads.gradient is None for layer in seen.layers[0] for heads in layer)
    assert roll_out(model, seen).shape == GRID
