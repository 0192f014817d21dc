"""ViViT against Hugging Face's, against its own explicit form, and at other sizes."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.layers import DropPath
from vivit_train.model.vivit import ViViT
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
# The four models, with every knob away from its default.
MODELS = {
    "spatio_temporal": {},
    "factorised_encoder": {"temporal_layers": 3, "temporal_heads": 4, "temporal_mlp_size": 20},
    "factorised_self_attention": {"attention_order": "space_time", "pooling": "mean"},
    "factorised_dot_product": {"pooling": "mean"},
}
MODELS = {name: {"attention": name} | arguments for name, arguments in MODELS.items()}

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


@pytest.mark.slow
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


@pytest.mark.parametrize("arguments", [*MODELS.values(), {"pooling": "mean"}])
def test_sdpa_is_the_explicit_formula(arguments: dict, randomise) -> None:
    fused = randomise(ViViT(**TINY | arguments)).double()
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


@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
def test_config_rebuilds_the_model(arguments: dict) -> None:
    model = ViViT(**TINY | arguments, drop_path=0.1, drop_path_style="timm")
    again = ViViT(**model.config)
    assert again.config == model.config
    assert again.load_state_dict(model.state_dict())
    assert model.config["image_size"] == [16, 24]
    assert model.config["tubelet_size"] == [2, 8, 8]
    assert ViViT(**TINY | {"image_size": (16, 16)}).config["image_size"] == 16


def test_representation_layer(randomise) -> None:
    model = randomise(ViViT(**TINY, representation_size=6))
    clips = torch.randn(CLIPS)
    hidden = torch.tanh(model.pre_logits(model.features(clips)[:, 0]))
    torch.testing.assert_close(model(clips), model.head(hidden))
    assert model.head.in_features == 6


@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_evaluation_is_deterministic_with_dropout_on(
    implementation: str, arguments: dict, randomise
) -> None:
    dropouts = {"dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5}
    dropouts |= {"drop_path_style": "timm", "attention_implementation": implementation}
    model = randomise(ViViT(**TINY | arguments, **dropouts))
    plain = randomise(ViViT(**TINY | arguments))
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        assert torch.equal(model(clips), model(clips))
        torch.testing.assert_close(model(clips), plain(clips))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "drop_path"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_dropout_acts_in_training(
    model: dict, kind: str, implementation: str, randomise
) -> None:
    arguments = {kind: 0.5, "attention_implementation": implementation, "drop_path_style": "timm"}
    model = randomise(ViViT(**TINY | model, **arguments)).train()
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
    assert model.encoder.blocks[0].drop_path.p == 0
    assert model.encoder.blocks[-1].drop_path.p == pytest.approx(0.9)


def test_drop_path_styles_in_the_factorised_encoder(randomise) -> None:
    """The original drops all frames of a clip alike; timm's way draws for each frame."""
    branch = torch.ones(500, 4, 3, 2)  # [B, t, N, D]
    for style, drawn_apart in (("scenic", False), ("timm", True)):
        arguments = MODELS["factorised_encoder"] | {"drop_path": 0.5, "drop_path_style": style}
        model = ViViT(**TINY | arguments).train()
        kept = model.encoder.blocks[-1].drop_path(branch)[..., 0, 0] != 0  # [B, t]
        assert (kept.any(dim=1) != kept.all(dim=1)).any().item() == drawn_apart
        assert model.temporal_encoder is not None
        assert model.temporal_encoder.blocks[-1].drop_path(branch[:, 0]).shape == (500, 3, 2)


def test_drop_path_of_the_factorised_self_attention() -> None:
    arguments = MODELS["factorised_self_attention"] | {"drop_path": 0.5}
    with pytest.warns(UserWarning, match="drop_path=0.5 has no effect: Scenic ignores"):
        model = ViViT(**TINY | arguments)
    assert {block.drop_path.p for block in model.encoder.blocks} == {0.0}
    model = ViViT(**TINY | arguments | {"drop_path_style": "timm"})
    assert [block.drop_path.p for block in model.encoder.blocks] == [0.0, 0.5]


