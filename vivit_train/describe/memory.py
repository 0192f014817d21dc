"""The memory of a training step: parameters, gradients, optimiser state and activations."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from vivit_train.describe.counts import build, size
from vivit_train.errors import UserError
from vivit_train.launch.devices import device_memory, resolve_precision
from vivit_train.model.arguments import arguments_in
from vivit_train.model.layers import Attention
from vivit_train.model.pos_embed import Grid
from vivit_train.model.vivit import ViViT
from vivit_train.optim import freeze
from vivit_train.transforms.processor import Processor

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
# Tensors as large as the parameters that each optimiser keeps: momentum; two moments, which are
# also those of most other optimisers.
OPTIMIZER_COPIES = {"sgd": 1, "adamw": 2, "torch": 2}
# Of a device's memory; the rest is for backward's own buffers and the allocator's waste.
USABLE = 0.85


def types_of(precision: str) -> tuple[torch.dtype, torch.dtype | None]:
    """What `PRECISIONS` has for a precision, also by its short name; else that of ``32-true``."""
    return PRECISIONS.get(SHORT_PRECISIONS.get(precision, precision), PRECISIONS["32-true"])


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs on one device.

    Attributes:
        parameters: The weights.
        gradients: One for each weight that is trained.
        optimizer_state: Momentum, or moments, of the same.
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


def training_memory(
    model: ViViT, clip: Grid, batch_size: int, precision: str, optimizer: str
) -> Memory:
    """Estimates what a training step keeps in memory on one device.

    Backward's own buffers, the libraries and the allocator's waste come on top.

    Args:
        model: From ``build``; what `freeze` has frozen needs less.
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
    trained = size(model, trained=True) * dtype.itemsize
    activations = _saved_for_backward(model, (batch_size, *clip), dtype, autocast)
    return Memory(weights, trained, OPTIMIZER_COPIES[optimizer] * trained, activations)


def most_clips(config: dict[str, Any], most: int) -> int:
    """Clips in a training step for which a device of the run has memory, estimated.

    Where nothing is known of the precision, or clips have no one size, it is ``most``.

    Args:
        config: The resolved configuration.
        most: The result, at most.

    Returns:
        1 to ``most``; 1 also where not even that fits.
    """
    settings, processor = config["trainer"], Processor.from_config(config["processor"])
    precision = str(resolve_precision(settings["precision"], settings["accelerator"]))
    precision = SHORT_PRECISIONS.get(precision, precision)
    if precision not in PRECISIONS or processor.output_size is None:
        return most
    model = build(arguments_in(config["model"]) | {"num_classes": 1})
    freeze(model, config["optim"]["freeze"], config["optim"]["lora_rank"])
    clip = (config["data"]["clip_frames"], *processor.output_size)
    need = training_memory(model, clip, 1, precision, config["optim"]["name"])
    free = USABLE * device_memory(settings) - (need.total - need.activations)
    return max(1, min(most, int(free / need.activations)))


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
    sizes: dict[torch.UntypedStorage, int] = {}  # of views of one memory there is one storage

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage] = storage.nbytes()
        return tensor

    batch_size, *clip = batch
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FakeTensorMode():
        weights = {
            name: torch.empty(parameter.shape, dtype=dtype, requires_grad=parameter.requires_grad)
            for name, parameter in model.named_parameters()
        }
        clips = torch.empty(batch_size, model.arguments.num_channels, *clip, dtype=dtype)
        note(clips)
        with torch.autocast("cpu", autocast, enabled=autocast is not None), hooks:
            functional_call(model, weights, (clips,))
        for weight in weights.values():
            sizes.pop(weight.untyped_storage(), None)
    return sum(sizes.values())
