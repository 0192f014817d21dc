"""What is optimised and how: frozen parts, parameter groups, the learning rate at each step."""

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from vivit_train.config.keys import in_words
from vivit_train.config.target import named_class
from vivit_train.errors import UserError
from vivit_train.model.lora import add_lora
from vivit_train.model.vivit import ViViT

OPTIMIZERS = ("sgd", "adamw", "torch")
# `optim.freeze` for a linear probe.
ALL_BUT_HEAD = "all_but_head"
# In `optim.schedule` it stands for the number of optimiser steps of the run.
TOTAL_STEPS = "total_steps"


def build_optimizer(model: ViViT, optim: dict[str, Any]) -> Optimizer:
    """The optimiser that `optim` describes, over the parameters that are not frozen.

    Biases, norms, the class token and the positions have no weight decay: zero means nothing
    special for them.

    Args:
        model: The model to train.
        optim: ``name`` (``sgd``, ``adamw`` or ``torch``), ``lr``, ``weight_decay``,
            ``layer_decay``, and ``momentum`` (SGD, never Nesterov, as in the paper), ``betas`` and
            ``eps`` (AdamW), or ``_target_`` and ``arguments`` (``torch``: any optimiser).
            The schedule's ``warmup_epochs`` and ``min_lr_fraction`` are checked with them.

    Returns:
        The optimiser, with a parameter group per learning rate and weight decay.

    Raises:
        UserError: If a value is out of range, or the optimiser does not take it.
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
    groups = parameter_groups(model, optim["lr"], optim["weight_decay"], optim["layer_decay"])
    # One kernel for all parameters, where torch has it for both optimisers. It rounds otherwise
    # than the loop over parameters, but always alike.
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    optimizer: Optimizer
    if optim["name"] == "sgd":
        # Of shards torch has no fused SGD, only kernels over all of them for each operation.
        sharded = any(isinstance(p, DTensor) for p in parameters)
        kernels = {"foreach": True} if sharded else {"fused": fused}
        optimizer = SGD(groups, lr=optim["lr"], momentum=optim["momentum"], **kernels)
    elif optim["name"] == "torch":
        optimizer = _of_class(optim, groups)
    else:
        betas = tuple(optim["betas"])
        optimizer = AdamW(groups, lr=optim["lr"], betas=betas, eps=optim["eps"], fused=fused)
    # A fused optimiser offers to undo loss scaling itself, after which gradients cannot be
    # clipped, so Lightning refuses to clip. Declined, torch unscales first, as without fusing.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _of_class(optim: dict[str, Any], groups: list[dict[str, Any]]) -> Optimizer:
    target, arguments = optim["_target_"], optim["arguments"]
    if any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"]):
        raise UserError(
            f"optim._target_={target}: nobody knows how its state is sharded, as "
            "trainer.strategy=fsdp needs: set optim=adamw, optim=sgd or trainer.strategy=ddp"
        )
    kind: Any = named_class("optim._target_", target, Optimizer, "an optimiser")
    try:
        optimizer: Optimizer = kind(groups, lr=optim["lr"], **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"optim._target_={target} cannot be built with optim.arguments={in_words(arguments)}: "
            f"{error}"
        ) from error
    if optim["weight_decay"] and "weight_decay" not in optimizer.defaults:
        raise UserError(f"optim._target_={target} has no weight decay: set optim.weight_decay=0")
    return optimizer


def schedule_of_class(
    settings: Mapping[str, Any], optimizer: Optimizer, total_steps: int
) -> LRScheduler:
    """The schedule that `optim.schedule` describes, to be stepped after each optimiser step.

    Args:
        settings: ``_target_`` and the arguments of the class, of which those that are the word
            ``total_steps`` become that number.
        optimizer: What it steers.
        total_steps: Optimiser steps of the whole run.

    Raises:
        UserError: If it cannot be built, follows a score, or ends before the run.
    """
    target = settings["_target_"]
    kind: Any = named_class("optim.schedule._target_", target, LRScheduler, "a schedule")
    if issubclass(kind, ReduceLROnPlateau):
        raise UserError(
            f"optim.schedule._target_={target} follows a score, and a schedule is a function of "
            "the step here: take another. callbacks.patience_steps ends a run that stalls"
        )
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
    numbers = {n: total_steps if v == TOTAL_STEPS else v for n, v in arguments.items()}
    way_on = f"{TOTAL_STEPS} as a value stands for the steps of the whole run, {total_steps}"
    try:
        schedule: LRScheduler = kind(optimizer, **numbers)
    except Exception as error:  # of torch's class, or the user's
        raise UserError(
            f"optim.schedule: {target} cannot be built with {in_words(arguments)}: {error}. It is "
            f"stepped after each optimiser step, not after each epoch; {way_on}"
        ) from error
    ends = getattr(schedule, "total_steps", total_steps)  # OneCycleLR's, after which it fails
    if ends < total_steps:
        raise UserError(
            f"optim.schedule: {target} ends before the run, after {ends} steps; {way_on}"
        )
    return schedule


def parameter_groups(
    model: ViViT, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """The parameters that train, by layer and by whether they decay.

    Args:
        model: The model to train.
        lr: Learning rate of the head.
        weight_decay: Of the matrices.
        layer_decay: Factor on the learning rate from each layer to the one below it, in (0, 1]
            (BEiT, arXiv 2106.08254); 1 gives all layers the same.

    Returns:
        Groups for ``torch.optim``, from the input up, in each layer first what decays.

    Raises:
        UserError: If ``layer_decay`` is out of range.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(
            "optim.layer_decay is the factor on the learning rate from each layer to the one below "
            f"it, above 0 and at most 1 (off), got {layer_decay}"
        )
    layers = layers_of(model)
    top = max(layers.values())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1 and not name.endswith(("cls_token", "pos_embed"))
            scale = layer_decay ** (top - layers[name])
            groups.setdefault((scale, is_matrix), []).append(parameter)
    return [
        {
            "params": groups[scale, is_matrix],
            "lr": lr * scale,
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for scale, is_matrix in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]


def layers_of(model: ViViT) -> dict[str, int]:
    """The layer of each parameter, counted from the input as timm and BEiT do.

    Tubelets, class token and positions are layer 0, block i is layer i + 1, and the head is above
    the last block. Model 2's temporal encoder comes above the spatial one; its class token and
    positions belong to its first block. An encoder's last norm belongs to its last block.
    """
    depths = [len(encoder.blocks) for encoder in model.encoders]
    layers = {}
    for name, _ in model.named_parameters():
        temporal, block = name.startswith("temporal_encoder."), re.search(r"blocks\.(\d+)\.", name)
        below = depths[0] if temporal else 0
        if block:
            layers[name] = below + int(block[1]) + 1
        elif "encoder.norm." in name:
            layers[name] = sum(depths) if temporal else depths[0]
        elif name.endswith(("cls_token", "pos_embed")):
            layers[name] = below + temporal
        else:
            layers[name] = 0 if name.startswith("embed.") else sum(depths) + 1
    return layers


def freeze(
    model: ViViT, what: str | Sequence[str] | None, lora_rank: int | None = None
) -> list[nn.Module]:
    """Stops the training of parts of a model.

    Args:
        model: The model; its frozen parameters need no gradient any more.
        what: ``all_but_head`` (a linear probe), patterns of parameters' names such as
            ``embed.*`` or ``encoder.blocks.[0-5].*``, or ``None`` for nothing.
        lora_rank: Freeze all but the head and add LoRA's matrices, see `add_lora`; ``None``: none.

    Returns:
        The modules that are frozen as a whole. They are to stay in evaluation mode, without
        dropout.

    Raises:
        UserError: If a pattern matches no parameter, nothing is left to train, or both ways of
            freezing are asked for.
    """
    if lora_rank is not None:
        if what is not None:
            raise UserError(
                f"optim.lora_rank={lora_rank} freezes all but the head and its own matrices, and "
                f"optim.freeze={what} says otherwise: leave one of them null"
            )
        add_lora(model, lora_rank)
    names = [name for name, _ in model.named_parameters()]
    if what == ALL_BUT_HEAD:
        frozen = {name for name in names if not name.startswith("head.")}
    else:
        patterns = [what] if isinstance(what, str) else list(what or ())
        frozen = set()
        for pattern in patterns:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise UserError(
                    f"optim.freeze: no parameter's name matches {pattern!r}; give {ALL_BUT_HEAD} "
                    f"or patterns such as embed.*, {names[0]} or encoder.blocks.0.*"
                )
            frozen.update(matched)
    if len(frozen) == len(names):
        raise UserError(f"optim.freeze={what} leaves nothing to train")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return [part for part in model.modules() if is_frozen(part)]


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, and none of them trains."""
    trains = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trains) and not any(trains)


def scaled_lr(lr: float, lr_batch_size: int, clips_per_step: int) -> float:
    """The learning rate for the clips of an optimiser step.

    The linear scaling rule (arXiv 1706.02677): as many times the rate as times the clips.

    Args:
        lr: The rate for ``lr_batch_size`` clips.
        lr_batch_size: Clips per optimiser step that ``lr`` is meant for.
        clips_per_step: Clips of all processes and accumulated batches in a step of this run.

    Raises:
        UserError: If ``lr_batch_size`` is not positive.
    """
    if lr_batch_size < 1:
        raise UserError(
            "optim.lr_batch_size is the number of clips per optimiser step that optim.lr is meant "
            f"for, 1 or more, or null; got {lr_batch_size}"
        )
    return lr * clips_per_step / lr_batch_size


def hyper_parameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What each parameter group says apart from its parameters: rates, decay, momentum.

    Of other optimisers than our two only the rates and the decay: some count steps in the group.
    """
    always = ("lr", "initial_lr", "weight_decay")
    return [
        {
            name: value
            for name, value in group.items()
            if name in always or (is_ours(optimizer) and name != "params")
        }
        for group in optimizer.param_groups
    ]


def is_ours(optimizer: Optimizer) -> bool:
    """Whether it is ``optim=sgd`` or ``adamw``, of which it is known what the state means."""
    return type(optimizer) in (SGD, AdamW)


def check_restored(schedule: LRScheduler) -> None:
    """Refuses what torch takes from a checkpoint unseen, and fails over in the next step.

    Raises:
        UserError: If a rate or a step is no number, or an average is not of its parameter's shape.
    """
    optimizer = schedule.optimizer
    numbers = [schedule.last_epoch, *(group.get("lr") for group in optimizer.param_groups)]
    fits = all(isinstance(number, int | float) for number in numbers) and all(
        isinstance(parameter, Tensor) and _fits(state, parameter, isinstance(optimizer, AdamW))
        for parameter, state in (optimizer.state.items() if is_ours(optimizer) else ())
    )
    if not fits:
        raise UserError(
            "the optimiser's state in the checkpoint does not fit this model's parameters: the "
            "file was changed or is damaged. Resume from previous.ckpt, or start a new run from "
            "its weights with model.pretrained"
        )


def _fits(state: Any, parameter: Tensor, is_adamw: bool) -> bool:
    """Whether an optimiser can go on with its state of a parameter."""
    shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
    needed = shapes.keys() if is_adamw else set()
    if not isinstance(state, dict) or not needed <= state.keys():
        return False
    return all(
        (value is None and name not in needed)  # SGD has no momentum yet
        or (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.shape == shapes.get(name, parameter.shape)
        )
        for name, value in state.items()
    )


def set_hyper_parameters(schedule: LambdaLR, given: Sequence[dict[str, Any]]) -> None:
    """Sets the hyper-parameters of an optimiser anew, where a checkpoint has replaced them.

    The learning rate becomes that of the schedule at the step where it stands.

    Args:
        schedule: The optimiser's, which is set to the new base rates as well.
        given: As `hyper_parameters` gave them for the new optimiser.
    """
    schedule.base_lrs = [values["initial_lr"] for values in given]
    for group, values, factor in zip(schedule.optimizer.param_groups, given, schedule.lr_lambdas):
        group.update(values, lr=values["initial_lr"] * factor(schedule.last_epoch))


def warmup_cosine(
    step: int, total_steps: int, warmup_steps: float, min_fraction: float = 0.0
) -> float:
    """Factor on the base learning rate at an optimiser step.

    Scenic's schedule (``compound_lr_scheduler``): linear from 0 over the warm-up,
    times a half cosine from 1 to the floor over the rest. The very first step has learning rate 0
    if there is a warm-up.

    Args:
        step: Optimiser steps done, from 0.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps of warm-up; may be fractional, and less than ``total_steps``.
        min_fraction: The floor in [0, 1], which Scenic calls alpha.

    Returns:
        A factor in [0, 1].
    """
    warmup = min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0
    decay_steps = total_steps - int(warmup_steps)
    progress = max(0.0, step - warmup_steps) / decay_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warmup * ((1 - min_fraction) * cosine + min_fraction)