# What each model attends to: the others' tokens change nothing


def changed(model: ViViT, clips: Tensor, other: Tensor) -> Tensor:
    """Which tokens of the first block's attention differ between two clips, bool ``[t, s]``."""
    outputs = []
    for clip in (clips, other):
        seen: list[Tensor] = []
        hook = model.encoder.blocks[0].register_forward_hook(
            lambda _, __, output, seen=seen: seen.append(output)
        )
        model(clip)
        hook.remove()
        outputs.append(seen[0][0])
    different = (outputs[0] - outputs[1]).abs().amax(dim=-1) > 1e-7
    return different.reshape(2, -1)


@torch.no_grad()
def test_what_attends_to_what(randomise) -> None:
    """One token's pixels change: which tokens of the first block notice?"""
    clips = torch.randn(1, *CLIPS[1:])
    other = clips.clone()
    other[:, :, 2:, :8, :8] += 1  # of token (t, s) = (1, 0), s = 0..5
    everything = torch.ones(2, 6, dtype=torch.bool)
    same_frame = torch.tensor([[False] * 6, [True] * 6])
    time_and_space = same_frame.clone()
    time_and_space[0, 0] = True
    noticed = {
        "spatio_temporal": everything,
        "factorised_encoder": same_frame,
        "factorised_self_attention": everything,  # space after time reaches all
        "factorised_dot_product": time_and_space,
    }
    for attention, expected in noticed.items():
        arguments = MODELS[attention] | {"pooling": "mean"}
        model = randomise(ViViT(**TINY | arguments))
        assert torch.equal(changed(model, clips, other), expected), attention


@torch.no_grad()
def test_order_of_the_factorised_self_attention(randomise) -> None:
    arguments = MODELS["factorised_self_attention"]
    clips = torch.randn(CLIPS)
    logits = {
        order: randomise(ViViT(**TINY | arguments | {"attention_order": order}))(clips)
        for order in ("time_space", "space_time")
    }
    assert (logits["time_space"] - logits["space_time"]).abs().max() > 1e-3
    assert ViViT(**TINY | arguments | {"attention_order": None}).config["attention_order"] == (
        "time_space"
    )


@torch.no_grad()
def test_factorised_encoder_without_a_temporal_encoder_averages_frames(randomise) -> None:
    model = randomise(ViViT(**TINY, attention="factorised_encoder", temporal_layers=0))
    assert model.temporal_encoder is None
    clips = torch.randn(CLIPS)
    swapped = torch.cat([clips[:, :, 2:], clips[:, :, :2]], dim=2)
    torch.testing.assert_close(model(clips), model(swapped))
    torch.testing.assert_close(model(clips), model.head(model.features(clips).mean(dim=1)))


@torch.no_grad()
def test_the_factorised_encoder_of_one_frame_is_an_image_model(randomise) -> None:
    """Model 2 without its temporal encoder is Model 1 on each tubelet."""
    one = {"num_frames": 2}
    factorised = randomise(ViViT(**TINY | one, attention="factorised_encoder", temporal_layers=0))
    joint = ViViT(**TINY | one).eval()
    joint.load_state_dict(factorised.state_dict())
    clips = torch.randn(2, 3, 2, 16, 24)
    torch.testing.assert_close(factorised(clips), joint(clips))


def test_temporal_sizes_default_to_the_spatial_ones() -> None:
    model = ViViT(**TINY, attention="factorised_encoder")
    assert {k: v for k, v in model.config.items() if k.startswith("temporal_")} == {
        "temporal_layers": 4, "temporal_heads": 2, "temporal_mlp_size": 32,
    }  # fmt: skip
    assert model.temporal_encoder is not None
    assert len(model.temporal_encoder.blocks) == 4


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["max", "sum", "first"])
def test_other_poolings(pooling: str, randomise) -> None:
    model = randomise(ViViT(**TINY, pooling=pooling))
    clips = torch.randn(CLIPS)
    features = model.features(clips)  # [B, N, D]
    pooled = {"max": features.amax(1), "sum": features.sum(1), "first": features[:, 0]}[pooling]
    torch.testing.assert_close(model(clips), model.head(pooled))


