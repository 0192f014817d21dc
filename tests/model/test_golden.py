"""The original's numbers (tests/golden: Scenic in JAX, recorded) reproduced by our four models."""

import json
import re
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import REPOSITORY
from tests.golden_files import GOLDEN, read, tensors, vivit_arguments
from tests.model.weights.test_inflate import CASES as INITIALISATIONS
from vivit_train.model.embedding import uniform_frames
from vivit_train.model.layers import DropPath
from vivit_train.model.vivit import ViViT, pool
from vivit_train.model.weights.scenic import convert

FORWARD = (
    "model1_spacetime_gap",
    "model1_spacetime_token",
    "model1_spacetime_token_temporal_sampling",
    "model2_factorized_encoder_gap",
    "model2_factorized_encoder_token",
    "model3_factorized_self_attention_timespace_gap",
    "model4_factorized_dot_product_gap",
    "small_model1_first_token_asym",
    "small_model1_gmp_asym",
    "small_model1_gsp_asym",
    "small_model1_token_asym",
    "small_model1_token_plain",
    "small_model2_gap_asym",
    "small_model2_spatial_only_token",
    "small_model2_token_plain",
    "small_model2_token_temporal_sampling",
    "small_model3_gap_asym",
    "small_model3_gap_temporal_sampling",
    "small_model4_gap_temporal_sampling",
)
DROP_PATH = ("droplayer_model1", "droplayer_model2", "droplayer_model3", "droplayer_model4")
# Every other recorded file, and the tests that reproduce it.
ELSEWHERE = {
    "tests/model/test_golden.py": ("multicrop_small_model1_token_plain", "rates_and_sampling"),
    "tests/model/test_init.py": ("init_statistics",),
    "tests/model/weights/test_scenic.py": (
        "ckpt_bigvision_prelinen_vit",
        "ckpt_flaxoptim_small_model1_token_plain",
        "ckpt_flaxoptim_small_model2_token_plain",
        "ckpt_flaxoptim_small_model3_gap_asym",
        "ckpt_optax_small_model1_token_plain",
        "ckpt_optax_small_model2_token_plain",
    ),
    "tests/model/weights/test_inflate.py": (
        "init_functions",
        *INITIALISATIONS,
    ),
    "tests/test_optim.py": ("lr_schedules",),
    "tests/test_losses.py": ("losses_metrics", "multihead"),
    "tests/test_configs.py": ("scenic_configs",),
    "tests/transforms/test_mixup.py": ("mixup",),
    "tests/test_golden_training.py": ("train_model1", "train_model2_multihead", "train_model4"),
}


def test_every_recorded_file_is_covered() -> None:
    covered = {*FORWARD, *DROP_PATH, *(case for cases in ELSEWHERE.values() for case in cases)}
    assert {path.stem for path in GOLDEN.iterdir()} == covered
    original = REPOSITORY.parent / "shared" / "golden"
    if original.is_dir():
        assert {path.stem for path in original.iterdir()} <= covered
    for file, cases in ELSEWHERE.items():
        text = (REPOSITORY / file).read_text()
        assert all(case in text for case in cases), file


def recorded(case: str, **arguments: object) -> tuple[ViViT, dict[str, np.ndarray]]:
    """The model of a recording with its weights, in evaluation mode, and the arrays."""
    info, arrays = read(case)
    _, num_frames, height, width, _ = arrays["input"].shape
    num_classes = arrays["params/output_projection/bias"].size
    built = vivit_arguments(info["config"], num_classes, num_frames, (height, width))
    model = ViViT(**built | arguments).eval()
    model.load_state_dict(convert(tensors(arrays, "params/"), case).state)
    return model, arrays


def clips_of(arrays: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)  # [B, C, T, H, W]


def assert_equal_in_float32(ours: Tensor, theirs: np.ndarray) -> None:
    error = np.abs(ours.detach().numpy() - theirs)
    assert (error <= 2e-5 * np.maximum(1, np.abs(theirs))).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("case", FORWARD)
