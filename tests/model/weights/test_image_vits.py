"""Image ViTs of timm and Hugging Face: read as they are, and the start of video models."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import FromImage, load_weights, read_weights

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_size": 64}


@pytest.fixture
def timm_vit(randomise):
    """timm_vit(**arguments) is a small random ViT of timm's."""

    def make(**arguments: Any) -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        return randomise(timm.models.VisionTransformer(**sizes | {"num_classes": 5} | arguments))

    return make


@pytest.fixture
def huggingface_vit(randomise):
    """huggingface_vit(cls, **config) is a small random ViT of transformers."""
    import transformers

    def make(cls: str = "ViTForImageClassification", **config: Any) -> nn.Module:
        sizes = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_labels": 5,
        }  # fmt: skip
        return randomise(getattr(transformers, cls)(transformers.ViTConfig(**sizes | config)))

    return make


def of_one_frame(**arguments: Any) -> ViViT:
    """A video model of one frame: the image model itself."""
    sizes = SIZES | {"image_size": 32, "num_frames": 1, "tubelet_size": (1, 8, 8)}
    return ViViT(num_classes=3, **sizes | arguments).eval()


def video_model(attention: str = "spatio_temporal", **arguments: Any) -> ViViT:
    has_cls = attention in ("spatio_temporal", "factorised_encoder")
    sizes = SIZES | {"image_size": 32, "num_frames": 4, "tubelet_size": (2, 8, 8)}
    sizes |= {"attention": attention, "pooling": "cls" if has_cls else "mean"}
    return ViViT(num_classes=3, **sizes | arguments).eval()


@torch.no_grad()
def test_features_are_timms(timm_vit, tmp_path: Path) -> None:
    theirs = timm_vit()
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = of_one_frame(activation="gelu")
    rows = load_weights(ours, read_weights(tmp_path / "vit.pth"), ["a", "b", "c"])
    assert {row.status for row in rows} == {"loaded", "replaced head"}
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.features(images[:, :, None]), theirs.forward_features(images))


@torch.no_grad()
@pytest.mark.parametrize("cls", ["ViTModel", "ViTForImageClassification"])
def test_features_are_hugging_faces(cls: str, huggingface_vit, tmp_path: Path) -> None:
    theirs = huggingface_vit(cls)
    theirs.save_pretrained(tmp_path)
    ours = of_one_frame(activation="gelu", layer_norm_eps=1e-12)
    rows = load_weights(ours, read_weights(tmp_path), ["a", "b", "c"])
    assert "missing" not in {row.status for row in rows}
    images = torch.randn(2, 3, 32, 32)
    body = theirs.vit if cls != "ViTModel" else theirs
    expected = body(images).last_hidden_state
    torch.testing.assert_close(ours.features(images[:, :, None]), expected)


@torch.no_grad()
def test_the_poolers_layer_is_taken_where_the_model_has_one(huggingface_vit, tmp_path) -> None:
    theirs = huggingface_vit("ViTModel")
    theirs.save_pretrained(tmp_path)
    ours = of_one_frame(activation="gelu", layer_norm_eps=1e-12, representation_size=16)
    load_weights(ours, read_weights(tmp_path), ["a", "b", "c"])
    images = torch.randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    ours.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ours(images[:, :, None])
    torch.testing.assert_close(seen[0], theirs(images).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("inflation", ["central", "average"])
def test_a_still_clip_embeds_as_its_image(inflation: str, timm_vit, tmp_path: Path) -> None:
    theirs = timm_vit()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    ours = video_model()
    rows = load_weights(
        ours, read_weights(tmp_path / "vit.safetensors"), None, FromImage(inflation=inflation)
    )
    assert {row.status for row in rows if row.name == "embed.weight"} == {"inflated"}
    images = torch.randn(2, 3, 32, 32)
    clips = images[:, :, None].expand(-1, -1, 4, -1, -1)
    expected = theirs.patch_embed(images).repeat(1, 2, 1)
    torch.testing.assert_close(ours.embed(clips), expected)
    positions = theirs.pos_embed
    tiled = torch.cat([positions[:, :1], positions[:, 1:].repeat(1, 2, 1)], dim=1)
    torch.testing.assert_close(ours.encoder.pos_embed, tiled)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("source", ["timm", "huggingface"])
def test_each_model_starts_from_it(
    source: str, attention: str, timm_vit, huggingface_vit, tmp_path: Path
) -> None:
    if source == "timm":
        torch.save(timm_vit().state_dict(), tmp_path / "vit.pth")
        weights = read_weights(tmp_path / "vit.pth")
    else:
        huggingface_vit().save_pretrained(tmp_path)
        weights = read_weights(tmp_path)
    model = video_model(attention, image_size=48)
    rows = {row.name: row for row in load_weights(model, weights, ["a", "b", "c"])}
    space = "1x4x4 -> 1x6x6" if attention == "factorised_encoder" else "1x4x4 -> 2x6x6"
    assert rows["encoder.pos_embed"].detail == space
    assert rows["encoder.blocks.1.mlp.fc2.weight"].status == "loaded"
    assert rows["head.bias"].status == "replaced head"
    model(torch.randn(2, 3, 4, 48, 48)).sum().backward()


def test_a_folder_of_timms_tells_its_pixels(timm_vit, tmp_path: Path) -> None:
    settings = {"mean": [0.5, 0.5, 0.4], "std": [0.5, 0.25, 0.2]}
    config = {"architecture": "vit_tiny", "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(timm_vit().state_dict(), tmp_path / "model.safetensors")
    weights = read_weights(tmp_path)
    assert weights.is_image
    assert weights.pixel_range is not None
    torch.testing.assert_close(
        torch.tensor(weights.pixel_range), torch.tensor([[-1.0, 1], [-2, 2], [-2, 3]])
    )


def test_a_folder_of_hugging_faces_tells_its_pixels(huggingface_vit, tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    huggingface_vit().save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    torch.testing.assert_close(
        torch.tensor(weights.pixel_range), torch.tensor([[-1.0, 1]] * 3), rtol=0, atol=1e-6
    )
    assert weights.model["num_heads"] == 2
    with pytest.raises(UserError, match="an image ViT classifies images; a video model starts"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_values": 1.0}, r"blocks\.\*?0-1\.ls1\.gamma|ls1\.gamma \[16\] has no place"),
        ({"reg_tokens": 4}, r"reg_token \[1, 4, 16\] has no place"),
        ({"pre_norm": True}, r"norm_pre\.weight \[16\] has no place"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": True}, "fc_norm.weight"),
        ({"depth": 3}, "model.num_layers=2, but the file's is 3"),
        ({"patch_size": 4}, r"model.tubelet_size=\[2, 8, 8\], but the file's is \[1, 4, 4\]"),
    ],
)
def test_another_vit_is_refused(arguments, message: str, timm_vit, tmp_path: Path) -> None:
    torch.save(timm_vit(**arguments).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=message):
        load_weights(video_model(), read_weights(tmp_path / "vit.pth"), ["a", "b", "c"])


def test_another_model_of_timms_is_refused(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2)}, tmp_path / "mixer.pth")
    with pytest.raises(UserError, match="is not a ViT of timm's: it has nothing that makes"):
        read_weights(tmp_path / "mixer.pth")
    tensors = timm.models.VisionTransformer(embed_dim=8, depth=1, num_heads=2).state_dict()
    tensors["encoder.norm.bias"] = torch.zeros(8)
    torch.save(tensors, tmp_path / "twice.pth")
    with pytest.raises(UserError, match="holds encoder.norm.bias twice"):
        read_weights(tmp_path / "twice.pth")
