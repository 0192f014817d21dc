"""The original's numbers (tests/golden: Scenic in JAX, recorded) reproduced by our model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vivit_train.model.vivit import ViViT, uniform_frames

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL_1 = sorted(p.stem for p in GOLDEN.glob("*model1_*.npz"))


def build(scenic: dict, meta: dict) -> ViViT:
    """Our model for a recorded Scenic configuration."""
    model = scenic["model"]
    _, num_frames, height, width, _ = meta["input_shape"]
    encoding = model["temporal_encoding_config"]
    h, w, *t = model["patches"]["size"]  # Scenic writes (h, w, t)
    sampled = encoding.get("n_sampled_frames") if encoding["method"] != "3d_conv" else None
    return ViViT(
        num_classes=meta["num_classes"],
        pooling={"token": "cls", "gap": "mean"}[model["classifier"]],
        image_size=(height, width),
        num_frames=num_frames,
        tubelet_size=(*t, h, w) if t else (1, h, w),
        hidden_size=model["hidden_size"],
        num_layers=model["num_layers"],
        num_heads=model["num_heads"],
        mlp_size=model["mlp_dim"],
        representation_size=model["representation_size"],
        sampled_frames=sampled,
    )


def from_scenic(params: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Renames and transposes Scenic's parameters to ours."""
    leaf = {path: torch.from_numpy(value).double() for path, value in params.items()}
    attention = "MultiHeadDotProductAttention_0"

    def linear(path: str) -> dict[str, Tensor]:
        return {"weight": leaf[f"{path}/kernel"].T, "bias": leaf[f"{path}/bias"]}

    def norm(path: str) -> dict[str, Tensor]:
        return {"weight": leaf[f"{path}/scale"], "bias": leaf[f"{path}/bias"]}

    kernel = leaf["embedding/kernel"]
    kernel = kernel if kernel.ndim == 5 else kernel[None]  # [t, h, w, C, D]
    modules = {
        "embed": {"weight": kernel.permute(4, 3, 0, 1, 2), "bias": leaf["embedding/bias"]},
        "norm": norm("Transformer/encoder_norm"),
        "head": linear("output_projection"),
    }
    if "pre_logits/kernel" in leaf:
        modules["pre_logits"] = linear("pre_logits")
    layers = {int(m[1]) for path in leaf if (m := re.search(r"encoderblock_(\d+)/", path))}
    for layer in layers:
        block = f"Transformer/encoderblock_{layer}"
        qkv = [f"{block}/{attention}/{name}" for name in ("query", "key", "value")]
        modules |= {
            f"blocks.{layer}.norm1": norm(f"{block}/LayerNorm_0"),
            f"blocks.{layer}.norm2": norm(f"{block}/LayerNorm_1"),
            f"blocks.{layer}.attn.qkv": {
                "weight": torch.cat([leaf[f"{p}/kernel"].flatten(1).T for p in qkv]),
                "bias": torch.cat([leaf[f"{p}/bias"].flatten() for p in qkv]),
            },
            f"blocks.{layer}.attn.proj": {
                "weight": leaf[f"{block}/{attention}/out/kernel"].flatten(0, 1).T,
                "bias": leaf[f"{block}/{attention}/out/bias"],
            },
            f"blocks.{layer}.mlp.fc1": linear(f"{block}/MlpBlock_0/Dense_0"),
            f"blocks.{layer}.mlp.fc2": linear(f"{block}/MlpBlock_0/Dense_1"),
        }
    state = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.items()}
    state["pos_embed"] = leaf["Transformer/posembed_input/pos_embedding"]
    if "cls" in leaf:
        state["cls_token"] = leaf["cls"]
    return state


def recorded(case: str) -> tuple[ViViT, dict[str, np.ndarray]]:
    info = json.loads((GOLDEN / f"{case}.json").read_text())
    arrays = dict(np.load(GOLDEN / f"{case}.npz"))
    model = build(info["config"], info["dataset_meta_data"]).eval()
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    model.load_state_dict(from_scenic(params))
    return model, arrays


@pytest.mark.parametrize("case", MODEL_1)
def test_logits_in_float64(case: str) -> None:
    model, arrays = recorded(case)
    clips = torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)
    logits = model.double()(clips.double())
    np.testing.assert_allclose(logits.detach(), arrays["logits_f64"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("case", MODEL_1)
def test_logits_in_float32(case: str, implementation: str) -> None:
    model, arrays = recorded(case)
    state = model.state_dict()
    model = ViViT(**model.config | {"attention_implementation": implementation}).eval()
    model.load_state_dict(state)
    logits = model(torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)).detach().numpy()
    tolerance = 2e-5 * np.maximum(1, np.abs(arrays["logits"]))
    assert (np.abs(logits - arrays["logits"]) <= tolerance).all()


def test_intermediate_values() -> None:
    model, arrays = recorded("model1_spacetime_token")
    clips = torch.from_numpy(arrays["input"]).permute(0, 4, 1, 2, 3)
    tokens = model.embed(clips).detach()
    features = model.features(clips).detach()
    np.testing.assert_allclose(tokens, arrays["inter/tokens"], atol=2e-5)
    np.testing.assert_allclose(features, arrays["inter/encoder_norm"], atol=2e-5)


def test_every_recorded_model_1_is_covered() -> None:
    assert set(MODEL_1) == {
        "model1_spacetime_gap",
        "model1_spacetime_token",
        "model1_spacetime_token_temporal_sampling",
        "small_model1_token_asym",
        "small_model1_token_plain",
    }


def test_uniform_frames() -> None:
    table = json.loads((GOLDEN / "rates_and_sampling.json").read_text())["sample_frames_uniformly"]
    assert len(table) == 60
    for case, frames in table.items():
        num_frames, sampled = re.fullmatch(r"T(\d+)_n(\d+)", case).groups()
        assert uniform_frames(int(num_frames), int(sampled)) == frames, case


@pytest.mark.parametrize("layers", [12, 24])
def test_drop_path_rises_linearly(layers: int) -> None:
    table = json.loads((GOLDEN / "rates_and_sampling.json").read_text())["droplayer_p_per_layer"]
    rates = {k: v for k, v in table.items() if k.startswith(f"layers_{layers}_")}
    assert rates
    for case, expected in rates.items():
        rate = float(case.split("_")[-1])
        model = ViViT(
            num_classes=2, image_size=8, num_frames=2, tubelet_size=(2, 8, 8), hidden_size=8,
            num_layers=layers, num_heads=2, mlp_size=8, drop_path=rate,
        )  # fmt: skip
        assert [block.drop_path.p for block in model.blocks] == pytest.approx(expected)
