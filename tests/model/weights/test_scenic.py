"""Checkpoints of the original (msgpack) and of its image ViTs (.npz), recorded and made."""

import shutil
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from tests.golden_files import GOLDEN, read, tensors, vivit_arguments
from vivit_train import load
from vivit_train.errors import UserError
from vivit_train.model.arguments import ATTENTIONS
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import FromImage, load_weights, read_weights
from vivit_train.model.weights.scenic import convert

# The container, and the recording whose weights it holds.
CONTAINERS = {
    "ckpt_flaxoptim_small_model1_token_plain": "small_model1_token_plain",
    "ckpt_flaxoptim_small_model2_token_plain": "small_model2_token_plain",
    "ckpt_flaxoptim_small_model3_gap_asym": "small_model3_gap_asym",
    "ckpt_optax_small_model1_token_plain": "small_model1_token_plain",
    "ckpt_optax_small_model2_token_plain": "small_model2_token_plain",
}
IMAGE_VIT = GOLDEN / "ckpt_bigvision_prelinen_vit.npz"


def packed(value: Any) -> Any:
    """A tree as flax packs it."""
    if isinstance(value, dict):
        return {name: packed(leaf) for name, leaf in value.items()}
    if isinstance(value, np.ndarray):
        content = msgpack.packb([list(value.shape), value.dtype.name, value.tobytes()])
        return msgpack.ExtType(1, content)
    return value


def nested(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = leaf
    return tree


def parameters(case: str) -> dict[str, np.ndarray]:
    _, arrays = read(case)
    return {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}


@pytest.fixture
def write(tmp_path: Path):
    """write(content) packs a checkpoint and returns its path."""

    def make(content: Any, name: str = "checkpoint_100") -> Path:
        path = tmp_path / name
        path.write_bytes(msgpack.packb(packed(content)))
        return path

    return make


def test_an_npz_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, embedding=np.zeros(2**24))
    assert path.stat().st_size < 2**18
    with pytest.raises(UserError, match=r"unpack to 134,\d{3},\d{3}, more than 20 times as many"):
        read_weights(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_recorded_container(container: str) -> None:
    case = CONTAINERS[container]
    _, arrays = read(case)
    weights = read_weights(GOLDEN / container)
    expected = convert(tensors(arrays, "params/"), case).state
    assert weights.state.keys() == expected.keys()
    assert all(torch.equal(weights.state[name], expected[name]) for name in expected)
    assert not weights.unused

    # What the file does not tell is asked for, and then it classifies as recorded.
    info, _ = read(case)
    arguments = vivit_arguments(info["config"], 5, 6, (16, 24))
    asked = {"image_size": [16, 24], "num_frames": 6}
    if arguments["attention"] == "factorised_self_attention":
        asked["attention_order"] = arguments["attention_order"]
    classifier = load(GOLDEN / container, **asked)
    for name, value in arguments.items():
        if name not in ("image_size", "drop_path"):
            ours = classifier.model.config[name]
            assert (tuple(ours) if isinstance(ours, list) else ours) == value, name
    clips = torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)
    np.testing.assert_allclose(classifier.model(clips).detach(), arrays["logits"], atol=2e-5)
    assert classifier.class_names == [f"class {i}" for i in range(5)]


def test_what_a_file_does_not_tell_is_asked_for() -> None:
    with pytest.raises(
        UserError, match=r"does not contain image_size: give it yourself, load\(.*image_size="
    ):
        load(GOLDEN / "ckpt_optax_small_model2_token_plain")
    with pytest.raises(UserError, match="does not contain attention_order, image_size, num_frames"):
        load(GOLDEN / "ckpt_flaxoptim_small_model3_gap_asym")
    with pytest.raises(UserError, match=r"the file's clips make 1x4x4 tokens"):
        load(GOLDEN / "ckpt_optax_small_model2_token_plain", image_size=[16, 32])


def test_model_4_is_told_from_model_1_by_the_user(write) -> None:
    _, arrays = read("small_model4_gap_temporal_sampling")
    path = write({"params": nested(parameters("small_model4_gap_temporal_sampling"))})
    with pytest.raises(UserError, match="does not contain attention, image_size, num_frames"):
        load(path)
    classifier = load(
        path, attention="factorised_dot_product", image_size=[16, 24], num_frames=6,
        sampled_frames=6,
    )  # fmt: skip
    clips = torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)
    np.testing.assert_allclose(classifier.model(clips).detach(), arrays["logits"], atol=2e-5)


def test_pooling_without_a_class_token_is_the_users_to_say(write) -> None:
    _, arrays = read("small_model1_gmp_asym")
    path = write({"params": nested(parameters("small_model1_gmp_asym"))})
    asked = {"attention": "spatio_temporal", "image_size": [16, 24], "num_frames": 6}
    clips = torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)
    logits = load(path, pooling="max", **asked).model(clips).detach()
    np.testing.assert_allclose(logits, arrays["logits"], atol=2e-5)
    assert load(path, **asked).model.pooling == "mean"


