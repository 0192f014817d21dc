"""ViViT against Hugging Face's, against its own explicit form, and at other sizes."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.model.vivit import DropPath, ViViT
from vivit_train.model.weights import Weights, load_weights, read_weights

TINY = {
    "num_classes": 5,
    "image_size": (16, 24),
    "num_frames": 4,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 32,
}
CLIPS = (2, 3, 4, 16, 24)

CONFIGS = {
    "erf_gelu_deep_tubelets": {
        "hidden_act": "gelu",
        "tubelet_size": [4, 8, 8],
        "num_frames": 8,
        "num_attention_heads": 4,
        "hidden_size": 48,
    },
    "no_qkv_bias_single_frames": {
        "qkv_bias": False,
        "tubelet_size": [1, 16, 8],
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
    },
    "relu_odd_everything": {
        "hidden_act": "relu",
        "tubelet_size": [3, 4, 12],
        "num_frames": 9,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "hidden_size": 21,
        "num_labels": 7,
        "layer_norm_eps": 1e-5,
    },
}


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def imported(theirs: torch.nn.Module, folder: Path) -> ViViT:
    theirs.save_pretrained(folder)
    weights = read_weights(folder)
    ours = ViViT(**{"num_classes": 3} | weights.model).eval()
    load_weights(ours, weights)
    return ours


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_hugging_faces(config: dict, huggingface, tmp_path: Path) -> None:
    theirs = huggingface(**config)
    ours = imported(theirs, tmp_path)
    height, width = theirs.config.image_size
    clips = torch.randn(2, 3, theirs.config.num_frames, height, width)
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2)).logits
        logits = ours(clips)
    assert relative_difference(logits, expected) < 1e-5


def test_logits_are_hugging_faces_at_full_size(huggingface, tmp_path: Path) -> None:
    theirs = huggingface(
        image_size=224, num_frames=32, tubelet_size=[2, 16, 16], hidden_size=768,
        num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, num_labels=400,
    )  # fmt: skip
    ours = imported(theirs, tmp_path)
    clips = torch.randn(1, 3, 32, 224, 224)
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2)).logits
        del theirs
        logits = ours(clips)
    assert relative_difference(logits, expected) < 1e-5


def test_features_are_hugging_faces(huggingface, tmp_path: Path) -> None:
    theirs = huggingface(headless=True)
    ours = imported(theirs, tmp_path)
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2)).last_hidden_state
        features = ours.features(clips)
    assert features.shape == (2, 1 + 2 * 2 * 3, 16)
    assert relative_difference(features, expected) < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_sdpa_is_the_explicit_formula(pooling: str, randomise) -> None:
    fused = randomise(ViViT(**TINY, pooling=pooling)).double()
    explicit = ViViT(**fused.config | {"attention_implementation": "eager"}).eval().double()
    explicit.load_state_dict(fused.state_dict())
    clips = torch.randn(CLIPS, dtype=torch.float64)
    logits = [model(clips) for model in (fused, explicit)]
    torch.testing.assert_close(*logits)
    for output in logits:
        output.square().sum().backward()
    gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (fused, explicit)]
    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())


def test_config_rebuilds_the_model() -> None:
    model = ViViT(**TINY, drop_path=0.1, pooling="mean")
    assert ViViT(**model.config).config == model.config
    assert model.config["image_size"] == [16, 24]
    assert model.config["tubelet_size"] == [2, 8, 8]
    assert ViViT(**TINY | {"image_size": (16, 16)}).config["image_size"] == 16


def test_representation_layer(randomise) -> None:
    model = randomise(ViViT(**TINY, representation_size=6))
    clips = torch.randn(CLIPS)
    hidden = torch.tanh(model.pre_logits(model.features(clips)[:, 0]))
    torch.testing.assert_close(model(clips), model.head(hidden))
    assert model.head.in_features == 6


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_evaluation_is_deterministic_with_dropout_on(implementation: str, randomise) -> None:
    dropouts = {"dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5}
    model = randomise(ViViT(**TINY, **dropouts, attention_implementation=implementation))
    plain = randomise(ViViT(**TINY))
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        assert torch.equal(model(clips), model(clips))
        torch.testing.assert_close(model(clips), plain(clips))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "drop_path"])
def test_each_dropout_acts_in_training(kind: str, implementation: str, randomise) -> None:
    arguments = {kind: 0.5, "attention_implementation": implementation}
    model = randomise(ViViT(**TINY, **arguments)).train()
    clips = torch.randn(1, *CLIPS[1:]).repeat(8, 1, 1, 1, 1)
    with torch.no_grad():
        logits = model(clips)
    assert len(logits.unique(dim=0)) > 1


def test_no_dropout_by_default(randomise) -> None:
    model = randomise(ViViT(**TINY))
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        assert torch.equal(model(clips), model.train()(clips))


@pytest.mark.parametrize("rescale", [False, True])
def test_drop_path_statistics(rescale: bool) -> None:
    torch.manual_seed(0)
    p, clips = 0.3, 20_000
    branch = torch.ones(clips, 2, 3)
    dropped = DropPath(p, rescale).train()(branch)
    kept = dropped[:, 0, 0] != 0
    # A clip's branch goes as a whole.
    scale = 1 / (1 - p) if rescale else 1
    torch.testing.assert_close(dropped, kept[:, None, None] * branch * scale)
    # Four standard deviations of a binomial.
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / clips) ** 0.5)
    assert torch.equal(DropPath(p, rescale).eval()(branch), branch)


def test_drop_path_leaves_the_first_block_whole(randomise) -> None:
    model = randomise(ViViT(**TINY, drop_path=0.9)).train()
    assert model.blocks[0].drop_path.p == 0
    assert model.blocks[-1].drop_path.p == pytest.approx(0.9)


# Native clips of 32 frames of 224x224 in a narrow model, so that only the sizes are large.
LARGE = {
    "num_classes": 3,
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_size": 16,
}


@pytest.mark.parametrize(
    ("num_frames", "image_size"),
    [(32, (288, 288)), (32, (224, 320)), (16, (224, 224)), (64, (224, 224)), (16, (96, 160))],
    ids=lambda size: str(size).replace(" ", ""),
)
def test_other_sizes(num_frames: int, image_size: tuple[int, int], randomise) -> None:
    """Interpolating in each step and once while loading give the same logits."""
    native = randomise(ViViT(**LARGE))
    weights = Weights("native", "vivit_train", native.state_dict(), native.config)
    resized = ViViT(**LARGE, num_frames=num_frames, image_size=image_size).eval()
    rows = {row.name: row.status for row in load_weights(resized, weights)}
    assert rows.pop("pos_embed") == "interpolated"
    assert set(rows.values()) == {"loaded"}

    clips = torch.randn(1, 3, num_frames, *image_size)
    with torch.no_grad():
        torch.testing.assert_close(native(clips), resized(clips))
        shuffled = native(clips.roll((8, 32, 64), dims=(2, 3, 4)))
    assert native.pos_embed.shape[1] == 1 + 16 * 14 * 14
    assert not torch.allclose(shuffled, native(clips))


def test_uniform_frame_sampling_at_another_length(randomise) -> None:
    model = randomise(
        ViViT(**TINY | {"num_frames": 6, "tubelet_size": (1, 8, 8)}, sampled_frames=2)
    )
    clips = torch.randn(2, 3, 12, 16, 24)
    assert model.grid == (2, 2, 3)
    torch.testing.assert_close(model(clips), model(clips[:, :, [4, 8]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "joint"}, "model.attention='joint' is not one of spatio_temporal"),
        ({"pooling": "max"}, "model.pooling='max' is not one of cls, mean"),
        ({"activation": "swish"}, "model.activation='swish' is not one of gelu, gelu_fast"),
        (
            {"attention_implementation": "flash"},
            "model.attention_implementation='flash' is not one of sdpa, eager",
        ),
        ({"num_classes": 0}, "model.num_classes must be 1 or more, got 0"),
        ({"num_layers": 0}, "model.num_layers must be 1 or more, got 0"),
        ({"num_heads": 0}, "model.num_heads must be 1 or more, got 0"),
        ({"hidden_size": 0}, "model.hidden_size must be 1 or more, got 0"),
        ({"mlp_size": -1}, "model.mlp_size must be 1 or more, got -1"),
        ({"dropout": 1.0}, "model.dropout is a probability in [0, 1), got 1.0"),
        ({"attention_dropout": -0.1}, "model.attention_dropout is a probability"),
        ({"drop_path": 1.5}, "model.drop_path is a probability in [0, 1), got 1.5"),
        ({"num_heads": 3}, "model.hidden_size=16 is not a multiple of model.num_heads=3"),
        ({"tubelet_size": (2, 8)}, "model.tubelet_size is (frames, height, width)"),
        ({"tubelet_size": (0, 8, 8)}, "got [0, 8, 8]"),
        ({"sampled_frames": 2}, "model.tubelet_size must start with 1, got [2, 8, 8]"),
        ({"sampled_frames": 0, "tubelet_size": (1, 8, 8)}, "model.sampled_frames=0"),
        (
            {"num_frames": 5},
            "5 frames of 16x24 cannot be cut into tubelets of 2 frames of 8x8",
        ),
        ({"image_size": 20}, "4 frames of 20x20 cannot be cut"),
        ({"image_size": (16, 4)}, "4 frames of 16x4 cannot be cut"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ViViT(**TINY | arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 16, 24, 3), "clips must be [B, 3, T, H, W], got [2, 4, 16, 24, 3]"),
        ((3, 4, 16, 24), "clips must be [B, 3, T, H, W], got [3, 4, 16, 24]"),
        ((1, 3, 4, 16, 20), "4 frames of 16x20 cannot be cut"),
        ((1, 3, 1, 16, 24), "1 frames of 16x24 cannot be cut"),
    ],
)
def test_wrong_clips(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ViViT(**TINY)(torch.zeros(shape))
