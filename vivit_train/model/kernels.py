"""Which kernel computes attention: to force one, and to know which one runs."""

import functools
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import attention as torch_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_train.errors import UserError, in_one_line
from vivit_train.model.layers import Attention, eager_attention
from vivit_train.model.vivit import ViViT

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Packages that take the place of torch's own flash kernel: torch's name for each, what to install.
FLASH_PACKAGES = {"fa3": ("FA3", "flash-attn-3"), "fa4": ("FA4", "flash-attn-4")}


def force_kernel(model: ViViT, kernel: str) -> None:
    """Has one kernel compute all attention of a model, forward and backward.

    Set on each attention layer and not around the model: activation checkpointing runs blocks
    again during the backward pass, outside of what is around the forward pass. And a compiled block
    has the choice in its graph, so the compile cache on disk keeps graphs of two kernels apart.

    Args:
        model: The model.
        kernel: ``auto`` (torch's choice), ``cudnn``, ``flash``, ``efficient``, ``math``, ``fa3`` or
            ``fa4``.

    Raises:
        UserError: If the package of ``fa3`` or ``fa4`` is missing, or the model uses no kernel.
    """
    if kernel == "auto":
        return
    layers = _layers(model)
    if any(layer.kernel is eager_attention for layer in layers):
        raise UserError(
            f"model.attention_kernel={kernel}: model.attention_implementation=eager computes the "
            "formula and uses no kernel; set it to sdpa, or model.attention_kernel=auto"
        )
    if kernel in FLASH_PACKAGES:
        _activate(kernel)
    _use(model, [BACKENDS.get(kernel, SDPBackend.FLASH_ATTENTION)])


def _activate(kernel: str) -> None:
    """Puts an installed package behind torch's operator of flash attention, for this process."""
    name, package = FLASH_PACKAGES[kernel]
    activate = getattr(torch_attention, "activate_flash_attention_impl", None)
    if activate is None:
        raise UserError(
            f"model.attention_kernel={kernel} needs torch 2.11 or newer, this is "
            f"{torch.__version__}: install it, or set model.attention_kernel=auto"
        )
    try:
        activate(name)
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"model.attention_kernel={kernel}: torch cannot use FlashAttention-{name[-1]} "
            f"({in_one_line(error)}). Install the package {package}, or set "
            "model.attention_kernel=auto"
        ) from None


def _use(model: ViViT, backends: Sequence[SDPBackend], in_order: bool = False) -> None:
    for layer in _layers(model):
        layer.kernel = functools.partial(_attend, list(backends), in_order)


def _attend(
    backends: list[SDPBackend],
    in_order: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """`F.scaled_dot_product_attention` by the first of these kernels that can."""
    with sdpa_kernel(backends, set_priority=in_order):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)


def _layers(model: ViViT) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def settle_kernel(model: ViViT, clips: Tensor, dtype: torch.dtype, kernel: str) -> str:
    """The kernels that compute a model's attention for clips of this size, asked of torch.

    ``auto`` is torch's own choice, which knows the shapes and the GPU: since torch 2.11 cuDNN first
    on Hopper and Blackwell, FlashAttention-2 on others. Only where torch would take
    FlashAttention-2 on Hopper or Blackwell although cuDNN can do the work, as older versions do,
    cuDNN is put first: a training step's attention takes 0.64 of the time there (H200). It is not
    put first everywhere, because torch restores a priority that was set to a fixed order, and not
    to the one that it found for the GPU.

    Args:
        model: In training or evaluation mode, as it will run.
        clips: ``[B, C, T, H, W]``, on the device.
        dtype: What attention is computed in.
        kernel: As for `force_kernel`, which came before.

    Returns:
        Names such as ``cudnn``; where layers differ, all of them: ``cudnn, flash``. ``unknown``
        where torch does not tell, on other devices than CPUs and GPUs of NVIDIA.

    Raises:
        UserError: If the kernel cannot compute this; with torch's reasons.
    """
    if _layers(model)[0].kernel is eager_attention:
        return "eager"
    device = clips.device
    forced = None if kernel == "auto" else BACKENDS.get(kernel, SDPBackend.FLASH_ATTENTION)
    found = []
    for call in _calls(model, clips):
        name, reasons = _choice(call, device, dtype, forced)
        if name is None and forced is not None:
            raise UserError(
                f"model.attention_kernel={kernel} cannot compute attention of {call} in "
                f"{str(dtype).removeprefix('torch.')} on this device ({device.type}): {reasons}. "
                "Set model.attention_kernel=auto"
            )
        if name == "flash" and forced is None and _is_hopper_or_blackwell(device):
            name = _choice(call, device, dtype, SDPBackend.CUDNN_ATTENTION)[0] or name
            if name == "cudnn":
                _use(model, list(BACKENDS.values()), in_order=True)
        found.append(kernel if kernel in FLASH_PACKAGES else name or "unknown")
    return ", ".join(dict.fromkeys(found))


def _is_hopper_or_blackwell(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


@dataclass(frozen=True)
class _Call:
    """A call of the attention kernel: layouts of queries and keys, and dropout."""

    q_shape: tuple[int, ...]  # [R, A, queries, d]
    q_stride: tuple[int, ...]
    k_shape: tuple[int, ...]  # [R, A, N, d]
    k_stride: tuple[int, ...]
    dropout_p: float

    def __str__(self) -> str:
        _, heads, queries, width = self.q_shape
        return f"{queries} queries x {self.k_shape[2]} keys in {heads} heads of {width}"


def _calls(model: ViViT, clips: Tensor) -> list[_Call]:
    """The different calls in a forward pass of two clips, found without computing anything."""
    with torch.device("meta"):
        twin = ViViT(**model.config).train(model.training)
    calls: list[_Call] = []

    def note(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        calls.append(_Call(tuple(q.shape), q.stride(), tuple(k.shape), k.stride(), dropout_p))
        return torch.empty_like(q)

    for layer in _layers(twin):
        layer.kernel = note
    with torch.no_grad():
        twin(torch.empty(2, *clips.shape[1:], device="meta"))
    return list(dict.fromkeys(calls))


def _choice(
    call: _Call, device: torch.device, dtype: torch.dtype, forced: SDPBackend | None
) -> tuple[str | None, str]:
    """The kernel that torch takes of all, or of a forced one alone; ``None`` with its reasons."""
    needs_grad = torch.is_grad_enabled()
    q, k = (
        torch.empty_strided(shape, stride, dtype=dtype, device=device).requires_grad_(needs_grad)
        for shape, stride in ((call.q_shape, call.q_stride), (call.k_shape, call.k_stride))
    )
    with ExitStack() as stack:
        told = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")  # torch warns of its reasons against each kernel
        if forced is not None:
            stack.enter_context(sdpa_kernel([forced]))
        reasons: list[object] = []
        try:
            choice = torch._fused_sdp_choice(q, k, k, dropout_p=call.dropout_p)
        except RuntimeError as error:
            choice, reasons = SDPBackend.ERROR.value, [error]
        reasons = [warning.message for warning in told] or reasons
    names = {backend.value: name for name, backend in BACKENDS.items()}
    return names.get(choice), " ".join(str(reason).rstrip(". ") + "." for reason in reasons)