@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
def test_every_parameter_learns_in_mixed_precision(arguments: dict, randomise) -> None:
    model = randomise(ViViT(**TINY | arguments)).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(CLIPS))
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# Native clips of 32 frames of 224x224 in a narrow model, so that only the sizes are large.
LARGE = {
    "num_classes": 3,
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_size": 16,
}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("num_frames", "image_size"),
    [(32, (288, 288)), (32, (224, 320)), (16, (224, 224)), (64, (224, 224)), (16, (96, 160))],
    ids=lambda size: str(size).replace(" ", ""),
)
def test_other_sizes(
    num_frames: int, image_size: tuple[int, int], attention: str, randomise
) -> None:
    """Interpolating in each step and once while loading give the same logits."""
    arguments = LARGE | {"attention": attention, "pooling": MODELS[attention].get("pooling", "cls")}
    native = randomise(ViViT(**arguments))
    weights = Weights("native", "vivit_train", native.state_dict(), native.config)
    resized = ViViT(**arguments, num_frames=num_frames, image_size=image_size).eval()
    rows = {row.name: row.status for row in load_weights(resized, weights)}
    changed = {name for name, status in rows.items() if status == "interpolated"}
    assert {status for name, status in rows.items() if name not in changed} == {"loaded"}
    if attention == "factorised_encoder":
        space, time = "encoder.pos_embed", "temporal_encoder.pos_embed"
        resizes = {space: image_size != (224, 224), time: num_frames != 32}
        assert changed == {name for name, is_other in resizes.items() if is_other}
    else:
        assert changed == {"encoder.pos_embed"}

    clips = torch.randn(1, 3, num_frames, *image_size)
    with torch.no_grad():
        torch.testing.assert_close(native(clips), resized(clips))
        shuffled = native(clips.roll((8, 32, 64), dims=(2, 3, 4)))
    assert native.grid == (16, 14, 14)
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
        ({"pooling": "avg"}, "model.pooling='avg' is not one of cls, mean, max, sum, first"),
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
        ({"drop_path_style": "fb"}, "model.drop_path_style='fb' is not one of scenic, timm"),
        ({"attention_order": "time_space"}, "is for model.attention=factorised_self_attention"),
        ({"temporal_layers": 4}, "is for model.attention=factorised_encoder; with spatio_temporal"),
        ({"temporal_heads": 2}, "is for model.attention=factorised_encoder"),
        ({"temporal_mlp_size": 8}, "is for model.attention=factorised_encoder"),
        (
            MODELS["factorised_self_attention"] | {"attention_order": "both"},
            "model.attention_order='both' is not one of time_space, space_time",
        ),
        (MODELS["factorised_encoder"] | {"temporal_layers": -1}, "must be 0 or more, got -1"),
        (MODELS["factorised_encoder"] | {"temporal_heads": 0}, "must be 1 or more, got 0"),
        (
            MODELS["factorised_encoder"] | {"temporal_heads": 5},
            "multiple of model.temporal_heads=5",
        ),
        (
            MODELS["factorised_dot_product"] | {"pooling": "cls"},
            "model.pooling=cls: model.attention=factorised_dot_product has no class token",
        ),
        (
            MODELS["factorised_self_attention"] | {"pooling": "first"},
            "model.pooling=first: model.attention=factorised_self_attention has no class token",
        ),
        (
            MODELS["factorised_dot_product"] | {"num_heads": 1},
            "model.num_heads=1 must be even with model.attention=factorised_dot_product",
        ),
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
