"""What a ViViT is made of and what it costs, counted without weights, clips or a device.

Compute is in multiply-accumulates (MACs) of the matrix products, which is what the paper's "FLOPs"
are. Memory is in bytes. Sizes are (t, h, w), as in `vivit_train.model.vivit`.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vivit_train.errors import UserError
from vivit_train.model.encoder import Encoder, FactorisedBlock
from vivit_train.model.layers import Attention
from vivit_train.model.pos_embed import Grid
from vivit_train.model.vivit import ViViT

# Lightning's names -> (type of parameters, gradients and optimiser state; autocast's type or None).
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16-true": (torch.bfloat16, None),
    "16-mixed": (torch.float32, torch.float16),
    "16-true": (torch.float16, None),
    "64-true": (torch.float64, None),
}
# Lightning's short ones.
SHORT_PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
# Tensors as large as the parameters that each optimiser keeps: momentum; two moments.
OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2}


@dataclass(frozen=True)
class Tokens:
    """What goes into a part or comes out of it.

    Attributes:
        grid: Tokens along (t, h, w); of a clip, its frames and pixels.
        width: Numbers per token.
        class_tokens: Class tokens besides the grid.
    """

    grid: Grid
    width: int
    class_tokens: int = 0

    def __str__(self) -> str:
        extra = f"+{self.class_tokens}" if self.class_tokens else ""
        return f"[{','.join(map(str, self.grid))}]{extra} {self.width}"


@dataclass(frozen=True)
class Part:
    """A part of the model, or all blocks of an encoder together.

    Attributes:
        name: In words.
        inputs: Tokens in, for one clip.
        outputs: Tokens out.
        parameters: Of all repeats.
        macs: For one clip, of all repeats.
        repeats: How many there are of it.
        parts: What it consists of, adding up to it.
    """

    name: str
    inputs: Tokens
    outputs: Tokens
    parameters: int
    macs: int
    repeats: int = 1
    parts: "tuple[Part, ...]" = ()


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs on one device.

    Attributes:
        parameters: The weights.
        gradients: One for each weight.
        optimizer_state: Momentum, or moments.
        activations: The clips and what forward keeps for backward; with autocast its copies of the
            weights too.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        """All of them: they are in memory together when forward ends."""
        return self.parameters + self.gradients + self.optimizer_state + self.activations


@dataclass(frozen=True)
class PaperRow:
    """A model of the paper and what the paper says about it.

    Attributes:
        attention: As ViViT's argument; likewise up to ``temporal_layers``.
        macs: Multiply-accumulates per view.
        parameters: Weights, where the paper says how many.
        source: Where it says so.
    """

    attention: str
    hidden_size: int
    num_layers: int
    tubelet_size: Grid
    num_frames: int
    image_size: int
    temporal_layers: int | None
    macs: float
    parameters: float | None
    source: str

    def arguments(self) -> dict[str, Any]:
        """Arguments of ViViT that make the paper's model; other widths follow from D."""
        heads, mlp_size = {768: 12, 1024: 16, 1280: 16}[self.hidden_size], 4 * self.hidden_size
        is_encoder = self.attention == "factorised_encoder"
        has_class_token = self.attention in ("spatio_temporal", "factorised_encoder")
        return {
            "attention": self.attention,
            "pooling": "cls" if has_class_token else "mean",
            "image_size": self.image_size,
            "num_frames": self.num_frames,
            "tubelet_size": list(self.tubelet_size),
            "num_channels": 3,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": heads,
            "mlp_size": mlp_size,
            "temporal_layers": self.temporal_layers,
            "temporal_heads": heads if is_encoder else None,
            "temporal_mlp_size": mlp_size if is_encoder else None,
            "qkv_bias": True,
            "representation_size": None,
            "sampled_frames": None,
        }


_JOINT, _ENCODER = "spatio_temporal", "factorised_encoder"
_SELF, _DOT = "factorised_self_attention", "factorised_dot_product"
_T2, _T5, _T6A = "paper, Table 2", "paper, Table 5", "paper, Table 6a"
_P16, _P14 = (2, 16, 16), (2, 14, 14)
# arXiv 2103.15691v2. Table 6a gives sums over views: 11.94 T of 1x3, and 47.77 T of 4x3.
PAPER = (
    PaperRow(_JOINT, 768, 12, _P16, 32, 224, None, 455.2e9, 88.9e6, _T2),
    PaperRow(_ENCODER, 768, 12, _P16, 32, 224, 4, 284.4e9, 115.1e6, _T2),
    PaperRow(_ENCODER, 768, 12, _P16, 32, 224, 0, 283.9e9, 86.7e6, _T2),
    PaperRow(_SELF, 768, 12, _P16, 32, 224, None, 372.3e9, 117.3e6, _T2),
    PaperRow(_DOT, 768, 12, _P16, 32, 224, None, 277.1e9, 88.9e6, _T2),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 224, None, 1446e9, None, _T5),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 288, None, 2919e9, None, _T5),
    PaperRow(_JOINT, 1024, 24, _P16, 32, 320, None, 3992e9, None, _T5),
    PaperRow(_ENCODER, 1024, 24, _P16, 32, 224, 4, 995.3e9, None, "paper, section 4.2"),
    PaperRow(_ENCODER, 1024, 24, _P16, 128, 224, 4, 3980.4e9, None, _T6A),
    PaperRow(_JOINT, 1280, 32, _P14, 32, 224, None, 47.77e12 / 12, None, _T6A),
)


