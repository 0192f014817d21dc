"""Training that fits itself to the set: each `auto` of the configuration becomes a number."""

import copy
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vivit_train.config import check_schedule
from vivit_train.config.keys import AUTO
from vivit_train.errors import UserError
from vivit_train.launch import is_rank_zero
from vivit_train.terminal import say

if TYPE_CHECKING:
    from vivit_train.data.datamodule import VideoDataModule

# Clips per optimiser step; below it the gradient is mostly noise.
CLIPS_PER_STEP = 16
# A run is `EPOCHS` long, or so many steps where that is longer.
EPOCHS, LEAST_STEPS = 30, 500
# Of the steps, for the warm-up of the learning rate.
WARMUP_SHARE = 0.1
# AdamW's rate for a model of this width.
LR, WIDTH = 5e-4, 768
# Steps that the average of the weights looks back over: a share of all, and the most.
AVERAGED_SHARE, MOST_AVERAGED = 0.1, 100
# What stands for `auto` where the set does not matter.
WITHOUT_SET = {"batch_size": 8, "horizontal_flip": 0.5}


class TrainingSet(NamedTuple):
    """What the values follow from.

    Attributes:
        clips: Training videos.
        class_names: The classes.
        processes: Processes that train together.
    """

    clips: int
    class_names: list[str]
    processes: int = 1


def fit_to_set(config: dict[str, Any], data: "VideoDataModule") -> dict[str, Any]:
    """The configuration with a number for each ``auto``, which is said with its reason.

    A run saves the numbers, so that one that is resumed goes on with them.

    Args:
        config: Resolved.
        data: Set up for ``fit``.

    Raises:
        UserError: If a value cannot be ``auto`` here.
    """
    from vivit_train.devices import count_processes

    asked = keys_to_fit(config)
    if not asked:
        return config
    processes = count_processes(config["trainer"])
    training_set = TrainingSet(len(data.records["train"]), data.class_names, processes)
    config = copy.deepcopy(config)
    for key in asked:
        value, reason = RULES[key](config, training_set)
        group, name = key.split(".")
        config[group][name] = value
        if is_rank_zero():
            say(f"{key}={value:g}: {reason}", file=sys.stderr)
    check_schedule(config)
    return config


def keys_to_fit(config: Mapping[str, Any]) -> list[str]:
    """The keys that are ``auto`` and become numbers, in the order in which they do."""
    groups = {key: key.split(".") for key in RULES}
    return [key for key, (group, name) in groups.items() if config[group].get(name) == AUTO]


def without_auto(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a number for each ``auto`` of the data, for what needs no training set."""
    groups = {name: dict(config[name]) for name in ("data", "augment")}
    for group in groups.values():
        group.update({k: v for k, v in WITHOUT_SET.items() if group.get(k) == AUTO})
    return {**config, **groups}


def steps_per_epoch(config: Mapping[str, Any], training_set: TrainingSet) -> int:
    """Optimiser steps that a batch and an accumulation make of a set, at least 1."""
    accumulate = config["trainer"]["accumulate_grad_batches"]
    per_step = config["data"]["batch_size"] * accumulate * training_set.processes
    return max(1, training_set.clips // per_step)


def batch_size(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[int, str]:
    """Clips per step of one process."""
    clips = min(CLIPS_PER_STEP, training_set.clips) // training_set.processes
    return max(1, clips), f"{CLIPS_PER_STEP} clips per step are enough for a steady gradient"


def max_epochs(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[int, str]:
    """As long as large sets are trained, and on a small one until there were enough steps."""
    per_epoch = steps_per_epoch(config, training_set)
    epochs = max(EPOCHS, -(-LEAST_STEPS // per_epoch))
    steps = epochs * per_epoch
    return epochs, f"{training_set.clips} clips are {per_epoch} steps per epoch, {steps} in all"


def warmup_epochs(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[float, str]:
    """A share of the run."""
    share = WARMUP_SHARE * config["trainer"]["max_epochs"]
    return share, f"the rate rises over {WARMUP_SHARE:.0%} of the run"


def lr(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[float, str]:
    """The wider the model, the lower its rate.

    Raises:
        UserError: For another optimiser than AdamW.
    """
    if config["optim"]["name"] != "adamw":
        raise UserError(f"optim.lr=auto is for adamw; give optim={config['optim']['name']} a rate")
    width = config["model"]["hidden_size"]
    return LR * WIDTH / width, f"{LR:g} x {WIDTH} / model.hidden_size={width}"


def ema_decay(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[float, str]:
    """An average over the last steps of the run, which are few on a small set."""
    steps = steps_per_epoch(config, training_set) * config["trainer"]["max_epochs"]
    averaged = max(2, min(MOST_AVERAGED, round(AVERAGED_SHARE * steps)))
    return 1 - 1 / averaged, f"what is evaluated is an average over about {averaged} steps"


def horizontal_flip(config: Mapping[str, Any], training_set: TrainingSet) -> tuple[float, str]:
    """Off, unless it is known what a flip makes of each class."""
    if config["augment"]["flip_labels"]:
        return 0.5, "augment.flip_labels says what it makes of each class"
    return 0.0, "mirrored motion may be another class"


# In the order in which they build on each other.
RULES: dict[str, Callable[[Mapping[str, Any], TrainingSet], tuple[float, str]]] = {
    "data.batch_size": batch_size,
    "trainer.max_epochs": max_epochs,
    "optim.warmup_epochs": warmup_epochs,
    "optim.lr": lr,
    "callbacks.ema_decay": ema_decay,
    "augment.horizontal_flip": horizontal_flip,
}
