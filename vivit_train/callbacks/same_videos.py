"""Whether a resumed run, and each of its processes, trains and validates on the same videos."""

import sys
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError
from vivit_train.io.layout import CheckpointContent, SplitDigest
from vivit_train.runs.splits import ROLES, difference, digests, video_names, write_videos


class SameVideos(Callback):
    """Compares the splits of all processes, and keeps their digests in the checkpoints.

    All take their clips as the first does.

    Processes whose splits differ would train on other videos than meant, or wait for each other
    for ever where one has fewer batches.

    Args:
        run_dir: The run's folder.
        writes: Whether to write the names of the videos into it when training begins.
    """

    def __init__(self, run_dir: Path, writes: bool) -> None:
        self.run_dir = run_dir
        self.writes = writes
        self._splits: dict[str, SplitDigest] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives every process the sampling of the first, and compares their splits with its own.

        Raises:
            UserError: Naming the processes and what differs.
        """
        data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
        data.sampling = trainer.strategy.broadcast(data.sampling)  # measured by the first alone
        self._splits = digests(data)
        if trainer.world_size > 1:
            _check_processes(data, self._splits, trainer.global_rank, trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes videos.json.gz."""
        if self.writes and trainer.is_global_zero:
            data: VideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
            write_videos(self.run_dir, data, self._splits)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the digests of the training and the validation split."""
        train, val = (self._splits[role] for role in ROLES)
        cast(CheckpointContent, checkpoint)["splits"] = {"train": train, "val": val}


def _check_processes(
    data: VideoDataModule, splits: dict[str, SplitDigest], rank: int, world_size: int
) -> None:
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, (splits, data.class_names))
    different = [other for other in range(world_size) if everyone[other] != everyone[0]]
    if not different:
        return
    # All processes get here. The names of the first are sent only where something differs.
    first = [{role: video_names(data, role) for role in splits}]
    dist.broadcast_object_list(first, src=0)
    told = [
        f"{role}: {difference(theirs, video_names(data, role))}"
        for role, theirs in first[0].items()
        if splits[role] != everyone[0][0][role]
    ] or ["other class names"]
    dist.all_gather_object(everyone, "; ".join(told))
    if rank != 0:
        sys.exit(1)  # the first one says it
    listed = "; ".join(f"process {other} ({everyone[other]})" for other in different[:3])
    raise UserError(
        f"{data.name}: {len(different)} of {world_size} processes have other videos than the first "
        f"one: {listed}. All machines must see the same files under data.root={data.root}"
    )