@dataclass(frozen=True)
class Description:
    """A model, what it computes and what training it takes.

    Attributes:
        model: ViViT's arguments, with what ``None`` stands for.
        clip: Frames, height and width of a clip.
        parts: In order.
        tokens: N, of one clip, without class tokens.
        parameters: Of the model.
        macs: Multiply-accumulates per view.
        views: Temporal and spatial views per video.
        batch_size: Clips per training step.
        precision: Of training, as Lightning calls it.
        optimizer: Of training.
        memory: Of a training step.
        paper: What the paper says about this model, if anything.
    """

    model: dict[str, Any]
    clip: Grid
    parts: list[Part]
    tokens: int
    parameters: int
    macs: int
    views: tuple[int, int]
    batch_size: int
    precision: str
    optimizer: str
    memory: Memory
    paper: PaperRow | None

    @property
    def macs_per_video(self) -> int:
        """Multiply-accumulates of all views of a video."""
        return self.macs * math.prod(self.views)

    def paper_differences(self) -> dict[str, float]:
        """By how many percent our count is above the paper's: ``macs``, ``parameters``."""
        theirs = {name: getattr(self.paper, name, None) for name in ("macs", "parameters")}
        return {name: 100 * (getattr(self, name) / x - 1) for name, x in theirs.items() if x}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        plain = asdict(self) | {"macs_per_video": self.macs_per_video}
        plain["memory"]["total"] = self.memory.total
        if self.paper is not None:
            plain["paper"]["differences_percent"] = self.paper_differences()
        return plain


def describe(
    arguments: Mapping[str, Any],
    clip: Grid,
    views: tuple[int, int] = (4, 3),
    batch_size: int = 1,
    precision: str = "32-true",
    optimizer: str = "sgd",
) -> Description:
    """Describes a ViViT without making its weights.

    Args:
        arguments: As for ``build``.
        clip: Frames, height and width of a clip.
        views: Temporal and spatial views per video.
        batch_size: Clips per training step on one device.
        precision: One of ``PRECISIONS``.
        optimizer: ``sgd`` (with momentum) or ``adamw``.

    Raises:
        UserError: If a value is wrong.
    """
    model = build(arguments)
    found = parts(model, clip)
    return Description(
        model=model.config,
        clip=clip,
        parts=found,
        tokens=math.prod(found[0].outputs.grid),
        parameters=sum(part.parameters for part in found),
        macs=sum(part.macs for part in found),
        views=views,
        batch_size=batch_size,
        precision=precision,
        optimizer=optimizer,
        memory=training_memory(model, clip, batch_size, precision, optimizer),
        paper=paper_row(model, clip),
    )


def paper_row(model: ViViT, clip: Grid) -> PaperRow | None:
    """What the paper says about this model on clips of this size; ``None`` if it is not there.

    The number of classes is not compared: the paper counts without saying for which data set.

    Args:
        model: Any ViViT.
        clip: Frames, height and width of its clips.
    """
    for row in PAPER:
        is_native = clip == (row.num_frames, row.image_size, row.image_size)
        if is_native and all(model.config[k] == value for k, value in row.arguments().items()):
            return row
    return None


def build(arguments: Mapping[str, Any]) -> ViViT:
    """A ViViT without weights, on the meta device.

    Raises:
        UserError: If an argument is wrong.
    """
    with torch.device("meta"):
        return ViViT(**arguments)


def parts(model: ViViT, clip: Grid) -> list[Part]:
    """The model's parts, in order.

    Args:
        model: From ``build``.
        clip: Frames, height and width of its clips; positions are interpolated to other sizes
            than the native one.

    Returns:
        Parts whose parameters and MACs add up to the model's.

    Raises:
        UserError: If the clip cannot be cut into tubelets.
    """
    macs = count_macs(model, clip)
    config = model.config
    width = config["hidden_size"]
    t, h, w = model.embed.grid(*clip)
    tokens, frames, one = Tokens((t, h, w), width), Tokens((t, 1, 1), width), Tokens((1, 1, 1), 0)
    by_frame = model.attention == "factorised_encoder"
    name, rows = ("spatial encoder", t) if by_frame else ("encoder", 1)

    pixels = Tokens(clip, config["num_channels"])
    found = [Part("tubelet embedding", pixels, tokens, size(model.embed), macs["embed"])]
    found.append(_encoder(name, "encoder", model.encoder, tokens, rows, macs))
    if model.temporal_encoder is not None:
        temporal = model.temporal_encoder
        found.append(_encoder("temporal encoder", "temporal_encoder", temporal, frames, 1, macs))
    pooled = replace(one, width=width)
    if model.pre_logits is not None:
        wide = replace(one, width=model.pre_logits.out_features)
        layer = model.pre_logits
        found.append(Part("pre-logits", pooled, wide, size(layer), macs["pre_logits"]))
        pooled = wide
    logits = replace(one, width=model.num_classes)
    return [*found, Part("head", pooled, logits, size(model.head), macs["head"])]