def test_training_starts_from_a_scenic_file() -> None:
    info, _ = read("small_model2_token_plain")
    arguments = vivit_arguments(info["config"], 5, 6, (16, 24)) | {"num_classes": 2}
    model = ViViT(**arguments)
    weights = read_weights(GOLDEN / "ckpt_optax_small_model2_token_plain")
    rows = {row.name: row for row in load_weights(model, weights, ["a", "b"])}
    assert rows["encoder.pos_embed"].status == "loaded"
    assert "as the file does not say" in rows["encoder.pos_embed"].detail
    assert rows["head.weight"].status == "replaced head"
    assert not model.head.weight.any()

    longer = ViViT(**arguments | {"num_frames": 12})
    rows = {row.name: row for row in load_weights(longer, weights, ["a", "b"])}
    assert rows["temporal_encoder.pos_embed"].status == "interpolated"
    assert rows["temporal_encoder.pos_embed"].detail == "2x1x1 -> 4x1x1"
    # 4 x 3 patches are no square, so their grid cannot be known.
    bigger = ViViT(**arguments | {"image_size": 32})
    with pytest.raises(UserError, match="does not say what its own grid is. Write a folder"):
        load_weights(bigger, weights, ["a", "b"])


def test_a_square_grid_is_assumed_as_in_the_original(write) -> None:
    info, _ = read("model2_factorized_encoder_token")
    path = write({"params": nested(parameters("model2_factorized_encoder_token"))})
    arguments = vivit_arguments(info["config"], 7, 8, (32, 32)) | {"image_size": (48, 40)}
    model = ViViT(**arguments)
    rows = {row.name: row for row in load_weights(model, read_weights(path), None)}
    assert rows["encoder.pos_embed"].status == "interpolated"
    assert rows["encoder.pos_embed"].detail.startswith("1x4x4 -> 1x6x5; taken as a square")


def test_kinetics_400_is_named() -> None:
    leaves = tensors(read("small_model1_token_plain")[1], "params/")
    leaves["output_projection/kernel"] = torch.zeros(24, 400)
    leaves["output_projection/bias"] = torch.zeros(400)
    weights = convert(leaves, "some file")
    assert weights.class_names is not None
    assert weights.class_names[0] == "abseiling"
    assert "400 unnamed classes" in weights.origin


def test_older_forms(write) -> None:
    leaves = parameters("small_model1_token_plain")
    expected = convert({k: torch.from_numpy(v) for k, v in leaves.items()}, "").state
    # Before Linen: numbers count over all kinds of module, one level deeper.
    renamed = {
        path.replace("MlpBlock_0", "MlpBlock_3")
        .replace("LayerNorm_1", "LayerNorm_2")
        .replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"): leaf
        for path, leaf in leaves.items()
    }
    path = write({"optimizer": {"target": {"params": nested(renamed)}}, "model_state": None})
    state = read_weights(path).state
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_bfloat16_and_arrays_in_chunks(tmp_path: Path) -> None:
    leaves = parameters("small_model1_token_plain")
    tree = packed({"params": nested(leaves)})
    kernel = torch.from_numpy(leaves["output_projection/kernel"])
    half = kernel.bfloat16()
    content = [list(half.shape), "bfloat16", half.view(torch.int16).numpy().tobytes()]
    tree["params"]["output_projection"]["kernel"] = msgpack.ExtType(1, msgpack.packb(content))
    positions = leaves["Transformer/posembed_input/pos_embedding"]
    pieces = np.array_split(positions.ravel(), 3)
    tree["params"]["Transformer"]["posembed_input"]["pos_embedding"] = {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(positions.shape)},
        "chunks": {str(i): packed(piece) for i, piece in enumerate(pieces)},
    }
    path = tmp_path / "checkpoint"
    path.write_bytes(msgpack.packb(tree))
    state = read_weights(path).state
    assert torch.equal(state["head.weight"], half.T)
    assert torch.equal(state["encoder.pos_embed"], torch.from_numpy(positions))


def test_layers_are_counted_and_sorted_as_numbers() -> None:
    leaves = tensors(read("small_model1_token_plain")[1], "params/")
    block = {k: v for k, v in leaves.items() if "encoderblock_0/" in k}
    for layer in range(12):
        for path, leaf in block.items():
            leaves[path.replace("encoderblock_0", f"encoderblock_{layer}")] = leaf + layer
    weights = convert(leaves, "some file")
    assert weights.model["num_layers"] == 12
    bias = "encoder.blocks.{}.norm1.bias"
    difference = weights.state[bias.format(10)] - weights.state[bias.format(2)]
    torch.testing.assert_close(difference, torch.full((24,), 8.0), atol=1e-5, rtol=0)


