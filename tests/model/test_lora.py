from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.lora import MATRICES, LoraLinear, add_lora, merged
from vivit_train.model.vivit import ViViT

CLIPS = (2, 3, 4, 16, 16)


def small(attention: str = "spatio_temporal", **others: Any) -> ViViT:
    has_cls = attention in ("spatio_temporal", "factorised_encoder")
    return ViViT(
        num_classes=3, attention=attention, pooling="cls" if has_cls else "mean", image_size=16,
        num_frames=4, tubelet_size=(2, 8, 8), hidden_size=16, num_layers=2, num_heads=2,
        mlp_size=32, **others,
    )  # fmt: skip


def is_lora(name: str) -> bool:
    return name.endswith(MATRICES)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_new_one_changes_no_bit_and_no_name(
    attention: str, randomise: Callable[..., ViViT]
) -> None:
    model, clips = randomise(small(attention)), torch.randn(CLIPS)
    names, logits = list(model.state_dict()), model(clips)
    add_lora(model, rank=2)
    assert [name for name in model.state_dict() if not is_lora(name)] == names
    assert torch.equal(model(clips), logits)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    kinds = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")
    layers = {name for name in names if name.endswith(kinds)}
    matrices = {layer.replace("weight", name) for layer in layers for name in MATRICES}
    assert trained == {"head.weight", "head.bias"} | matrices


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_merged_it_computes_the_same(attention: str, randomise: Callable[..., ViViT]) -> None:
    model, clips = small(attention), torch.randn(CLIPS)
    add_lora(model, rank=3)
    randomise(model)
    plain = small(attention).eval()
    plain.load_state_dict(merged(model.state_dict(), "x"))
    logits = model(clips)
    torch.testing.assert_close(plain(clips), logits, rtol=1e-5, atol=1e-5)
    without = {name: t for name, t in model.state_dict().items() if not is_lora(name)}
    plain.load_state_dict(without)
    assert (plain(clips) - logits).abs().max() > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_sum_of_two(bias: bool) -> None:
    """Beside torch's own layers, one after the other."""
    base = nn.Linear(6, 4, bias=bias)
    layer = LoraLinear(base, rank=2)
    nn.init.normal_(layer.lora_b)
    down, up = nn.Linear(6, 2, bias=False), nn.Linear(2, 4, bias=False)
    down.weight, up.weight = layer.lora_a, layer.lora_b
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), base(x) + up(down(x)))


def test_the_start_is_that_of_torchs_layers() -> None:
    """As in the authors' code: A like a new layer's weight, B zero."""
    a = LoraLinear(nn.Linear(64, 8), rank=512).lora_a
    theirs = nn.Linear(64, 512).weight
    assert a.abs().max() <= 1 / 8
    assert a.std().item() == pytest.approx(theirs.std().item(), rel=0.02)


def test_gradients_reach_all_that_trains_and_nothing_else() -> None:
    model = small(drop_path=0.2, dropout=0.1)
    nn.init.normal_(model.head.weight)
    add_lora(model, rank=2)
    for encoder in model.encoders:
        encoder.activation_checkpointing = True
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter)
    model(torch.randn(CLIPS)).square().sum().backward()
    for name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.any())
        assert has_gradient == (is_lora(name) or name.startswith("head.")), name


def test_merging_keeps_types_and_leaves_others_alone() -> None:
    state = {
        "fc1.weight": torch.ones(4, 3, dtype=torch.bfloat16), "fc1.bias": torch.ones(4),
        "fc1.lora_a": torch.full((2, 3), 2.0), "fc1.lora_b": torch.full((4, 2), 3.0),
    }  # fmt: skip
    result = merged(state, "x")
    assert list(result) == ["fc1.weight", "fc1.bias"]
    assert torch.equal(result["fc1.weight"], torch.full((4, 3), 13.0, dtype=torch.bfloat16))
    assert result["fc1.bias"] is state["fc1.bias"]
    assert (state["fc1.weight"] == 1).all()


@pytest.mark.parametrize(
    ("changed", "shapes"),
    [
        ({"fc1.lora_b": None}, r"\[4, 3\], \[2, 3\], none"),
        ({"fc1.weight": None}, r"none, \[2, 3\], \[4, 2\]"),
        ({"fc1.lora_a": torch.ones(2, 5)}, r"\[4, 3\], \[2, 5\], \[4, 2\]"),
        ({"fc1.lora_b": torch.ones(4, 1)}, r"\[4, 3\], \[2, 3\], \[4, 1\]"),
        ({"fc1.lora_a": torch.ones(2)}, r"\[4, 3\], \[2\], \[4, 2\]"),
        ({"fc1.lora_a": torch.ones(2, 3, dtype=torch.int64)}, r"\[4, 3\], \[2, 3\], \[4, 2\]"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Tensor | None], shapes: str) -> None:
    state: dict[str, Any] = {
        "fc1.weight": torch.ones(4, 3), "fc1.lora_a": torch.ones(2, 3),
        "fc1.lora_b": torch.ones(4, 2),
    }  # fmt: skip
    state = {name: t for name, t in (state | changed).items() if t is not None}
    with pytest.raises(UserError, match=rf"^run/x\.ckpt: fc1\.weight, lora_a .* shapes {shapes},"):
        merged(state, "run/x.ckpt")
