"""The usual mistakes of fine-tuning, found before they cost a night."""

import sys
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vivit_train.class_names import mirrored_pair, shorten
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.io.terminal import say
from vivit_train.preflight.recordings import of_the_recordings
from vivit_train.recipe.preset import CLIPS_PER_STEP, IMBALANCE, LR_RANGES


def advice(config: dict[str, Any], data: VideoDataModule, world_size: int = 1) -> list[str]:
    """What a colleague would say about a run that is about to start.

    Args:
        config: The resolved configuration.
        data: Set up for ``fit``.
        world_size: Processes that train together.

    Returns:
        A sentence or two for each finding, each with its cure; empty if there is none.
    """
    return [
        *_of_the_batch(config, world_size),
        *_of_the_rate(config),
        *_of_the_flip(config, data),
        *_of_the_classes(config, data),
        *of_the_recordings(data),
    ]


@rank_zero_only
def say_advice(config: dict[str, Any], data: VideoDataModule, world_size: int) -> None:
    """Prints the `advice` on a run that is about to start."""
    for line in advice(config, data, world_size):
        say(f"advice: {line}", file=sys.stderr)


def _of_the_batch(config: dict[str, Any], world_size: int) -> list[str]:
    accumulate = config["trainer"]["accumulate_grad_batches"]
    clips = config["data"]["batch_size"] * accumulate * world_size
    if clips >= CLIPS_PER_STEP:
        return []
    factor = -(-CLIPS_PER_STEP * accumulate // clips)
    return [
        f"an optimiser step sees only {clips} clips (data.batch_size="
        f"{config['data']['batch_size']} x trainer.accumulate_grad_batches={accumulate} x "
        f"{world_size} processes), and its gradient is mostly noise: "
        f"trainer.accumulate_grad_batches={factor} makes it {clips * factor // accumulate}"
    ]


def _of_the_rate(config: dict[str, Any]) -> list[str]:
    name, rate = config["optim"]["name"], config["optim"]["lr"]
    low, high = LR_RANGES.get(name, (0.0, float("inf")))
    if low <= rate <= high:
        return []
    return [
        f"optim.lr={rate:g} is far from rates that train a ViViT with {name}, {low:g} to {high:g}: "
        "was it meant for the other optimiser (optim=sgd, optim=adamw)?"
    ]


def _of_the_flip(config: dict[str, Any], data: VideoDataModule) -> list[str]:
    probability = config["augment"]["horizontal_flip"]
    if not probability or config["augment"]["flip_labels"]:
        return []
    pair = mirrored_pair(data.class_names)
    if pair is None:
        return []
    return [
        f"augment.horizontal_flip={probability:g} turns videos of {pair[0]!r} into {pair[1]!r} and "
        "keeps their label: set augment.horizontal_flip=0, or have it swap such classes with "
        "augment.flip_labels"
    ]


def _of_the_classes(config: dict[str, Any], data: VideoDataModule) -> list[str]:
    if data.heads:  # hundreds of classes, most of them rare by nature
        return []
    counts = data.records["train"].class_counts(len(data.class_names))
    lines = []
    for number, what, cure in (
        (0, "no training video", "the model cannot learn them: add videos, or remove the classes"),
        (1, "one training video", "one says nothing about a class: add more"),
    ):
        names = [data.class_names[k] for k in np.flatnonzero(counts == number)]
        if names:
            lines.append(f"{len(names)} classes have {what}, {shorten(names)}: {cure}")
    # Multi-label neither is possible, and the mean average precision counts all classes alike.
    balances = config["data"]["class_sampling"] or config["optim"]["class_weights"]
    if (
        not data.multi_label
        and counts.min() > 1
        and counts.max() > IMBALANCE * counts.min()
        and not balances
    ):
        lines.append(
            f"the classes are uneven, from {counts.min()} training videos "
            f"({data.class_names[counts.argmin()]}) to {counts.max()} "
            f"({data.class_names[counts.argmax()]}): the model may never find the rare ones. "
            "data.class_sampling=1.0 trains on each class equally often, 0.5 goes half the way; "
            "callbacks.monitor=val/mean_class_accuracy chooses the best checkpoint by all classes "
            "alike, where top-1 can hide one that is never found"
        )
    return lines