def test_logits(case: str, implementation: str) -> None:
    model, arrays = recorded(case, attention_implementation=implementation)
    clips = clips_of(arrays)
    assert_equal_in_float32(model(clips), arrays["logits"])
    logits = model.double()(clips.double()).detach()
    np.testing.assert_allclose(logits, arrays["logits_f64"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", FORWARD)
def test_what_enters_the_head(case: str) -> None:
    model, arrays = recorded(case)
    seen = []
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(clips_of(arrays))
    assert_equal_in_float32(seen[0], arrays["pre_logits"])


@pytest.mark.parametrize("case", [case for case in FORWARD if "inter/tokens" in read(case)[1]])
def test_intermediate_values(case: str) -> None:
    model, arrays = recorded(case)
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: seen.update({name: output.detach()}))

    keep("tokens", model.embed)
    prefix = "spatial/" if model.temporal_encoder is not None else ""
    keep(f"{prefix}encoderblock_0", model.encoder.blocks[0])
    keep(f"{prefix}encoder_norm", model.encoder)
    if model.temporal_encoder is not None:
        keep("temporal/encoder_norm", model.temporal_encoder)
    model.num_queries = None  # all tokens of the last blocks were recorded
    model(clips_of(arrays))
    if model.temporal_encoder is not None:
        seen["spatial/frame_tokens"] = pool(seen["spatial/encoder_norm"], model.pooling)
    recordings = {name.removeprefix("inter/") for name in arrays if name.startswith("inter/")}
    assert recordings <= seen.keys()
    for name in recordings:
        theirs = arrays[f"inter/{name}"]
        assert_equal_in_float32(seen[name].reshape(theirs.shape), theirs)


@pytest.mark.parametrize("case", DROP_PATH)
def test_drop_path_with_the_recorded_masks(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Model 3's, which says that it has no drop path
        model, arrays = recorded(case)
    clips = clips_of(arrays)
    assert_equal_in_float32(model(clips), arrays["logits_eval"])

    encoders = {"Transformer": "encoder", "SpatialTransformer": "encoder"}
    encoders["TemporalTransformer"] = "temporal_encoder"
    dropped: dict[DropPath, Iterator[np.ndarray]] = {}
    for path in arrays:
        if match := re.fullmatch(r"drop/(\w+)/encoderblock_(\d+)/attention", path):
            block = getattr(model, encoders[match[1]]).blocks[int(match[2])]
            both = [arrays[path], arrays[path.replace("attention", "mlp")]]
            dropped[block.drop_path] = iter(both)

    def recorded_draw(self: DropPath, shape: torch.Size, device: torch.device) -> Tensor:
        mask = torch.from_numpy(next(dropped[self]))
        assert mask.shape == shape == clips.shape[:1]  # one draw per clip, however many frames
        return mask == 0

    monkeypatch.setattr(DropPath, "draw", recorded_draw)
    logits = model.train()(clips)
    assert_equal_in_float32(logits, arrays["logits_train"])
    if case == "droplayer_model3":
        assert not dropped
        assert torch.equal(logits, model.eval()(clips))
    else:
        # Block 0 never drops, and its recorded masks say so.
        remaining = [mask for masks in dropped.values() for mask in masks]
        assert not any(mask.any() for mask in remaining)
        assert len(remaining) == 2 * sum(drop_path.p == 0 for drop_path in dropped)


def test_views_are_averaged_as_logits() -> None:
    arrays = dict(np.load(GOLDEN / "multicrop_small_model1_token_plain.npz"))
    model, _ = recorded("small_model1_token_plain")
    logits = model(clips_of(arrays))
    assert_equal_in_float32(logits, arrays["per_view_logits"])
    assert_equal_in_float32(logits.mean(dim=0, keepdim=True), arrays["mean_logits"])


def test_uniform_frames() -> None:
    table = json.loads((GOLDEN / "rates_and_sampling.json").read_text())["sample_frames_uniformly"]
    assert len(table) == 60
    for case, frames in table.items():
        num_frames, sampled = re.fullmatch(r"T(\d+)_n(\d+)", case).groups()
        assert uniform_frames(int(num_frames), int(sampled)) == frames, case


@pytest.mark.parametrize("attention", ["spatio_temporal", "factorised_encoder"])
@pytest.mark.parametrize("layers", [12, 24])
def test_drop_path_rises_linearly(layers: int, attention: str) -> None:
    table = json.loads((GOLDEN / "rates_and_sampling.json").read_text())["droplayer_p_per_layer"]
    rates = {k: v for k, v in table.items() if k.startswith(f"layers_{layers}_")}
    assert rates
    for case, expected in rates.items():
        rate = float(case.split("_")[-1])
        model = ViViT(
            num_classes=2, image_size=8, num_frames=2, tubelet_size=(2, 8, 8), hidden_size=8,
            num_layers=layers, num_heads=2, mlp_size=8, drop_path=rate, attention=attention,
        )  # fmt: skip
        assert [block.drop_path.p for block in model.encoder.blocks] == pytest.approx(expected)
        if model.temporal_encoder is not None:
            temporal = [block.drop_path.p for block in model.temporal_encoder.blocks]
            assert temporal == pytest.approx([0, rate / 3, 2 * rate / 3, rate])
