"""Training that adapts to the training set: each `auto` of the configuration becomes a number."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vivit_train.class_names import mirrored_pair
from vivit_train.config import check_schedule
from vivit_train.config.keys import AUTO
from vivit_train.errors import UserError
from vivit_train.io.terminal import is_rank_zero, say
from vivit_train.video.sampling import SPACINGS

if TYPE_CHECKING:
    from vivit_train.data.datamodule import VideoDataModule

Config = Mapping[str, Any]

# Clips per optimiser step: with fewer the gradient is mostly noise.
CLIPS_PER_STEP = 16
# Learning rates at which each optimiser has been seen to train a ViViT: the paper's and
# Scenic's for SGD, those of fine-tuning and of training from scratch for AdamW, and a factor of ten
# on either side.
LR_RANGES = {"sgd": (1e-3, 2.0), "adamw": (1e-6, 1e-2)}
# A run has so many epochs, or so many steps where these are more; and so many validations.
EPOCHS, LEAST_STEPS, VALIDATIONS = 30, 1000, 30
# Of the run, over which the learning rate rises.
WARMUP_SHARE = 0.1
# AdamW's rate for the head of a model of this width, with `CLIPS_PER_STEP`.
LR, WIDTH = 5e-4, 768
# Steps that the average of the weights looks back over: of all a share, and the most.
AVERAGED_SHARE, MOST_AVERAGED = 0.1, 100
# Training sets of so many clips get what is usual for large ones.
LARGE = 10_000
# How many times as many videos another class has before a class counts as rare.
IMBALANCE = 10


class TrainingSet(NamedTuple):
    """What the numbers follow from.

    Attributes:
        clips: Training videos.
        class_names: Their classes.
        processes: Processes that train together.
        most_clips: Clips in a step of one process for which its device has memory.
        val_clips: Validation videos.
        class_counts: Training videos of each class; empty where a video has several labels.
    """

    clips: int
    class_names: list[str]
    processes: int = 1
    most_clips: int = CLIPS_PER_STEP
    val_clips: int = LARGE
    class_counts: Sequence[int] = ()


def fit_to_set(config: dict[str, Any], data: "VideoDataModule") -> dict[str, Any]:
    """The configuration with a number for each ``auto``; the reason is printed.

    A run saves the numbers, so that a resumed run keeps them.

    Args:
        config: Resolved.
        data: Set up for ``fit``.

    Raises:
        UserError: If a value cannot be ``auto`` here, or the run would end within its warm-up.
    """
    asked = keys_to_fit(config)
    if not asked:
        return config
    from vivit_train.describe.memory import most_clips
    from vivit_train.launch.devices import count_processes

    several = bool(data.heads) or data.multi_label
    training_set = TrainingSet(
        len(data.records["train"]),
        data.class_names,
        count_processes(config["trainer"]),
        most_clips(config, CLIPS_PER_STEP) if "data.batch_size" in asked else CLIPS_PER_STEP,
        len(data.records.get("val", ())) or LARGE,
        [] if several else data.class_counts("data.class_sampling").tolist(),
    )
    config, reasons = fit(config, training_set)
    for key, reason in reasons.items() if is_rank_zero() else ():
        group, name = key.split(".")
        say(f"{key}={config[group][name]:g}: {reason}", file=sys.stderr)
    check_schedule(config)
    return config


def fit(config: Config, training_set: TrainingSet) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration with a number for each ``auto``, and for each of these keys the reason.

    Raises:
        UserError: If a value cannot be ``auto`` here.
    """
    fitted, reasons = copy.deepcopy(dict(config)), {}
    for key in keys_to_fit(config):
        group, name = key.split(".")
        fitted[group][name], reasons[key] = RULES[key](fitted, training_set)
    return fitted, reasons


def without_auto(config: Config) -> dict[str, Any]:
    """The configuration as a large set would have it, for what needs no training set.

    How clips are taken is left open (null) where a run would measure it.
    """
    fitted = fit(config, TrainingSet(LARGE, []))[0]
    if fitted["data"].get("sampling") == AUTO:
        fitted["data"]["sampling"] = None
    return fitted


def keys_to_fit(config: Config) -> list[str]:
    """The keys that are ``auto`` and become numbers, in the order in which they do."""
    parts = {key: key.split(".") for key in RULES}
    return [key for key, (group, name) in parts.items() if config[group].get(name) == AUTO]


