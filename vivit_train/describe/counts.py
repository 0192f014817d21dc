"""A model's parts, with their parameters and multiply-accumulates (MACs)."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vivit_train.model.encoder import Encoder, FactorisedBlock
from vivit_train.model.pos_embed import Grid
from vivit_train.model.vivit import ViViT


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
        Parts whose parameters and MACs add up to the model's, every block counted whole.

    Raises:
        UserError: If the clip cannot be cut into tubelets.
    """
    macs = count_macs(model, clip, whole=True)
    width = model.arguments.hidden_size
    t, h, w = model.embed.grid(*clip)
    tokens, frames, one = Tokens((t, h, w), width), Tokens((t, 1, 1), width), Tokens((1, 1, 1), 0)
    by_frame = model.attention == "factorised_encoder"
    name, rows = ("spatial encoder", t) if by_frame else ("encoder", 1)

    pixels = Tokens(clip, model.arguments.num_channels)
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


def count_macs(
    model: ViViT, clip: Grid, whole: bool = False, training: bool = False
) -> dict[str, int]:
    """Multiply-accumulates of one clip's forward pass, by the module's name; "" is the model.

    Args:
        model: From ``build``.
        clip: Frames, height and width.
        whole: Count all tokens of the last blocks, as the paper does, and not only those that
            the head reads and that are computed.
        training: Leave out the tokens that ``token_drop`` drops in a training step.

    Raises:
        UserError: If the clip cannot be cut into tubelets.
    """
    if whole:
        model = copy(model)
        model.num_queries = None
    clips = torch.empty(1, model.arguments.num_channels, *clip, device="meta")
    # As two matrix products, which every version of torch counts; nothing is computed.
    was_training = model.training
    model.train(training)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(clips)
    model.train(was_training)
    root = type(model).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
    }


def count_training_flops(model: ViViT, clip: Grid) -> int:
    """Floating-point operations of one clip's forward and backward pass, two per MAC.

    Of parts that do not train (``requires_grad`` is False) only what the others' gradients need.
    Tokens that ``token_drop`` leaves out, of parts in training mode, do not count.

    Args:
        model: From ``build``.
        clip: Frames, height and width.
    """
    clips = torch.empty(1, model.arguments.num_channels, *clip, device="meta")
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.set_detect_anomaly(False),  # it looks at values, and there are none
    ):
        model(clips).sum().backward()
    return counter.get_total_flops()


def size(module: nn.Module, trained: bool = False) -> int:
    """How many parameters a module has, or how many of them are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