def count_macs(model: ViViT, clip: Grid) -> dict[str, int]:
    """Multiply-accumulates of one clip's forward pass, by the module's name; "" is the model.

    Args:
        model: From ``build``.
        clip: Frames, height and width.

    Raises:
        UserError: If the clip cannot be cut into tubelets.
    """
    clips = torch.empty(1, model.config["num_channels"], *clip, device="meta")
    # As two matrix products, which every version of torch counts; nothing is computed.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(clips)
    root = type(model).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
    }


def size(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def training_memory(
    model: ViViT, clip: Grid, batch_size: int, precision: str, optimizer: str
) -> Memory:
    """Estimates what a training step keeps in memory on one device.

    Backward's own buffers, the libraries and the allocator's waste come on top.

    Args:
        model: From ``build``.
        clip: Frames, height and width.
        batch_size: Clips per step.
        precision: One of ``PRECISIONS``.
        optimizer: ``sgd`` (with momentum) or ``adamw``.

    Raises:
        UserError: If precision or optimiser is another.
    """
    precision = SHORT_PRECISIONS.get(precision, precision)
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision={precision}: memory is known for {', '.join(PRECISIONS)}; "
            "use one of them"
        )
    if optimizer not in OPTIMIZER_COPIES:
        raise UserError(f"optim.name={optimizer!r} is not one of {', '.join(OPTIMIZER_COPIES)}")
    dtype, autocast = PRECISIONS[precision]
    weights = size(model) * dtype.itemsize
    activations = _saved_for_backward(model, (batch_size, *clip), dtype, autocast)
    return Memory(weights, weights, OPTIMIZER_COPIES[optimizer] * weights, activations)


def _saved_for_backward(
    model: ViViT, batch: Sequence[int], dtype: torch.dtype, autocast: torch.dtype | None
) -> int:
    """Bytes of a batch (B, T, H, W) and of what its forward pass keeps: each memory once.

    On fake tensors of a CPU, where fused attention is what a step would use; on the meta device it
    is not. A GPU's fused kernel drops attention weights too, a CPU's does not: counted as on a GPU.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, Attention) and module.kernel is F.scaled_dot_product_attention:
            module.attention_dropout = 0.0
    sizes: dict[int, int] = {}
    kept: list[Any] = []  # a freed memory's number might be another's later

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.append(storage)
        sizes.setdefault(storage._cdata, storage.nbytes())
        return tensor

    batch_size, *clip = batch
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FakeTensorMode():
        weights = {
            name: torch.empty(parameter.shape, dtype=dtype, requires_grad=True)
            for name, parameter in model.named_parameters()
        }
        clips = torch.empty(batch_size, model.config["num_channels"], *clip, dtype=dtype)
        note(clips)
        with torch.autocast("cpu", autocast, enabled=autocast is not None), hooks:
            functional_call(model, weights, (clips,))
        for weight in weights.values():
            sizes.pop(weight.untyped_storage()._cdata, None)
    return sum(sizes.values())


def _encoder(
    name: str, path: str, encoder: Encoder, inputs: Tokens, rows: int, macs: Mapping[str, int]
) -> Part:
    """Positions, blocks and last norm of an encoder that has ``rows`` sequences per clip."""
    tokens = replace(inputs, class_tokens=rows * encoder.num_prefix)
    what = "class, positions" if encoder.num_prefix else "positions"
    added = sum(p.numel() for p in (encoder.cls_token, encoder.pos_embed) if p is not None)
    blocks = encoder.blocks
    branches = []
    for label, norm, module in _branches(blocks[0]):
        parameters = sum(size(getattr(b, norm)) + size(getattr(b, module)) for b in blocks)
        work = sum(macs[f"{path}.blocks.{i}.{module}"] for i in range(len(blocks)))
        branches.append(Part(label, tokens, tokens, parameters, work, len(blocks)))
    inside = (
        Part(what, inputs, tokens, added, 0),
        Part("blocks", tokens, tokens, size(blocks), macs[path], len(blocks), tuple(branches)),
        Part("norm", tokens, tokens, size(encoder.norm), 0),
    )
    return Part(name, inputs, tokens, size(encoder), macs[path], parts=inside)


def _branches(block: nn.Module) -> list[tuple[str, str, str]]:
    """A block's branches in order: (in words, its norm, its module)."""
    mlp = ("MLP", "norm2", "mlp")
    if not isinstance(block, FactorisedBlock):
        return [("attention", "norm1", "attn"), mlp]
    over = {
        "time": ("time attention", "temporal_norm", "temporal_attn"),
        "space": ("space attention", "norm1", "attn"),
    }
    return [*(over[axis] for axis in block.attention_order.split("_")), mlp]
