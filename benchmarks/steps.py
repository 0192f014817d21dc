"""What is measured: a training step or a prediction, of our model and of Hugging Face's."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from measure import PRECISIONS, Arguments, in_fresh_process, peak_memory
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from vivit_train.describe import build, count_macs
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import load_weights, read_weights
from vivit_train.optim import build_optimizer

ORIGINS = ("vivit_train", "huggingface")
PHASES = ("training", "inference")
FORMS = ("eager", "compiled")
# ViViT's arguments.
SIZES: dict[str, dict[str, Any]] = {
    "b": {
        "num_classes": 400,
        "image_size": 224,
        "num_frames": 32,
        "tubelet_size": [2, 16, 16],
        "hidden_size": 768,
        "num_layers": 12,
        "num_heads": 12,
        "mlp_size": 3072,
    },
    "tiny": {
        "num_classes": 5,
        "image_size": 32,
        "num_frames": 4,
        "tubelet_size": [2, 16, 16],
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_size": 64,
    },
}
FULL_DEPTH = {size["hidden_size"]: size["num_layers"] for size in SIZES.values()}
OPTIM = Path(__file__).parents[1] / "configs" / "optim" / "adamw.yaml"


class Variant(NamedTuple):
    """One thing that is measured beside others; ``attention`` is sdpa or eager."""

    origin: str
    phase: str
    precision: str
    batch: int
    form: str = "eager"
    attention: str = "sdpa"


def add_size(parser: Arguments) -> None:
    """Declares what is measured: which ViViT, how much of it, how exact fp32 is."""
    parser.add_argument("--model", choices=SIZES, default="b")
    parser.add_argument("--layers", type=int, help="blocks, in place of the model's own")
    parser.add_argument("--tf32", action="store_true", help="fp32 products in TF32 on a GPU")


def add_kinds(parser: Arguments) -> None:
    """Declares in which precisions, and if training, inference or both."""
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))


def size_of(name: str, layers: int | None) -> dict[str, Any]:
    """ViViT's arguments of a name in ``SIZES``, with another depth if one is given."""
    return SIZES[name] | ({"num_layers": layers} if layers else {})


def describe(size: dict[str, Any]) -> str:
    """A size in words."""
    side, layers = size["image_size"], size["num_layers"]
    plural = "s" if layers > 1 else ""
    return f"{size['num_frames']}x{side}x{side}, {layers} layer{plural} of {size['hidden_size']}"


def is_cut(size: dict[str, Any]) -> bool:
    """Whether blocks are missing, for which those that are there stand."""
    return size["num_layers"] < FULL_DEPTH[size["hidden_size"]]


def build_ours(size: dict[str, Any]) -> ViViT:
    """A ViViT. One that is cut computes its last block whole, which the full model need not."""
    model = ViViT(**size)
    if is_cut(size):
        model.num_queries = None
    return model


def build_huggingface(size: dict[str, Any], attention: str) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    config: dict[str, Any] = {
        "image_size": size["image_size"],
        "num_frames": size["num_frames"],
        "tubelet_size": size["tubelet_size"],
        "hidden_size": size["hidden_size"],
        "num_hidden_layers": size["num_layers"],
        "num_attention_heads": size["num_heads"],
        "intermediate_size": size["mlp_size"],
        "num_labels": size["num_classes"],
        "attn_implementation": attention,
    }
    return VivitForVideoClassification(VivitConfig(**config))


