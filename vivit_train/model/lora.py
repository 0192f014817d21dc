"""LoRA: low-rank matrices that train beside frozen weights, and merging them. arXiv 2106.09685.

A module of ours and not peft: queries, keys and values are one fused projection here, the weights
keep their names, and merging is one addition, while peft wraps modules and renames their weights.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.model.layers import Attention, Mlp
from vivit_train.model.vivit import ViViT

# How the names of the two matrices end, beside the ``weight`` that they are added to.
MATRICES = ("lora_a", "lora_b")


class LoraLinear(nn.Linear):
    """A linear layer with a product of two thin matrices beside its weight.

    It computes ``x (W + B A)ᵀ + b``. B starts at zero, so a new layer computes what ``base`` does,
    to the bit. The paper's factor alpha / rank is 1 here; the paper does not tune alpha, and with
    Adam a higher learning rate does nearly the same.

    Args:
        base: The layer whose weight and bias these are.
        rank: Rows of A and columns of B.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        has_bias = base.bias is not None
        super().__init__(base.in_features, base.out_features, has_bias, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        # Uniform within 1 / sqrt(in_features) of zero, as in the authors' code.
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``."""
        low = F.linear(x, self.lora_a)  # [..., rank]
        return F.linear(x, self.weight, self.bias) + F.linear(low, self.lora_b)


def add_lora(model: ViViT, rank: int) -> None:
    """Freezes a model but for its head, and adds what trains to attention and MLP.

    Args:
        model: With its weights loaded; changed in place. Their names stay.
        rank: Of the matrices. The fused projection of queries, keys and values counts as one layer.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    parts = [part for part in model.modules() if isinstance(part, Attention | Mlp)]
    for part in parts:
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(part, name, LoraLinear(layer, rank))


def matrices(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LoRA's own tensors among those of a model."""
    return {name: tensor for name, tensor in state.items() if name.endswith(MATRICES)}


def digest(state: Mapping[str, Tensor]) -> str:
    """A checksum of tensors with their names, types and shapes: SHA-256, in hexadecimal."""
    checksum = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        checksum.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        checksum.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def merged(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Weights with LoRA's matrices added to them: those of the same model without LoRA.

    Args:
        state: Tensors by name; without such matrices the result is the same.
        origin: Where they are from, for the message.

    Returns:
        The weights in their own types, each sum computed in float32 at least.

    Raises:
        UserError: If one of a layer's three matrices is missing or does not fit the others.
    """
    result = {name: t for name, t in state.items() if not name.endswith(MATRICES)}
    for layer in sorted({name.rpartition(".")[0] for name in state.keys() - result.keys()}):
        weight, a, b = (state.get(f"{layer}.{name}") for name in ("weight", *MATRICES))
        if weight is None or a is None or b is None or not _fit(weight, a, b):
            shapes = ", ".join("none" if t is None else str(list(t.shape)) for t in (weight, a, b))
            raise UserError(
                f"{origin}: {layer}.weight, lora_a and lora_b have the shapes {shapes}, and must "
                "have [out, in], [rank, in] and [out, rank]: the file was changed or is damaged"
            )
        dtype = torch.promote_types(weight.dtype, torch.float32)
        added = b.to(dtype) @ a.to(dtype)
        result[f"{layer}.weight"] = (weight.to(dtype) + added).to(weight.dtype)
    return result


def _fit(weight: Tensor, a: Tensor, b: Tensor) -> bool:
    if not all(t.ndim == 2 and t.is_floating_point() for t in (weight, a, b)):
        return False
    return weight.shape == (b.shape[0], a.shape[1]) and a.shape[0] == b.shape[1]