def left_open(config: Config) -> list[str]:
    """The keys to which a new run gives values: `keys_to_fit`, and what pretrained weights tell.

    These are the processor's settings that are null, and how clips are taken where nothing says it
    or it is measured.
    """
    data = config["data"]
    measured = data.get("sampling") == AUTO
    is_spaced = data.get("sampling") == "whole" or any(data.get(name) for name in SPACINGS)
    clips = ["sampling"] if is_spaced and not measured else [*SPACINGS, "sampling"]
    return [
        *keys_to_fit(config),
        *(f"data.{name}" for name in clips if measured or data.get(name) is None),
        *(f"processor.{name}" for name, value in config["processor"].items() if value is None),
    ]


def keep_begun(config: Any, begun: Config) -> None:
    """Gives what a configuration leaves open the values of the run that it resumes.

    Args:
        config: Plain, or as Hydra composed it; it is changed.
        begun: The run's own.
    """
    for key in left_open(config):
        group, name = key.split(".")
        if name in begun.get(group, {}):
            config[group][name] = begun[group][name]


def steps_per_epoch(config: Config, training_set: TrainingSet) -> int:
    """Optimiser steps of an epoch, as the sampler cuts it; 1 or more."""
    from vivit_train.data.sampler import limited

    videos = config["data"]["batch_size"] // config["augment"]["repeats"]
    accumulate, limit = (
        config["trainer"][name] for name in ("accumulate_grad_batches", "limit_train_batches")
    )
    batches = training_set.clips // max(1, videos * training_set.processes)
    batches = limited(
        batches // accumulate * accumulate or batches, 1.0 if limit is None else limit
    )
    return max(1, -(-batches // accumulate))


def total_steps(config: Config, training_set: TrainingSet) -> int:
    """Optimiser steps of the run, of which ``trainer.max_epochs`` is known."""
    epochs, most = config["trainer"]["max_epochs"], config["trainer"]["max_steps"]
    ends = [most] if most > 0 else []
    ends += [epochs * steps_per_epoch(config, training_set)] if epochs > 0 else []
    return min(ends, default=LEAST_STEPS)


def clips_per_step(config: Config, training_set: TrainingSet) -> int:
    """Clips of all processes and accumulated batches in an optimiser step."""
    accumulated = config["trainer"]["accumulate_grad_batches"]
    return config["data"]["batch_size"] * accumulated * training_set.processes


def batch_size(config: Config, training_set: TrainingSet) -> tuple[int, str]:
    """Clips per step of one process: a power of two that memory and the set allow."""
    accumulated = config["trainer"]["accumulate_grad_batches"]
    parts = training_set.processes * (1 if accumulated == AUTO else accumulated)
    share = min(CLIPS_PER_STEP, training_set.clips) // parts
    value = _power_of_two(min(share, training_set.most_clips))
    if training_set.most_clips < share:
        return value, f"the device has memory for about {training_set.most_clips} clips at a time"
    return value, f"a step should see {CLIPS_PER_STEP} clips, or as many as the set has"


def accumulate_grad_batches(config: Config, training_set: TrainingSet) -> tuple[int, str]:
    """Batches that make up the clips of an optimiser step, of all processes."""
    batch = config["data"]["batch_size"] * training_set.processes
    value = max(1, _power_of_two(min(CLIPS_PER_STEP, training_set.clips)) // batch)
    return (
        value,
        f"an optimiser step sees {value * batch} clips; of fewer its gradient is mostly noise",
    )


def max_epochs(config: Config, training_set: TrainingSet) -> tuple[int, str]:
    """As many epochs as large sets get; on a small set more, until there are enough steps."""
    if config["trainer"]["max_steps"] > 0:
        return -1, "trainer.max_steps says when the run ends"
    per_epoch = steps_per_epoch(config, training_set)
    epochs = max(EPOCHS, -(-LEAST_STEPS // per_epoch))
    every = epochs // VALIDATIONS
    epochs = -(-epochs // every) * every  # the last epoch is validated
    least = f"; a small set needs {LEAST_STEPS}" if epochs > EPOCHS else ""
    told = f"{training_set.clips} clips are {per_epoch} steps per epoch"
    return epochs, f"{told}, {epochs * per_epoch} in all{least}"


def check_val_every_n_epoch(config: Config, training_set: TrainingSet) -> tuple[int, str]:
    """Rarely enough that short epochs do not spend most of the time on validation."""
    epochs = config["trainer"]["max_epochs"]
    if epochs < 0:
        epochs = total_steps(config, training_set) // steps_per_epoch(config, training_set)
    most = max(1, epochs // VALIDATIONS)
    every = next(n for n in range(most, 0, -1) if epochs % n == 0)
    return every, f"{epochs // every} validations, the last of them at the end"


def warmup_epochs(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """A share of the run, however long that is."""
    epochs = total_steps(config, training_set) / steps_per_epoch(config, training_set)
    return WARMUP_SHARE * epochs, f"the learning rate rises over {WARMUP_SHARE:.0%} of the run"


def lr(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """The rate that is known for ViT-B, for another width and another number of clips.

    The rate of Adam at which layers learn equally fast falls as their width grows (Tensor Programs
    V, arXiv 2203.03466), and rises with the square root of the batch (arXiv 2205.10287).

    Raises:
        UserError: For another optimiser than AdamW.
    """
    if config["optim"]["name"] != "adamw":
        raise UserError(
            f"optim.lr=auto is known for adamw alone: give optim.lr a number for optim="
            f"{config['optim']['name']}"
        )
    width, clips = config["model"]["hidden_size"], clips_per_step(config, training_set)
    value = float(f"{LR * WIDTH / width * (clips / CLIPS_PER_STEP) ** 0.5:.2g}")
    return value, (
        f"{LR:g} for width {WIDTH} and {CLIPS_PER_STEP} clips per step; more for a narrower model "
        f"(this one: {width}), less for smaller steps ({clips})"
    )


def ema_decay(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """An average over the end of the run, which is soon reached on a small set."""
    steps = total_steps(config, training_set)
    averaged = max(2, min(MOST_AVERAGED, round(AVERAGED_SHARE * steps)))
    return (
        round(1 - 1 / averaged, 3),
        f"the averaged weights are of about the last {averaged} of {steps} steps",
    )


def score_tolerance(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """The standard error of a share of videos, which is largest at one half."""
    if config["callbacks"]["monitor"] == "val/loss":
        return 0.0, "the lowest val/loss is best"
    videos = training_set.val_clips
    return float(f"{0.5 / videos**0.5:.2g}"), (
        f"on {videos} validation videos a score is not known more exactly; of scores this near to "
        "the highest the latest is best"
    )


def class_sampling(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """Each class equally often where one is so rare that a run may never find it."""
    if not training_set.class_counts:
        return 0.0, "videos with several labels are drawn as they are"
    if config["optim"]["class_weights"] is not None:
        return 0.0, "optim.class_weights balances the classes"
    counts = [count for count in training_set.class_counts if count]
    least, most = min(counts), max(counts)
    if most <= IMBALANCE * least:
        return 0.0, f"no class has more than {IMBALANCE} times the videos of another"
    return 1.0, (
        f"a class has {least} training videos and another {most}: drawn as they are, a run may "
        "never find the rare one. callbacks.monitor=val/mean_class_accuracy also chooses the best "
        "checkpoint by all classes alike"
    )


def horizontal_flip(config: Config, training_set: TrainingSet) -> tuple[float, str]:
    """Off, unless flips are known to keep the class: others cost more than they gain."""
    if config["augment"]["flip_labels"]:
        return 0.5, "augment.flip_labels says what a flip makes of each class"
    pair = mirrored_pair(training_set.class_names)
    if pair:
        return 0.0, f"a flip turns videos of {pair[0]!r} into {pair[1]!r}"
    if training_set.clips >= LARGE:
        return 0.5, "usual for large sets, and no names say that a mirror makes another class"
    return 0.0, (
        "a flip may turn a motion into another class, which costs more than flips gain; set 0.5 "
        "where left and right do not matter (`vivit doctor` measures it)"
    )


# In the order in which they build on each other.
RULES: dict[str, Callable[[Config, TrainingSet], tuple[float, str]]] = {
    "data.class_sampling": class_sampling,
    "data.batch_size": batch_size,
    "trainer.accumulate_grad_batches": accumulate_grad_batches,
    "trainer.max_epochs": max_epochs,
    "trainer.check_val_every_n_epoch": check_val_every_n_epoch,
    "optim.warmup_epochs": warmup_epochs,
    "optim.lr": lr,
    "callbacks.ema_decay": ema_decay,
    "callbacks.score_tolerance": score_tolerance,
    "augment.horizontal_flip": horizontal_flip,
}


def _power_of_two(most: int) -> int:
    """The largest that is not above, and at least 1."""
    return 1 << max(0, most.bit_length() - 1)