def build_alike(
    size: dict[str, Any], kinds: Iterable[tuple[str, str]], device: str
) -> tuple[dict[tuple[str, str], nn.Module], float]:
    """Models with the same random weights, and how far their logits differ, relatively.

    Args:
        size: ViViT's arguments.
        kinds: (origin, attention) of each model.
        device: Where they go.
    """
    torch.manual_seed(0)
    source = build_huggingface(size, "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        source.save_pretrained(folder)  # type: ignore[operator]
        weights = read_weights(folder)
    expected = predict(source.to(device), random_clips("huggingface", size, 1, device))
    models, differences = {}, []
    for origin, attention in kinds:
        model: nn.Module
        if origin == "vivit_train":
            model = build_ours(weights.model | {"attention_implementation": attention})
            load_weights(model, weights)
        else:
            model = build_huggingface(size, attention)
            model.load_state_dict(source.state_dict())
        models[origin, attention] = model.to(device)
        logits = predict(model, random_clips(origin, size, 1, device))
        differences.append(((logits - expected).abs().max() / expected.abs().max()).item())
    # A NaN comes first, whatever its place.
    return models, max(differences, key=lambda difference: (difference != difference, difference))


def random_clips(origin: str, size: dict[str, Any], batch: int, device: str) -> Tensor:
    """The same clips for both, each in the order of axes that the origin asks for."""
    side = size["image_size"]
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(batch, 3, size["num_frames"], side, side, generator=generator) * 2 - 1
    clips = clips if origin == "vivit_train" else clips.transpose(1, 2).contiguous()
    return clips.to(device)


@torch.inference_mode()
def predict(model: nn.Module, clips: Tensor) -> Tensor:
    return logits_of(model.eval()(clips))


def logits_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def compiled(model: nn.Module) -> nn.Module:
    """Ours as ``model.compile=true`` does it, block by block; Hugging Face's as a whole."""
    if not isinstance(model, ViViT):
        return torch.compile(model)  # type: ignore[return-value]
    model.compile_blocks()
    return model


def make_step(
    model: nn.Module, clips: Tensor, phase: str, precision: str, largest_norm: float | None = None
) -> Callable[[], None]:
    """What is timed: forward, loss, backward and AdamW; or one prediction. bf16 is autocast.

    Args:
        model: Ours or Hugging Face's.
        clips: As the model takes them.
        phase: One of ``PHASES``.
        precision: One of ``PRECISIONS``.
        largest_norm: To which the gradient is clipped; ``None``: it is not.
    """
    device = clips.device.type

    def forward() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return logits_of(model(clips))

    def infer() -> None:
        model.eval()
        with torch.inference_mode():
            forward()

    def train() -> None:
        model.train()
        F.cross_entropy(forward().float(), labels).backward()
        if largest_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
        optimizer.step()
        optimizer.zero_grad()

    if phase == "inference":
        return infer
    labels = torch.zeros(len(clips), dtype=torch.int64, device=device)
    optimizer = make_optimizer(model)
    return train


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as each does it by default: ours as the product, theirs as ``Trainer``. Both fused."""
    if isinstance(model, ViViT):
        optim = OmegaConf.to_container(OmegaConf.load(OPTIM))
        assert isinstance(optim, dict)
        return build_optimizer(model, optim)  # type: ignore[arg-type]
    # transformers 5: optim="adamw_torch_fused" from torch 2.8 on, no weight decay.
    return torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)


def flops(size: dict[str, Any], phase: str, batch: int, origin: str = ORIGINS[0]) -> float:
    """Operations of a step; backward is two matrix products for each one of forward.

    A training step's are those of the tokens that are left, where it leaves some out.
    """
    side = size["image_size"]
    trains = phase == "training"
    whole = origin == "huggingface" or is_cut(size)
    macs = count_macs(build(size), (size["num_frames"], side, side), whole, trains)[""]
    return 2.0 * macs * batch * (3 if trains else 1)


def memory(variant: Variant, size: dict[str, Any], device: str) -> dict[str, Any] | None:
    """`measure.peak_memory` of a variant, in a fresh process."""
    return in_fresh_process(_memory, variant, size, device)


def _memory(variant: Variant, size: dict[str, Any], device: str) -> dict[str, Any]:
    is_theirs = variant.origin == "huggingface"
    if is_theirs:
        build_huggingface(SIZES["tiny"], "sdpa")  # transformers loads lazily

    def prepare() -> Callable[[], None]:
        model: nn.Module
        if is_theirs:
            model = build_huggingface(size, variant.attention)
        else:
            model = build_ours(size | {"attention_implementation": variant.attention})
        model = model.to(device)
        model = compiled(model) if variant.form == "compiled" else model
        clips = random_clips(variant.origin, size, variant.batch, device)
        return make_step(model, clips, variant.phase, variant.precision)

    return peak_memory(prepare, device, warmups=int(variant.phase == "training"))


def sdpa_backend(size: dict[str, Any], precision: str, device: str) -> str:
    """Which of torch's kernels runs fused attention of this size."""
    t, h, w = size["tubelet_size"]
    side = size["image_size"]
    tokens = 1 + size["num_frames"] // t * (side // h) * (side // w)
    width = size["hidden_size"] // size["num_heads"]
    shape = (1, size["num_heads"], tokens, width)
    q = torch.empty(shape, dtype=PRECISIONS[precision], device=device)
    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name.lower()
