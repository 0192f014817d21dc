"""Starting from an image ViT, or another ViViT, gives the original's tensors (recorded)."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_files import GOLDEN, read, tensors, vivit_arguments
from vivit_train.errors import UserError
from vivit_train.model.pos_embed import interpolate_positions
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import FromImage, load_weights
from vivit_train.model.weights.inflate import inflate_positions, inflate_tubelets
from vivit_train.model.weights.scenic import convert

CASES = (
    "init_m1_gap_from_token_vit",
    "init_m1_token_arp_resize_tile_down",
    "init_m1_token_average_resize_tile_up",
    "init_m1_token_central_tile",
    "init_m1_token_central_tile_t3",
    "init_m1_token_from_gap_vit",
    "init_m1_token_from_vit_with_prelogits",
    "init_m1_token_no_posemb_no_embedding",
    "init_m1_token_prelogits_from_vit_with_prelogits",
    "init_m1_token_sampling_resize_tile",
    "init_m2_token_from_m2_more_frames",
    "init_m2_token_from_m2_with_head",
    "init_m2_token_resize_up",
    "init_m2_token_same_resolution",
    "init_m3_gap_default",
    "init_m3_gap_from_m3",
    "init_m3_gap_no_spatial_temporal_ln",
    "init_m4_gap_from_token_vit",
)


def from_image(config: dict[str, Any]) -> FromImage:
    """Scenic's ``init_from`` as our rules."""
    init = config["init_from"]
    encoding = config["model"]["temporal_encoding_config"]
    inflation = encoding.get("kernel_init_method", "central_frame_initializer")
    return FromImage(
        inflation=inflation.removesuffix("_frame_initializer")
        if init["restore_input_embedding"]
        else None,
        positions=init["positional_embed_size_change"]
        if init["restore_positional_embedding"]
        else None,
        spatial_attention="copy" if init.get("init_spatial_transformer", True) else "random",
        temporal_attention="copy" if init.get("init_temporal_transformer", True) else "random",
    )


@pytest.mark.parametrize("case", CASES)
def test_initialisation(case: str) -> None:
    info, arrays = read(case)
    config = info["config"]
    data = config["dataset_configs"]
    before = convert(tensors(arrays, "before/"), "before").state
    after = convert(tensors(arrays, "after/"), "after").state
    num_classes = len(before["head.bias"])
    size = (data["crop_size"], data["crop_size"])
    model = ViViT(**vivit_arguments(config, num_classes, data["num_frames"], size))
    model.load_state_dict(before)

    is_image = info["restored_model_config"]["kind"] == "image ViT"
    weights = convert(tensors(arrays, "restored/"), "the recorded source", is_image)
    names = None if info["restore_output_proj"] else [f"class {i}" for i in range(num_classes)]
    rows = load_weights(model, weights, names, from_image(config))

    state = model.state_dict()
    assert state.keys() == after.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-6, msg=name)
    # The account says of each tensor what Scenic's did.
    kept = {row.name for row in rows if row.status in ("missing", "replaced head")}
    for name in state:
        assert (name in kept) == torch.equal(before[name], after[name]), name


FUNCTIONS = dict(np.load(GOLDEN / "init_functions.npz"))


def recorded(function: str) -> list[str]:
    return sorted({k.rsplit("/", 1)[0] for k in FUNCTIONS if k.startswith(f"{function}/")})


@pytest.mark.parametrize("case", recorded("inflate"))
def test_inflation(case: str) -> None:
    _, method, depth = case.split("/")
    kernel = torch.from_numpy(FUNCTIONS[f"{case}/in"]).permute(3, 2, 0, 1)[:, :, None]
    ours = inflate_tubelets(kernel, int(depth[1:]), method.removesuffix("_frame_initializer"))
    theirs = torch.from_numpy(FUNCTIONS[f"{case}/out"]).permute(4, 3, 0, 1, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", recorded("interpolate_2d") + recorded("interpolate_1d"))
def test_interpolation(case: str) -> None:
    function, sizes = case.split("/")
    source, target = ([int(n) for n in size.split("x")] for size in sizes.split("_to_"))
    rest = () if function == "interpolate_2d" else (1, 1)
    leading = (1,) if function == "interpolate_2d" else ()
    table = torch.from_numpy(FUNCTIONS[f"{case}/in"])[None]
    ours = interpolate_positions(table, (*leading, *source, *rest), (*leading, *target, *rest))
    theirs = torch.from_numpy(FUNCTIONS[f"{case}/out"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("case", recorded("tile"))
def test_tiling(case: str) -> None:
    rows, wanted = map(int, case.split("/")[1].split("_to_"))
    side = int(rows**0.5)
    table = torch.from_numpy(FUNCTIONS[f"{case}/in"])[None]
    grid = (wanted // rows, side, side)
    ours = inflate_positions(table, (1, side, side), grid, 0, "tile")
    assert torch.equal(ours, torch.from_numpy(FUNCTIONS[f"{case}/out"]))


SCRATCH = [name for name in FUNCTIONS if name.startswith("scratch/default/")]


@pytest.mark.parametrize("case", SCRATCH)
def test_a_new_embedding_is_lecun_normal_whatever_the_inflation(case: str) -> None:
    # From scratch the original's central initialiser zeroes along the width, by mistake (an axis
    # is miscounted). Inflation is for pretrained weights here: a new model draws every frame.
    kernel = FUNCTIONS[case]
    central = FUNCTIONS[case.replace("default", "central")]
    kept = kernel.shape[0] // 2
    assert not np.delete(central, kept, axis=2).any()
    t, h, w, channels, width = kernel.shape
    torch.manual_seed(0)
    model = ViViT(
        num_classes=2, image_size=(h, w), num_frames=t, tubelet_size=(t, h, w), hidden_size=width,
        num_channels=channels, num_layers=1, num_heads=1, mlp_size=4,
    )  # fmt: skip
    error = 4 / np.sqrt(2 * kernel.size)
    assert model.embed.weight.std().item() == pytest.approx(kernel.std(), rel=2 * error)


# Model 3's attention over time, as the paper has it


def image_weights(**arguments: Any) -> Any:
    _, arrays = read("init_m3_gap_default")
    return convert(tensors(arrays, "restored/"), "an image model", is_image=True)


def model_3(**arguments: Any) -> ViViT:
    info, _ = read("init_m3_gap_default")
    return ViViT(**vivit_arguments(info["config"], 3, 6, (16, 16)) | arguments)


def test_zero_temporal_attention_adds_nothing_at_first_and_can_learn(randomise) -> None:
    model = randomise(model_3())
    load_weights(model, image_weights(), None)
    x = torch.randn(2, 3, 16, 8)
    for block in model.encoder.blocks:
        assert not block.over_time(x).any()
        torch.testing.assert_close(block.temporal_attn.qkv.weight, block.attn.qkv.weight)
    torch.nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 6, 16, 16)).square().sum().backward()
    gradient = model.encoder.blocks[0].temporal_attn.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_rules_that_do_not_fit_are_refused() -> None:
    weights = image_weights()
    bigger = model_3(image_size=24)
    with pytest.raises(UserError, match="positions=tile needs the image's grid.*4x4.*6x6.*resize_"):
        load_weights(bigger, weights, None, FromImage(positions="tile"))
    with pytest.raises(UserError, match=r"positions=resize gives positions to one frame.*has 3"):
        load_weights(bigger, weights, None, FromImage(positions="resize"))
    for name in ("inflation", "positions", "spatial_attention", "temporal_attention"):
        with pytest.raises(UserError, match=rf"model\.from_image\.{name}='most' is not one of"):
            FromImage(**{name: "most"})
