"""What a resumed run must know of the run that it continues: read once, checked, passed on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from lightning import Trainer

from vivit_train.config.changes import check_changes, differences, values
from vivit_train.config.saved import saved_config
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of
from vivit_train.io.layout import (
    NEEDED,
    CheckpointContent,
    MetricsPosition,
    Position,
    SplitDigests,
    run_of,
)
from vivit_train.model.weights.checkpoint import weights_of
from vivit_train.model.weights.files import read_tensors
from vivit_train.runs.loggers import MetricsCsv
from vivit_train.runs.splits import check_same_videos, check_task


@dataclass(frozen=True)
class Begun:
    """A run as its checkpoint tells it, without the weights and the state of the training.

    Attributes:
        checkpoint: The file, from which Lightning loads those.
        global_step: Optimiser steps done.
        position: Where it stands in the epoch.
        metrics: How far its metrics.csv was.
        splits: Which videos it had; ``None``: an older version did not say.
        class_names: In the order of the head's rows.
        multi_label: Whether a video has any number of them.
        config: Its configuration; empty where the checkpoint has none.
    """

    checkpoint: Path
    global_step: int
    position: Position
    metrics: MetricsPosition
    splits: SplitDigests | None
    class_names: list[str]
    multi_label: bool
    config: dict[str, Any]

    @property
    def run_dir(self) -> Path:
        """Its folder."""
        return run_of(self.checkpoint)


def read_begun(path: Path) -> Begun:
    """Reads and checks what a checkpoint says, and leaves its tensors on the disk.

    Args:
        path: The checkpoint. Its checksums are compared before, by `resume`.

    Raises:
        UserError: If training cannot resume from it, naming what is missing or no run writes.
    """
    content = read_tensors(path, verify=False)
    weights = weights_of(path, content)
    _check_state(path, content)
    if weights.config:
        saved_config(weights.config, str(path))
    saved: CheckpointContent = content
    metrics = saved.get("metrics_csv")
    if metrics is None:
        raise UserError(
            f"ckpt_path={path} does not hold the position in its training, as checkpoints of "
            "this version do: start a new run from its weights with model.pretrained"
        )
    return Begun(
        checkpoint=path,
        global_step=saved["global_step"],
        position=saved["position"],
        metrics=metrics,
        splits=saved.get("splits"),
        class_names=weights.class_names or [],
        multi_label=weights.multi_label,
        config=weights.config or {},
    )


def _check_state(path: Path, content: dict[str, Any]) -> None:
    """Refuses a checkpoint that lacks what training needs, or holds what no run writes."""
    kinds = get_type_hints(CheckpointContent)
    there = [name for name in kinds if name in NEEDED or content.get(name) is not None]
    wrong = [name for name in there if not is_of(content.get(name), kinds[name])]
    wrong += [
        name
        for name, is_sound in SOUND.items()
        if name in there and name not in wrong and not is_sound(content[name])
    ]
    if wrong:
        raise UserError(
            f"{path} is not a checkpoint that training resumes from: {', '.join(wrong)} is "
            "missing, of another type, or has numbers that no run writes. To start a new run from "
            "its weights use model.pretrained"
        )


def _has_counts(loops: dict[str, Any]) -> bool:
    """Whether the counts of Lightning's loops are counts: Lightning takes any value."""
    counts = ("ready", "started", "processed", "completed")
    return all(
        _is_count(value) if name in counts else not isinstance(value, dict) or _has_counts(value)
        for name, value in loops.items()
    )


def _is_count(value: Any) -> bool:
    return is_of(value, int) and value >= 0


def _is_position(position: Position) -> bool:
    """Whether a run can stand there: within an epoch, and all numbers are of whole batches."""
    batch, done = position["videos_per_batch"], position["videos_done"]
    step, epoch = position["videos_per_step"], position["videos_per_epoch"]
    in_batches = position.get("in_batches", {})
    return (
        min(batch, step, epoch, *in_batches.values()) > 0
        and not any(videos % batch for videos in (done, step, epoch))
        and 0 <= done < epoch
        and position["epoch"] >= 0
    )


# Of what a checkpoint holds in the right types, whether its numbers are those of a run.
SOUND: dict[str, Callable[[Any], bool]] = {
    "global_step": _is_count,
    "loops": _has_counts,
    "position": _is_position,
    "metrics_csv": lambda metrics: (
        _is_count(metrics["rows"])
        and (metrics["next"] is None or _is_count(metrics["next"].get("step")))
    ),
    "given_up": lambda videos: all(
        is_of(entry, list[Any]) and len(entry) == 2 and _is_count(entry[0])
        for entry in videos.values()
    ),
}


def check_resumable(begun: Begun, config: dict[str, Any], data: VideoDataModule) -> None:
    """Refuses to resume with what the run was not trained with.

    Args:
        begun: The run.
        config: The resolved configuration to resume with.
        data: Set up.

    Raises:
        UserError: Naming the classes, settings or videos that differ.
    """
    if begun.class_names != data.class_names:
        lost = sorted(set(begun.class_names) ^ set(data.class_names))[:8]
        raise UserError(
            f"ckpt_path={begun.checkpoint} was trained on other classes than the data set has: "
            f"{', '.join(lost) if lost else 'the same names in another order'}. Resume with the "
            "run's own data; to start a new run from its weights use model.pretrained"
        )
    check_task(begun.multi_label, data, f"ckpt_path={begun.checkpoint}")
    # The run's config.yaml may have been changed by hand. Another version may have had other keys,
    # and kept the ~ of a path, which is not read again.
    shared = dict(values(begun.config)).keys() & dict(values(config)).keys() - {"model.pretrained"}
    changes = differences(begun.config, config)
    changed = {key: told for key, told in changes.items() if key in shared}
    check_changes(changed, f"ckpt_path={begun.checkpoint}")
    fixed = ("optim.", "trainer.max_epochs", "trainer.max_steps")
    told = [change for key, change in changed.items() if key.startswith(fixed)]
    if config["optim"].get("schedule") and told:
        raise UserError(
            f"ckpt_path={begun.checkpoint} has the state of optim.schedule, which fits these rates "
            f"and this length alone: leave as it was {'; '.join(told)}, or start a new run from "
            "its weights with model.pretrained"
        )
    check_same_videos(begun.splits, data, begun.run_dir, config["allow_other_videos"])


def resume_metrics(begun: Begun, trainer: Trainer) -> None:
    """Has metrics.csv continue with the row that comes after those of the checkpoint."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCsv):
            logger.resume(begun.metrics["rows"], begun.metrics["next"])
