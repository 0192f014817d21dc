"""Optimisers and the learning-rate schedule, per step."""

import math
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vivit_train.errors import UserError

OPTIMIZERS = ("sgd", "adamw")


def build_optimizer(model: nn.Module, optim: dict[str, Any]) -> Optimizer:
    """The optimiser that `optim` describes.

    Weight decay spares biases, norms, the class token and the positions: everything whose decay
    would pull it towards a value without meaning.

    Args:
        model: The model to train.
        optim: ``name`` (``sgd`` or ``adamw``), ``lr``, ``weight_decay``, and ``momentum``
            (SGD, never Nesterov, as in the paper) or ``betas`` and ``eps`` (AdamW). The
            schedule's ``warmup_epochs`` and ``min_lr_fraction`` are checked with them.

    Raises:
        UserError: If a value is out of range.
    """
    if optim["name"] not in OPTIMIZERS:
        raise UserError(f"optim.name={optim['name']!r} is not one of {', '.join(OPTIMIZERS)}")
    for key in ("lr", "weight_decay", "warmup_epochs"):
        if optim[key] < 0:
            raise UserError(f"optim.{key} must be 0 or more, got {optim[key]}")
    if not 0 <= optim["min_lr_fraction"] <= 1:
        raise UserError(
            "optim.min_lr_fraction is the share of optim.lr at which training ends, between 0 "
            f"and 1, got {optim['min_lr_fraction']}"
        )
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.endswith(("cls_token", "pos_embed"))
        (decayed if is_matrix else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": optim["weight_decay"]},
        {"params": spared, "weight_decay": 0.0},
    ]
    if optim["name"] == "sgd":
        return SGD(groups, lr=optim["lr"], momentum=optim["momentum"])
    return AdamW(groups, lr=optim["lr"], betas=tuple(optim["betas"]), eps=optim["eps"])


def warmup_cosine(
    step: int, total_steps: int, warmup_steps: float, min_fraction: float = 0.0
) -> float:
    """Factor on the base learning rate at an optimiser step.

    The original's schedule (Scenic ``compound_lr_scheduler``): linear from 0 over the warm-up,
    times a half cosine from 1 to the floor over the rest. The very first step has learning rate 0
    if there is a warm-up.

    Args:
        step: Optimiser steps done, from 0.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps of warm-up; may be fractional, and less than ``total_steps``.
        min_fraction: The floor in [0, 1], which the original calls alpha.

    Returns:
        A factor in [0, 1].
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0
    decay_steps = total_steps - int(warmup_steps)
    progress = max(0.0, step - warmup_steps) / decay_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warmup * ((1 - min_fraction) * cosine + min_fraction)
