"""Whether a run has steps enough."""

from typing import Any

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.preflight.finding import Finding
from vivit_train.recipe.preset import LEAST_STEPS, TrainingSet, steps_per_epoch, total_steps

# Of the steps that a small set is given where they may be chosen: fewer are seldom enough.
ENOUGH = 0.4


def of_the_steps(config: dict[str, Any], data: VideoDataModule) -> Finding:
    """The optimiser steps of a run on one device, beside those that fine-tuning needs.

    Args:
        config: The resolved configuration, without ``auto``.
        data: Set up for ``fit``.
    """
    clips = len(data.records["train"])
    training_set = TrainingSet(clips, data.class_names)
    per_epoch = steps_per_epoch(config, training_set)
    steps = total_steps(config, training_set)
    text = f"{steps} in all, {per_epoch} per epoch"
    if steps >= ENOUGH * LEAST_STEPS:
        return Finding("ok", "steps", text)
    epochs = -(-LEAST_STEPS // per_epoch)
    cure = f"trainer.max_epochs={epochs} trainer.max_steps=-1 gives {epochs * per_epoch}"
    return Finding("warn", "steps", f"{text}: too few to learn from {clips} clips; {cure}")
