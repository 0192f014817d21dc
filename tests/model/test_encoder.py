"""Training the encoder: tokens left out, activations computed twice."""

import pytest
import torch
from torch import Tensor

from tests.model.test_vivit import CLIPS, MODELS, TINY
from vivit_train.errors import UserError
from vivit_train.model.layers import TokenDrop
from vivit_train.model.vivit import ViViT


def run(model: ViViT, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a training step with all its random draws."""
    model.zero_grad()
    torch.manual_seed(3)
    loss = model.train()(clips).square().sum()
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
def test_activation_checkpointing_changes_memory_only(arguments: dict, randomise) -> None:
    drops = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.3, "drop_path_style": "timm"}
    model = randomise(ViViT(**TINY | drops | arguments))
    clips = torch.randn(CLIPS)

    def saved_bytes() -> int:
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(clips)
        return sum(saved.values())

    loss, gradients = run(model, clips)
    kept = saved_bytes()
    for encoder in model.encoders:
        encoder.activation_checkpointing = True
    again, recomputed = run(model, clips)
    torch.testing.assert_close(again, loss, rtol=0, atol=0)
    torch.testing.assert_close(recomputed, gradients, rtol=1e-6, atol=1e-6)
    assert saved_bytes() < kept / 2


@pytest.mark.parametrize("pooling", ["cls", "first"])
@pytest.mark.parametrize("temporal_layers", [None, 0, 2])
def test_what_the_head_does_not_read_changes_nothing(
    pooling: str, temporal_layers: int | None, randomise
) -> None:
    """Model 1 for ``None``, else Model 2: the last blocks compute one token, or all."""
    arguments = {"pooling": pooling, "drop_path": 0.3}
    if temporal_layers is not None:
        arguments |= {"attention": "factorised_encoder", "temporal_layers": temporal_layers}
    model = randomise(ViViT(**TINY | arguments)).double()
    sizes = []
    for encoder in model.encoders:
        encoder.blocks[-1].register_forward_hook(lambda *call: sizes.append(call[2].shape[-2]))
    clips = torch.randn(CLIPS, dtype=torch.float64)
    loss, gradients = run(model, clips)
    assert sizes == [1] * len(model.encoders)
    model.num_queries = None
    whole, expected = run(model, clips)
    assert min(sizes[len(model.encoders) :]) > 1
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)


def test_tokens_left_out_are_drawn_per_clip_and_keep_their_order() -> None:
    torch.manual_seed(0)
    drop = TokenDrop(0.4, num_prefix=1).train()
    x = torch.arange(11.0).view(1, 11, 1).expand(50, 11, 3)
    kept = drop(x)
    assert kept.shape == (50, 7, 3)
    assert torch.equal(kept[:, 0], x[:, 0])  # the class token
    places = kept[..., 0]
    assert (places.diff(dim=1) > 0).all()
    assert (places[0] != places[1:]).any(dim=1).sum() > 40
    counts = torch.bincount(places[:, 1:].flatten().long(), minlength=11)[1:]
    assert counts.min() > 15  # 30 expected
    assert TokenDrop(0.99, 0).train()(x).shape == (50, 1, 3)
    torch.manual_seed(0)
    assert torch.equal(drop(x), kept)
    assert drop.eval()(x) is x


def test_positions_are_added_before_tokens_are_left_out(randomise) -> None:
    model = randomise(ViViT(**TINY, token_drop=0.5))
    clips = torch.randn(CLIPS)
    encoder = model.encoder
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole = model.eval().features(clips)
    partial = model.train().features(clips)
    assert whole.shape == (2, 13, 16)
    assert partial.shape == (2, 7, 16)
    for all_tokens, some in zip(*seen):
        matches = (some[:, None] == all_tokens[None]).all(dim=-1)  # [7, 13]
        assert (matches.sum(dim=1) == 1).all()
        assert matches[0, 0]


def test_token_drop_in_each_frame_of_model_2(randomise) -> None:
    model = randomise(ViViT(**TINY | MODELS["factorised_encoder"], token_drop=0.5)).train()
    seen: list[Tensor] = []
    model.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model.features(torch.randn(CLIPS)).shape == (2, 1 + 2, 16)  # every frame is there
    assert seen[0].shape == (2, 2, 1 + 3, 16)


def test_token_drop_is_off_in_evaluation_and_leaves_no_weights(randomise) -> None:
    model = randomise(ViViT(**TINY, token_drop=0.5)).eval()
    plain = ViViT(**TINY).eval()
    plain.load_state_dict(model.state_dict())
    clips = torch.randn(CLIPS)
    assert torch.equal(model(clips), plain(clips))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (MODELS["factorised_self_attention"], "need every token of the grid; use 0"),
        (MODELS["factorised_dot_product"], "need every token of the grid; use 0"),
        ({"pooling": "sum"}, r"model\.pooling=sum reads something else"),
        ({"pooling": "first"}, r"model\.pooling=first reads something else"),
    ],
)
def test_models_without_token_drop(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.token_drop=0\.5: .*{message}"):
        ViViT(**TINY | arguments, token_drop=0.5)
    with pytest.raises(UserError, match=r"model\.token_drop is a probability in \[0, 1\), got 1"):
        ViViT(**TINY, token_drop=1)