def test_unknown_leaves_are_refused_by_name() -> None:
    info, arrays = read("small_model1_token_plain")
    leaves = tensors(arrays, "params/")
    leaves["Transformer/encoderblock_0/Adapter/kernel"] = torch.zeros(2, 2)
    model = ViViT(**vivit_arguments(info["config"], 5, 6, (16, 24)))
    with pytest.raises(UserError, match="encoderblock_0/Adapter/kernel .* has no place"):
        load_weights(model, convert(leaves, "some file"))


def test_a_part_that_is_missing_or_twice() -> None:
    leaves = tensors(read("small_model1_token_plain")[1], "params/")
    key = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/kernel"
    with pytest.raises(UserError, match=r"of the query, key and value .* it holds 2"):
        convert({k: v for k, v in leaves.items() if k != key}, "some file")
    with pytest.raises(UserError, match=r"holds head.bias twice: as head/bias"):
        convert(leaves | {"head/bias": torch.zeros(5)}, "some file")


# Image ViTs


def test_the_recorded_image_vit() -> None:
    info, arrays = read("ckpt_bigvision_prelinen_vit")
    weights = read_weights(IMAGE_VIT)
    renamed = {
        info["renaming"][name.removeprefix("opt/target/")]: torch.from_numpy(leaf)
        for name, leaf in arrays.items()
        if name.removeprefix("opt/target/") in info["renaming"]
    }
    expected = convert(renamed, "", is_image=True).state
    assert weights.state.keys() == expected.keys()
    assert all(torch.equal(weights.state[name], expected[name]) for name in expected)
    assert weights.is_image
    assert weights.pixel_range == ((-1.0, 1.0),) * 3
    with pytest.raises(UserError, match="classifies images; a video model starts from it with"):
        load(IMAGE_VIT)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_an_image_vit_starts_each_model(attention: str) -> None:
    weights = read_weights(IMAGE_VIT)
    told = weights.model
    _, height, width = told["tubelet_size"]
    model = ViViT(
        num_classes=3,
        attention=attention,
        pooling="cls" if attention in ("spatio_temporal", "factorised_encoder") else "mean",
        num_frames=6,
        image_size=told["image_size"],
        tubelet_size=(2, height, width),
        **{k: told[k] for k in ("hidden_size", "num_layers", "num_heads", "mlp_size")},
    )
    rows = load_weights(model, weights, ["a", "b", "c"], FromImage(temporal_attention="copy"))
    account = {row.name: row.status for row in rows}
    assert account["embed.weight"] == "inflated"
    assert account["head.weight"] == "replaced head"
    for name, value in model.encoder.state_dict().items():
        if "norm" not in name and name != "cls_token":
            assert account[f"encoder.{name}"] in ("loaded", "inflated"), name
            assert value.abs().max() > 0
    if attention == "factorised_encoder":
        assert account["temporal_encoder.pos_embed"] == "missing"


# Files that are something else


def test_wrong_files(tmp_path: Path, write) -> None:
    whole = (GOLDEN / "ckpt_optax_small_model1_token_plain").read_bytes()
    cut = tmp_path / "checkpoint_cut"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"not a Scenic checkpoint, or not a whole one"):
        read_weights(cut)
    with pytest.raises(UserError, match=r"has its parameters under .*this file has weights"):
        read_weights(write({"weights": {}}))
    broken = nested(parameters("small_model1_token_plain"))
    broken["embedding"]["kernel"] = "text"
    with pytest.raises(UserError, match="a str where an array should be"):
        read_weights(write({"params": broken}))
    odd = packed(nested(parameters("small_model1_token_plain")))
    odd["embedding"]["bias"] = msgpack.ExtType(1, msgpack.packb([[1], "Tensor", b"1234"]))
    path = tmp_path / "checkpoint_odd"
    path.write_bytes(msgpack.packb({"params": odd}))
    with pytest.raises(UserError, match="an array of type Tensor"):
        read_weights(path)
    text = tmp_path / "checkpoint"
    text.write_text("the weights are elsewhere")
    with pytest.raises(UserError, match="is not a file of weights: expected .*a Scenic checkpoint"):
        read_weights(text)
    other = nested(parameters("small_model1_token_plain"))
    del other["Transformer"]
    with pytest.raises(UserError, match="is not a ViT or ViViT: it has nothing that makes encoder"):
        read_weights(write({"params": other}))


def test_wrong_npz(tmp_path: Path) -> None:
    cut = tmp_path / "cut.npz"
    cut.write_bytes(IMAGE_VIT.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"cut.npz is not an .npz file of arrays, or not a whole"):
        read_weights(cut)
    objects = tmp_path / "objects.npz"
    np.savez(objects, embedding=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="holds Python objects, which could run code"):
        read_weights(objects)
    other = tmp_path / "other.npz"
    np.savez(other, conv=np.zeros(3))
    with pytest.raises(UserError, match=r"other.npz is not a ViT or ViViT"):
        read_weights(other)


def test_without_msgpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint_7"
    shutil.copy(GOLDEN / "ckpt_optax_small_model1_token_plain", path)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(UserError, match=r'needs msgpack: pip install "vivit-train\[scenic\]"'):
        read_weights(path)
